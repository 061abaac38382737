"""The report's page and its tables: one file that holds everything, and asks for nothing."""

import html.parser
import os
import re
from dataclasses import replace

import numpy as np
import pytest
from report_figures import curves, three_examples

from npadv.report import Section, Table, format_table, render_page, write_page


class Reader(html.parser.HTMLParser):
    """Collect the tags of a page, and complain about one that is left open."""

    VOID = frozenset({"meta", "link", "img", "br"})

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


TABLE = Table(["model", "error"], [["softmax", "99.9%"], ["RBF", None]], "FGSM, ε = 0.25")


def page(**changes):
    sections = [
        Section("Examples", "One paragraph.\n\nAnother.", three_examples(), "Three digits."),
        Section("Curves", figure=curves(), alt="Two curves."),
        Section("Numbers", table=TABLE),
    ]
    arguments = {"title": "Results", "summary": "Short.", "sections": sections, "table": TABLE}
    return render_page(**(arguments | {"facts": {"seed": 0, "versions": {"numpy": "2.0"}}} | changes))


def test_the_page_holds_everything_and_asks_for_nothing():
    text = page()
    reader = Reader(text)
    assert text.startswith("<!doctype html>")
    assert reader.all("html") == [{"lang": "en"}]
    assert [len(reader.all(tag)) for tag in ("h1", "h2", "figure", "table", "img", "script")] == [1, 4, 4, 2, 2, 0]
    for tag, attributes in reader.tags:
        for name in ("src", "href", "srcset", "data", "action"):
            assert attributes.get(name, "data:").startswith("data:"), (tag, attributes)
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"url\(|@import", text)
    policy = next(meta["content"] for meta in reader.all("meta") if "http-equiv" in meta)
    assert policy.startswith("default-src 'none'")


def test_every_image_has_words_and_a_size():
    images = Reader(page()).all("img")
    assert images[0]["alt"].startswith("3 images, each clean")
    assert images[1]["alt"] == "Two curves."
    assert all(int(image["width"]) > 300 and int(image["height"]) > 100 for image in images)


def test_everything_inserted_is_escaped():
    evil = '<script>alert("1")</script>'
    table = Table([evil], [[evil]], evil)
    section = Section(evil, evil, curves(), evil, evil, table)
    text = page(title=evil, summary=evil, sections=[section], table=table, facts={evil: {evil: [evil]}})
    reader = Reader(text)
    assert not reader.all("script")
    assert "<script" not in text
    assert reader.all("img")[0]["alt"] == evil
    assert "".join(reader.text).count(evil) >= 10


def test_numbers_are_aligned_and_facts_stand_at_the_foot():
    reader = Reader(page())
    assert [cell.get("class") for cell in reader.all("td")] == ["number"] * 4
    assert [cell.get("class") for cell in reader.all("th")[:2]] == [None, "number"]
    assert "numpy 2.0" in reader.text


def test_a_page_of_words_alone():
    reader = Reader(render_page(title="Results", summary="", sections=[]))
    assert [len(reader.all(tag)) for tag in ("h1", "h2", "footer", "figure")] == [1, 0, 0, 0]


def test_a_page_that_fails_leaves_the_old_one(tmp_path):
    path = tmp_path / "index.html"
    write_page(path, title="Old", summary="", sections=[])
    old = path.read_bytes()
    figure = curves()
    figure.savefig = lambda *_, **__: 1 / 0
    with pytest.raises(ZeroDivisionError):
        write_page(path, title="New", summary="", sections=[Section("Planted", figure=figure)])
    assert path.read_bytes() == old
    assert os.listdir(tmp_path) == ["index.html"]


def test_sections_are_values():
    section = Section("a", "b")
    assert replace(section, title="c") == Section("c", "b")
    with pytest.raises(AttributeError):
        section.title = "d"


# Numbers as text -----------------------------------------------------------------------------------------------------


def test_a_table_lines_up():
    table = Table(["model", "l2", "steps"], [["maxout", 1.25, 40], ["RBF", 0.5, 1000], ["ε-net", None, np.int64(7)]])
    assert format_table(table).split("\n") == [
        "model     l2  steps",
        "-------------------",
        "maxout  1.25     40",
        "RBF     0.50   1000",
        "ε-net      –      7",
    ]


def test_a_table_without_rows_is_its_headings():
    assert format_table(Table(["a", "bc"], [])) == "a  bc\n-----"


@pytest.mark.parametrize(
    "cell", ["97.3%", "< 0.1", "−0.25", "3.1 ± 0.2", "1e-7", "10,000", "12 s", "1.5 ms", "20–30", 3, 2.5]
)
def test_numbers_are_known_for_numbers(cell):
    assert Table(["x"], [[cell]]).numeric == [True]


@pytest.mark.parametrize("cell", ["maxout", "2 hidden layers", "L-BFGS", "ε = 0.25", None, "3 and 4"])
def test_words_are_not_numbers(cell):
    assert Table(["x"], [[cell]]).numeric == [False]
