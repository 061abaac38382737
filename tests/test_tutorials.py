"""The tutorials run, as a reader would run them: as scripts, elsewhere, without data files, and with warnings as errors."""

import io
import os
import subprocess
import sys
import tokenize
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"
TUTORIALS = sorted(FOLDER.glob("[0-9]*.py"))
LIMIT = 120  # seconds; each takes a few, on an idle machine
PICTURES = {"03_the_fast_gradient_sign": {"examples.png", "accuracy_against_eps.png", "adversarial_training.png"}}


def run(tutorial, *arguments, folder):
    environment = {name: value for name, value in os.environ.items() if name != "NPADV_DATA"}
    environment |= {"OPENBLAS_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    return subprocess.run(
        [sys.executable, "-W", "error", str(tutorial), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        encoding="utf-8",
        timeout=LIMIT,
    )


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_runs_and_writes_only_what_it_was_told_to(tutorial, tmp_path):
    pictures = PICTURES.get(tutorial.stem, set())
    before = set(FOLDER.iterdir())
    result = run(tutorial, *(["--save", "pictures"] if pictures else []), folder=tmp_path)
    assert result.returncode == 0, result.stdout[-2000:] + result.stderr[-4000:]
    assert set(FOLDER.iterdir()) == before
    assert {path.name for path in tmp_path.iterdir()} == ({"pictures"} if pictures else set())
    assert {path.name for path in tmp_path.glob("pictures/*")} == pictures


def test_readme_lists_every_tutorial():
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert TUTORIALS
    assert [path.name for path in TUTORIALS if f"]({path.name})" not in text] == []


# The tape of the first tutorial ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def core():
    """Return the source of the cells tagged ``core``, in order."""
    cells = (FOLDER / "01_a_tape_in_fifty_lines.py").read_text(encoding="utf-8").split("\n# %%")
    return "".join(cell.partition("\n")[2] + "\n" for cell in cells if cell.partition("\n")[0] == ' tags=["core"]')


def test_the_tape_has_at_most_fifty_lines(core):
    silent = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}
    tokens = [t for t in tokenize.generate_tokens(io.StringIO(core).readline) if t.type not in silent]
    lines = {number for t in tokens for number in range(t.start[0], t.end[0] + 1)}
    assert 30 < len(lines) <= 50
    assert ";" not in {t.string for t in tokens}


def test_the_tape_needs_nothing_else(core):
    tape = {}
    exec(core, tape)
    x, w = tape["Tensor"]([[1.0, -2.0]]), tape["Tensor"]([[0.5], [0.25]])
    y = tape["total"](tape["tanh"](x @ w + 0.1) * x)
    (g,) = tape["gradient"](y, [w])
    h = 1e-6
    t = np.tanh(0.1)  # x @ w is 0
    assert g == pytest.approx((1 - t * t) * np.array([[1.0], [-2.0]]) * (1.0 - 2.0), abs=h)
