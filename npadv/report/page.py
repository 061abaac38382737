"""One page of results: a single HTML file with its figures inside, which loads nothing and runs nothing.

The page forbids itself outside requests and scripts (a Content-Security-Policy in its head), and everything that is
inserted is escaped. It can be mailed, archived and printed.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from npadv.files import atomic_write
from npadv.report.figures import PIXELS_PER_INCH, needed, png
from npadv.report.palette import DARK, LIGHT
from npadv.report.text import Table

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Section:
    """A heading, paragraphs of prose (a blank line between them), and a figure or a table to look at.

    `alt` describes the figure to those who cannot see it; without it, the description that npadv's own figures carry is
    used, and then the caption.
    """

    title: str
    prose: str = ""
    figure: Figure | None = None
    caption: str = ""
    alt: str = ""
    table: Table | None = None


def write_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    summary: str,
    sections: Sequence[Section],
    table: Table | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Path:
    """Write the page to `path`, whole or not at all, and return where it is.

    Parameters
    ----------
    title, summary
        The heading, and what came out in a few sentences.
    sections
        The body, in order.
    table
        The numbers that matter most, shown above the sections.
    facts
        What a reader needs to run it again (seed, versions, machine, seconds), shown at the foot; a value may be a
        mapping or a sequence.
    """
    html = render_page(title=title, summary=summary, sections=sections, table=table, facts=facts)
    return atomic_write(path, html)


def render_page(
    *,
    title: str,
    summary: str,
    sections: Sequence[Section],
    table: Table | None = None,
    facts: Mapping[str, Any] | None = None,
) -> str:
    """Return the page that :func:`write_page` writes."""
    if not title.strip():
        raise ValueError(f"title is {title!r}; expected the page's heading")
    with needed("jinja2"):
        from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters["paragraphs"] = _paragraphs
    template = environment.from_string(resources.files("npadv.report").joinpath("page.html.j2").read_text("utf-8"))
    return template.render(
        title=title,
        summary=summary,
        table=table,
        sections=[(section, _image(section)) for section in sections],
        facts={name: _words(value) for name, value in (facts or {}).items()},
        light=LIGHT,
        dark=DARK,
    )


def _image(section: Section) -> dict[str, Any] | None:
    """Return the section's figure as the attributes of its <img>."""
    if (figure := section.figure) is None:
        return None
    width, height = (round(inches * PIXELS_PER_INCH) for inches in figure.get_size_inches())
    return {
        "source": f"data:image/png;base64,{base64.b64encode(png(figure)).decode()}",
        "alt": section.alt or str(figure.get_label()) or section.caption or section.title,
        "width": width,
        "height": height,
    }


def _paragraphs(prose: str) -> list[str]:
    r"""Return the paragraphs of a text.

    >>> _paragraphs("One.\n\n  Two,\n  still two.\n")
    ['One.', 'Two, still two.']
    """
    return [" ".join(block.split()) for block in prose.replace("\r\n", "\n").split("\n\n") if block.strip()]


def _words(value: Any) -> str:
    """Return a fact as text.

    >>> _words({"numpy": "2.4.6", "scipy": "1.17.1"}), _words([0, 1, 2]), _words(12.3456)
    ('numpy 2.4.6, scipy 1.17.1', '0, 1, 2', '12.35')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_words(entry)}" for name, entry in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_words(entry) for entry in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)
