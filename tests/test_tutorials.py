"""The tutorials run as scripts, in another folder, without data files, with warnings as errors; and their prose is true."""

import ast
import functools
import importlib.util
import io
import os
import re
import subprocess
import sys
import tokenize
from pathlib import Path

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[1] / "tutorials"
TUTORIALS = sorted(FOLDER.glob("[0-9]*.py"))
TIMEOUT = 120  # seconds; on an idle machine each tutorial takes a few
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
        timeout=TIMEOUT,
    )


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_runs_and_writes_its_pictures_only(tutorial, tmp_path):
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


# Names in the prose -------------------------------------------------------------------------------------------------------

ROOT = FOLDER.parent


def prose(tutorial):
    """Return the text of a tutorial's markdown cells."""
    cells = tutorial.read_text(encoding="utf-8").split("\n# %%")
    return "\n".join(cell.replace("\n# ", "\n") for cell in cells if cell.startswith(" [markdown]"))


def identifiers(source):
    """Return all names, attributes, arguments and keywords in Python source."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=name):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) | ast.alias(name=name):
                found.add(name)
            case ast.Constant(value=str(name)) if name.isidentifier():  # in __slots__
                found.add(name)
    return found


@functools.cache
def identifiers_of_the_library():
    return set().union(*(identifiers(path.read_text(encoding="utf-8")) for path in (ROOT / "npadv").rglob("*.py")))


MODULE_NAME = r"(?:npadv|scipy)(?:\.\w+)+(?:\(\))?"


def code_in_backticks(tutorial, pattern):
    return [code for code in re.findall(r"`([^`\n]+)`", prose(tutorial)) if re.fullmatch(pattern, code)]


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_the_files_in_its_prose_exist(tutorial):
    paths = code_in_backticks(tutorial, r"[\w./]+(?:/[\w.]*|\.py|\.cu)")
    missing = [path for path in paths if not (ROOT / path).exists() and not (FOLDER / path).exists()]
    assert paths
    assert missing == []


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_the_module_names_in_its_prose_exist(tutorial):
    for name in code_in_backticks(tutorial, MODULE_NAME):
        *modules, attribute = name.removesuffix("()").split(".")
        module = importlib.import_module(".".join(modules))
        assert hasattr(module, attribute) or importlib.util.find_spec(f"{module.__name__}.{attribute}"), name


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_the_other_names_in_its_prose_exist(tutorial):
    known = identifiers_of_the_library() | identifiers(tutorial.read_text(encoding="utf-8"))
    words = set(re.findall(r"(?<![\w/.|])_[a-z]\w+", prose(tutorial)))  # private names, in tables as well
    for code in code_in_backticks(tutorial, r"[\w.]*[._][\w.]*(?:\(\)|=\w+)?"):
        if not code.endswith((".py", ".cu")) and not re.fullmatch(MODULE_NAME, code):
            words |= {word for word in re.split(r"\W+", code.partition("=")[0]) if "_" in word or "." in code}
    assert sorted(words - known - {""}) == []


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
