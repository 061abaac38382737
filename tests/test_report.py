"""The report as a package: what it imports, and what it says when something is missing."""

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import npadv.report
from npadv.report import image_grid, render_page


def test_the_readers_own_matplotlib_settings_are_left_alone_and_pyplot_is_not_used():
    code = """
import sys, warnings
warnings.simplefilter("error")
import npadv.report as report
lazy = {"matplotlib", "jinja2", "sklearn", "PIL", "cupy"} & set(sys.modules)
assert not lazy, lazy
import matplotlib
before = matplotlib.rcParams.copy()  # not dict(): looking up "backend" imports pyplot
report.image_grid([[[0.0, 1.0]]], columns=1)
assert "matplotlib.pyplot" not in sys.modules
assert dict.__eq__(matplotlib.rcParams.copy(), before)
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_report_knows_nothing_above_it():
    for file in Path(npadv.report.__file__).parent.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            below = ("npadv.report", "npadv.files")
            assert all(name.startswith(below) for name in names if name.startswith("npadv")), (file, names)


@pytest.mark.parametrize(
    ("module", "draw"),
    [
        ("matplotlib.figure", lambda: image_grid(np.zeros((1, 2, 2)), columns=1)),
        ("jinja2", lambda: render_page(title="t", summary="", sections=[])),
    ],
)
def test_a_missing_package_is_one_sentence(monkeypatch, module, draw):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ModuleNotFoundError, match=r'is missing; to draw, run: pip install "npadv\[demo\]"$'):
        draw()
