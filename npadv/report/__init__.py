"""Pictures and pages from plain numbers: NumPy arrays, floats and text come in, figures and files come out.

The report knows nothing of models or attacks. matplotlib and Jinja2 are imported when something is drawn, not before;
``pip install "npadv[demo]"`` brings both.
"""

from npadv.report.canvas import check_installed, png
from npadv.report.curves import accuracy_curves, learning_curves
from npadv.report.grids import Attacked, compare_attacks, examples, image_grid
from npadv.report.page import Section, render_page, write_page
from npadv.report.text import Table, format_table

__all__ = [
    "Attacked",
    "Section",
    "Table",
    "accuracy_curves",
    "check_installed",
    "compare_attacks",
    "examples",
    "format_table",
    "image_grid",
    "learning_curves",
    "png",
    "render_page",
    "write_page",
]
