"""One page of results: a single HTML file that contains its figures, loads no other file and runs no script.

A Content-Security-Policy in its head forbids requests and scripts, and all inserted text is escaped. The page can be mailed,
archived and printed.
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
    """A heading, paragraphs of prose (a blank line between them), and a figure or a table.

    `alt` describes the figure to readers who cannot see it. Without it, the description in the figure's own label is used,
    or else the caption.
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
    """Write the page to `path`, atomically, and return the path.

    Parameters
    ----------
    title, summary
        The heading, and the results in a few sentences.
    sections
        The body, in order.
    table
        The most important numbers, shown above the sections.
    facts
        Facts that a reader needs to repeat the run (seed, versions, machine, seconds), shown at the foot; a value may be
        a mapping or a sequence.
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
    """Return the attributes of the <img> of the section's figure."""
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
