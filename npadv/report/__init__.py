"""Figures and pages from plain numbers: the input is NumPy arrays, floats and text, the output figures and files.

The report imports no model and no attack. matplotlib and Jinja2 are imported when something is drawn, not before;
``pip install "npadv[demo]"`` installs both.
"""

from npadv.report.church_windows import church_grid
from npadv.report.curves import accuracy_curves, distance_curves, learning_curves
from npadv.report.figures import check_installed, png
from npadv.report.grids import Attacked, compare_attacks, examples, image_grid
from npadv.report.heatmap import heat_table
from npadv.report.norm_figure import norm_grid
from npadv.report.page import Section, render_page, write_page
from npadv.report.sections import (
    church_section,
    distances_section,
    masking_section,
    norms_section,
    robustness_section,
    transfer_section,
)
from npadv.report.text import Table, checks_table, format_table

__all__ = [
    "Attacked",
    "Section",
    "Table",
    "accuracy_curves",
    "check_installed",
    "checks_table",
    "church_grid",
    "church_section",
    "compare_attacks",
    "distance_curves",
    "distances_section",
    "examples",
    "format_table",
    "heat_table",
    "image_grid",
    "learning_curves",
    "masking_section",
    "norm_grid",
    "norms_section",
    "png",
    "render_page",
    "robustness_section",
    "transfer_section",
    "write_page",
]
