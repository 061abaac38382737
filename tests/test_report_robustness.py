"""The drawings of measured robustness: what is drawn is what came in."""

import html.parser

import numpy as np
import pytest

from npadv.report import (
    checks_table,
    church_grid,
    church_section,
    distance_curves,
    distances_section,
    heat_table,
    masking_section,
    norm_grid,
    norms_section,
    png,
    render_page,
    robustness_section,
    transfer_section,
)
from npadv.report.church_windows import CLASSES
from npadv.report.palette import BLUE

RNG = np.random.default_rng(0)
RATES = np.array([[0.999, 0.164, np.nan], [0.347, 0.774, 0.0]])


def texts(figure):
    return [text.get_text() for text in figure.texts]


def pixels(figure):
    """Draw the figure; return it as an array (H, W, 4)."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def table(**changes):
    arguments = {"values": RATES, "rows": ["mlp", "conv"], "columns": ["mlp", "conv", "other"]}
    return heat_table(**(arguments | changes))


def quarters(side=20):
    """Return a window of four quarters: the true class 3, and 0, 1 and 2."""
    half = np.arange(side) >= side // 2
    return np.where(half[:, None], np.where(half, 2, 1), np.where(half, 0, 3))[None]


def church(**changes):
    return church_grid(**({"classes": quarters(), "true": [3], "eps": 0.25} | changes))


def norms(**changes):
    arguments = {"clean": np.full((6, 6), 0.5), "perturbation": np.full((2, 3, 6, 6), 0.25), "rows": list("abc")}
    return norm_grid(**(arguments | changes))


FIGURES = {
    "heat": (lambda: table(low=RATES, high=RATES, clean=[0.1, 0.2, 0.3]), 9),
    "church": (lambda: church(across="right", down="below"), 5),
    "many windows": (lambda: church_grid(RNG.integers(0, 12, (23, 5, 5)), np.arange(23) % 12, eps=1), 23 + 13),
    "distances": (lambda: distance_curves({"a": [0.1, np.inf], "b": [0.0, 0.2]}, xlabel="l2"), 1),
    "norms": (norms, 19),
    "norms in colour": (lambda: norms(clean=np.full((3, 6, 6), 0.5), perturbation=np.full((2, 3, 3, 6, 6), 0.1)), 19),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_draws_and_says_what_it_shows(name):
    make, axes = FIGURES[name]
    figure = make()
    assert len(figure.axes) == axes
    assert figure.get_label().endswith(".")
    assert png(figure).startswith(b"\x89PNG")
    inked = (pixels(figure)[..., :3].min(axis=2) < 250).any(axis=0)
    assert not inked[:1].any()  # nothing runs over the sheet's edges
    assert not inked[-1:].any()
    width, height = figure.bbox.size
    for text in figure.texts:
        box = text.get_window_extent()
        assert (min(box.x0, box.y0) > -1, box.x1 < width + 1, box.y1 < height + 1) == (True, True, True), text


def test_the_heat_table_states_every_number_and_shades_by_it():
    figure = table(low=RATES * 0.9, high=np.minimum(RATES * 1.1, 1), clean=[0.056, 0.027, 1.0])
    written = texts(figure)
    for text in (
        "5.6%",
        "2.7%",
        "100.0%",
        "99.9%",
        "16.4%",
        "–",
        "34.7%",
        "77.4%",
        "0.0%",
        "89.9 to 100.0",
        "14.8 to 18.0",
    ):
        assert written.count(text) == 1, text
    assert "mlp: mlp 99.9%, conv 16.4%, other –; conv: mlp 34.7%, conv 77.4%, other 0.0%." in figure.get_label()
    shades = [axes.get_facecolor()[:3] for axes in figure.axes]
    blue = np.array([int(BLUE[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    for shade, rate in zip(shades, [0.056, 0.027, 1.0, *np.nan_to_num(RATES.ravel())], strict=True):
        np.testing.assert_allclose(shade, 1 - rate * (1 - blue), atol=1 / 255)


def test_the_white_box_is_framed():
    wide = [max(spine.get_linewidth() for spine in axes.spines.values()) > 1 for axes in table().axes]
    assert wide == [True, False, False, False, True, False]
    named = heat_table([[0.5]], rows=["nothing"], columns=["nothing"], clean=[0.1])
    assert [max(s.get_linewidth() for s in axes.spines.values()) > 1 for axes in named.axes] == [False, True]


def test_windows_are_white_where_the_class_is_true():
    figure = church()
    image = figure.axes[0].images[0].get_array()
    rgb = lambda colour: [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]  # noqa: E731
    corners = image[0, 0], image[0, -1], image[-1, 0], image[-1, -1]  # row 0 on top, column 0 on the left
    for corner, expected in zip(corners, ("#ffffff", CLASSES[0], CLASSES[1], CLASSES[2]), strict=True):
        np.testing.assert_allclose(corner, rgb(expected))
    assert figure.axes[0].get_ylim() == (20, 0)
    assert sorted(text.get_text() for text in figure.axes[0].texts) == ["0", "1", "2", "3"]
    places = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    assert all(
        quarters()[0, int(y), int(x)] == int(name) for name, (x, y) in places.items()
    )  # each name stands in its own region
    assert [axes.get_facecolor()[:3] for axes in figure.axes[1:]] == [(1, 1, 1), *map(tuple, map(rgb, CLASSES[:3]))]
    assert {"the true class", "0", "1", "2", "−0.25", "+0.25"} <= set(texts(figure))
    assert "3" not in texts(figure)  # nowhere a wrong class


def test_the_first_row_is_drawn_on_top():
    figure = church(names=["long"] * 4)
    box = figure.axes[0].get_window_extent()
    drawn = pixels(figure)[::-1]  # from the bottom up, as the box is measured
    for (across, up), colour in {(0.25, 0.75): "#ffffff", (0.75, 0.75): CLASSES[0], (0.25, 0.25): CLASSES[1]}.items():
        pixel = drawn[round(box.y0 + up * box.height), round(box.x0 + across * box.width), :3]
        assert "#" + "".join(f"{part:02x}" for part in pixel) == colour


def test_numbers_are_legible_on_every_shade():
    def light(colour):
        parts = np.array([part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in colour])
        return parts @ [0.2126, 0.7152, 0.0722]

    from matplotlib.colors import to_rgb

    for rate in np.linspace(0, 1, 41):
        figure = heat_table([[rate]], rows=["a"], columns=["b"])
        number = next(text for text in figure.texts if text.get_text().endswith("%"))
        low, high = sorted((light(to_rgb(number.get_color())), light(figure.axes[0].get_facecolor()[:3])))
        assert (high + 0.05) / (low + 0.05) > 4, rate


def test_a_class_is_white_only_where_it_is_the_true_one():
    figure = church_grid(np.zeros((2, 4, 4), int), [0, 1], eps=1)
    first, second = (axes.images[0].get_array() for axes in figure.axes[:2])
    assert (first == 1).all()
    assert not (second == 1).all()


def test_black_lines_run_between_classes_and_nowhere_else():
    classes = np.random.default_rng(1).integers(0, 3, (7, 9))
    (lines,) = church(classes=classes[None], true=[0]).axes[0].collections
    segments = [[(int(x), int(y)) for x, y in segment] for segment in lines.get_segments()]
    for (x0, y0), (x1, y1) in segments:
        if x0 == x1:
            assert classes[y0, x0 - 1] != classes[y0, x0]
            assert y1 == y0 + 1
        else:
            assert classes[y0 - 1, x0] != classes[y0, x0]
            assert (x1, y1) == (x0 + 1, y0)
    assert len(segments) == (classes[:, 1:] != classes[:, :-1]).sum() + (classes[1:] != classes[:-1]).sum()
    np.testing.assert_array_equal(lines.get_color()[0][:3], (0, 0, 0))


def test_points_outside_are_hatched_and_no_others():
    outside = np.zeros((1, 20, 20), dtype=bool)
    outside[:, :, 15:] = True
    plain, hatched = (church(outside=value).axes[0].images[0].get_array() for value in (None, outside))
    changed = (plain != hatched).any(axis=2)
    fine = len(plain) // 20
    assert not changed[:, : 15 * fine].any()
    assert 0.2 < changed[:, 15 * fine :].mean() < 0.5


def test_a_name_stands_where_there_is_room():
    window = np.zeros((1, 9, 9), int)
    window[0, 2:7, 3:8] = 1
    places = {text.get_text(): text.get_position() for text in church(classes=window, true=[0]).axes[0].texts}
    assert places["1"] == (5.5, 4.5)  # the middle of its region
    alone = church(classes=np.zeros((1, 9, 9), int), true=[0]).axes[0].texts
    assert [text.get_position() for text in alone] == [(4.5, 4.5)]  # the window's edge is an edge
    small = quarters(40)
    small[0, 0, :] = 5  # a line of points has no room
    assert "5" not in [text.get_text() for text in church(classes=small, true=[3]).axes[0].texts]
    long = church(names=["one", "two", "three", "four"])
    assert not long.axes[0].texts
    assert {"one", "two", "three"} <= set(texts(long))


@pytest.mark.parametrize("count", [10, 43])
def test_every_class_has_its_own_colour(count):
    figure = church(classes=np.arange(count)[None, :, None].repeat(3, axis=2), true=[0])
    colours = [axes.get_facecolor() for axes in figure.axes[1:]]  # of the key: white, then the other classes
    assert len(set(colours)) == len(colours) == count


def test_distances_are_staircases_that_count_failures():
    figure = distance_curves({"net": [0.2, 0.0, 0.4, np.inf, 0.2]}, xlabel="l2")
    line = figure.axes[0].lines[0]
    assert line.get_drawstyle() == "steps-post"
    points = dict(zip(*line.get_data(), strict=True))
    assert points == {0.0: 20.0, 0.2: 60.0, 0.4: 80.0}
    assert figure.get_label() == "Share of examples broken, against l2; within 0.4: net 80.0%."
    assert figure.axes[0].get_xlim() == (0, 0.4)
    near = distance_curves({"net": [0.2, 0.0, 0.4, np.inf, 0.2]}, xlabel="l2", furthest=0.3)
    assert dict(zip(*near.axes[0].lines[0].get_data(), strict=True)) == {0.0: 20.0, 0.2: 60.0, 0.3: 60.0}
    never = distance_curves({"net": [np.inf, np.inf]}, xlabel="l2")
    assert set(never.axes[0].lines[0].get_ydata()) == {0.0}


def test_the_norms_are_measured_on_what_is_drawn():
    eta = np.zeros((2, 3, 6, 6))
    eta[0, :, 0, 0] = 0.6
    eta[1] = 0.1
    figure = norms(perturbation=eta, captions=[["x", "y", "z"], ["u", "v", "w"]])
    written = texts(figure)
    assert written.count(r"$\ell_2$ 0.60, $\ell_\infty$ 0.60") == 3
    assert written.count(r"$\ell_2$ 0.60, $\ell_\infty$ 0.10") == 3
    assert {"a", "b", "c", "x", "y", "z", "u", "v", "w"} <= set(written)
    assert "l2 norms 0.6 to 0.6; the max norms of the first three are 0.6 to 0.6, of the others 0.1 to 0.1" in (
        figure.get_label()
    )
    for g in range(2):
        for r in range(3):
            _, change, total = (axes.images[0].get_array() for axes in figure.axes[3 * (3 * g + r) :][:3])
            np.testing.assert_allclose(change, eta[g, r])
            np.testing.assert_allclose(total, np.clip(0.5 + eta[g, r], 0, 1))
    shown = figure.axes[2].images[0].get_array()
    assert shown[0, 0] == 1.0  # 1.1 is drawn white
    assert shown[1, 1] == 0.5


class Words(html.parser.HTMLParser):
    """Collect the text of a page."""

    def __init__(self, page):
        super().__init__()
        self.words = []
        self.feed(page)

    def handle_data(self, data):
        self.words.append(data)


def test_the_sections_make_a_page():
    sections = [
        transfer_section(
            RATES, rows=["mlp", "conv"], columns=["a", "b", "c"], attack="FGSM, ε = 0.25", counted="those it fooled"
        ),
        robustness_section({"net": ([0, 0.1], [1, 0.4])}, attack="FGSM", xlabel="ε", chance=0.1),
        distances_section({"net": [0.0, 0.3, 0.5, np.inf], "other": [np.inf, np.inf]}, attack="C&W", xlabel="l2"),
        church_section(quarters(), [3], eps=0.25, across="the sign", down="random"),
        norms_section(np.full((6, 6), 0.5), np.full((2, 3, 6, 6), 0.25), rows=list("abc")),
        masking_section(
            [("zero_gradients", True, "31% are zero"), ("noise_as_good", False, "fine")], caption="ε = 0.1"
        ),
    ]
    text = " ".join(Words(render_page(title="Robustness", summary="", sections=sections)).words)
    for words in ("FGSM, ε = 0.25; of those it fooled.", "zero gradients", "SUSPICIOUS", "not seen", "1 of 2 checks is",
                  "The classes around an example: the sign and random", "25.0%", "0.3", "100.0%"):  # fmt: skip
        assert words in text, words
    assert sections[2].table.cells == [["net", "4", "25.0%", "0.3", "25.0%"], ["other", "2", "0.0%", "–", "100.0%"]]
    assert masking_section([("a", False, "b")]).prose.startswith("None of 1 checks is suspicious.")
    assert masking_section([("a", True, "b"), ("c", True, "d")]).prose.startswith("2 of 2 checks are suspicious.")


BAD = {
    "rates": (lambda: table(values=RATES[:1]), r"^values has shape \(1, 3\); expected \(2, 3\)"),
    "percent": (lambda: table(values=100 * RATES), r"^values holds 99\.9; expected values in \[0, 1\]"),
    "one end": (lambda: table(low=RATES), r"^low and high come together; expected both or none"),
    "ends": (lambda: table(low=RATES[0], high=RATES[0]), r"^low has shape \(3,\); expected \(2, 3\)"),
    "clean": (lambda: table(clean=[0.1]), r"^clean has shape \(1,\); expected \(3,\)"),
    "no rows": (lambda: heat_table(np.zeros((0, 2)), rows=[], columns=["a", "b"]), r"^values has shape \(0, 2\)"),
    "windows": (lambda: church(classes=quarters()[0]), r"^classes is \(20, 20\) of int64; expected \(N, V, H\) integers"),
    "shares": (lambda: church(classes=quarters() * 0.5), r"^classes is \(1, 20, 20\) of float64"),
    "no class": (lambda: church(classes=quarters() - 1), r"^classes is \(1, 20, 20\) of int64; expected .* at least 0"),
    "true": (lambda: church(true=[0, 1]), r"^true has shape \(2,\); expected \(1,\)"),
    "true class": (lambda: church(true=[-1]), r"^true holds \[-1\]; expected integers of at least 0"),
    "eps": (lambda: church(eps=0), r"^eps is 0; expected more than 0"),
    "columns": (lambda: church(columns=0), r"^columns is 0; expected at least 1"),
    "outside": (lambda: church(outside=np.zeros((1, 2, 2))), r"^outside has shape \(1, 2, 2\); expected classes'"),
    "names": (lambda: church(names=["a"]), r"^names has 1 entries; expected 4, one for each class"),
    "no distances": (lambda: distance_curves({}, xlabel=""), r"^distances is empty"),
    "none": (lambda: distance_curves({"a": []}, xlabel=""), r"^distances\['a'\] has shape \(0,\)"),
    "negative": (lambda: distance_curves({"a": [-1.0]}, xlabel=""), r"^distances\['a'\] .* at least 0"),
    "NaN": (lambda: distance_curves({"a": [np.nan]}, xlabel=""), r"^distances\['a'\] .* at least 0"),
    "furthest": (lambda: distance_curves({"a": [1.0]}, xlabel="", furthest=-1), r"^furthest is -1; expected a finite"),
    "grids": (lambda: norms(perturbation=np.zeros((3, 6, 6))), r"^perturbation has shape \(3, 6, 6\); expected \(2, R"),
    "image": (lambda: norms(perturbation=np.zeros((2, 3, 5, 5))), r"^perturbation has shape .* clean's \(6, 6\)"),
    "rows": (lambda: norms(rows=["a"]), r"^rows has shape \(1,\); expected \(3,\)"),
    "headings": (lambda: norms(columns=["a"]), r"^columns has shape \(1,\); expected \(2,\)"),
    "captions": (lambda: norms(captions=[["a"] * 3, ["b"]]), r"^captions are \[3, 1\] words; expected 3 for each"),
    "too much": (lambda: norms(perturbation=np.full((2, 3, 6, 6), 2.0)), r"^perturbation holds 2"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named(name):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()


def test_checks_are_a_table_of_words():
    found = checks_table([("one_step_beats_many", True, "5% and 2%")], caption="ε = 0.1")
    assert found.cells == [["one step beats many", "SUSPICIOUS", "5% and 2%"]]
    assert found.caption == "ε = 0.1"
