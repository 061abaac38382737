"""Damaged files: each is refused in a line, or gives the result of the whole file; none is ever unpickled.

``NPADV_FUZZ_SECONDS=600 pytest tests/test_files_damaged.py`` damages files for ten minutes for each kind of file.
"""

import os
import pickle
import shutil
import time
import zipfile
from functools import cache

import numpy as np
import pytest
from attack_commands import PLAIN, command, read
from file_damage import change_json, damage, read_members, saved, write_members
from test_cli_evaluate import TINY

from npadv import data
from npadv.commands.evaluation_checkpoint import load_measurements
from npadv.commands.presets import PRESETS
from npadv.commands.results import Results
from npadv.commands.rubbish_results import RubbishResults
from npadv.data import digits
from npadv.files import load_arrays, save_arrays
from npadv.nn import load_network

SECONDS = float(os.environ.get("NPADV_FUZZ_SECONDS", "0"))
TRAIN = ["train", "softmax_regression", "--data", "digits", "--epochs", "2"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Load the digits once, and fail where anything is unpickled."""
    monkeypatch.setitem(data.DATASETS, "digits", cache(digits))


@pytest.fixture
def never_unpickled(monkeypatch):
    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, lambda *_, **__: pytest.fail("a file was unpickled"))


def interrupted(*_, **__):
    raise KeyboardInterrupt


@pytest.fixture
def folder(run, weights, tmp_path, monkeypatch):
    """Return a function that makes a folder of unfinished work: its file to damage, and the command that resumes."""

    def make(kind):
        out = tmp_path / "whole"
        with monkeypatch.context() as patch:
            if kind == "checkpoint":
                patch.setattr("npadv.commands.train.evaluate", interrupted)
                assert run(*TRAIN, "--out", out)[0] == 130
                return out / "checkpoint.npz", [*TRAIN, "--resume", "--out"]
            if kind == "result":
                assert run(*TRAIN, "--out", out)[0] == 0
                return out / "result.json", [*TRAIN, "--resume", "--out"]
            if kind == "weights":
                out.mkdir()
                shutil.copy(weights, out / "weights.npz")
                return out / "weights.npz", ["attack", "fgsm", "--eps", "0.1", "--examples", "3", PLAIN, "--model"]
            if kind == "rubbish":
                patch.setattr(RubbishResults, "commit", interrupted)
                words = ["attack", "gaussian_rubbish", "--model", weights, "--examples", "7", "--batch", "3"]
                assert run(*words, "--out", out)[0] == 130
                return out / "examples.parts" / "0000003.npz", [*words, PLAIN, "--resume", "--out"]
            if kind == "parts":  # as after a killed run
                patch.setattr(Results, "commit", interrupted)
            else:
                patch.setattr("npadv.commands.attack.picture_of", interrupted)
            words = command("fgsm", weights, out)[:-2]
            assert run(*words, "--out", out)[0] == 130
        name = {"parts": "examples.parts/0000005.npz", "examples": "examples.npz", "attack result": "result.json"}[kind]
        return out / name, [*words, PLAIN, "--resume", "--out"]

    return make


KINDS = ["weights", "examples", "parts", "rubbish", "attack result", "checkpoint", "result"]


@pytest.mark.usefixtures("never_unpickled")
@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_is_refused_in_a_line_or_harmless(run, folder, tmp_path, kind):
    path, words = folder(kind)
    expected = read(path.parent)[0] if kind == "examples" else {}
    expected.pop("seconds", None)
    seed, end = int(time.time_ns() % 2**31) if SECONDS else 0, time.monotonic() + SECONDS
    for case in range(10**9):
        if case >= 12 and time.monotonic() >= end:
            break
        out = tmp_path / "damaged"
        shutil.copytree(path.parent if kind not in ("parts", "rubbish") else path.parent.parent, out)
        broken = out / path.relative_to(tmp_path / "whole")
        done = damage(broken, np.random.default_rng([seed, case]))
        where = [str(broken), "--out", str(out / "new")] if kind == "weights" else [str(out)]
        try:
            code, _, err = run(*words, *where)
        except BaseException:
            print(f"seed {seed}, case {case}: {done}")
            raise
        told = f"seed {seed}, case {case}: {done}: {err}"
        assert code in (0, 2), told
        assert len(err.splitlines()) == (code == 2), told
        assert len(err) < 800, told
        assert "pickle=" not in err, told
        if code == 0 and kind in ("examples", "parts"):
            arrays, _, result = read(out)
            assert result["complete"], told
            assert result["attacked"] == len(arrays["x_adv"]) == 12, told
            for name in expected or {}:
                if name not in ("seconds", "layout"):  # files of older versions have no layout
                    np.testing.assert_array_equal(arrays[name], load_arrays(path)[name], err_msg=told)
        shutil.rmtree(out)


@pytest.mark.usefixtures("never_unpickled")
def test_damaged_measurements_are_refused_or_read(run, weights, tmp_path, monkeypatch):
    monkeypatch.setattr("npadv.commands.evaluate.render_page", interrupted)
    monkeypatch.setitem(PRESETS, "standard", TINY)
    assert run("evaluate", "--model", weights, "--quiet", "--out", tmp_path)[0] == 130
    whole = (tmp_path / "checkpoint.npz").read_bytes()
    seed, end = int(time.time_ns() % 2**31) if SECONDS else 0, time.monotonic() + SECONDS
    for case in range(10**9):
        if case >= 60 and time.monotonic() >= end:
            break
        path = tmp_path / "damaged.npz"
        path.write_bytes(whole)
        done = damage(path, np.random.default_rng([seed, case]))
        message = ""
        try:
            load_measurements(path)
        except ValueError as error:
            message = str(error)
        except BaseException:
            print(f"seed {seed}, case {case}: {done}")
            raise
        assert not message or str(path) in message, done
        assert len(message) < 800, done


# Kinds of files -------------------------------------------------------------------------------------------------------


def torch_like(path):
    write_members(path, [("archive/data.pkl", b"\x80\x02N."), ("archive/data/0", bytes(8)), ("archive/version", b"3")])


@pytest.mark.usefixtures("never_unpickled")
@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda path: path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100)), "a PNG picture"),
        (lambda path: path.write_text("weights, they said: é"), "a text file"),
        (lambda path: path.write_bytes(pickle.dumps([1, 2])), "a pickle"),
        (torch_like, "a file of PyTorch's"),
        (lambda path: path.write_bytes(b""), "an empty file"),
        (lambda path: path.write_bytes(saved(np.zeros(3))), "a single array"),
        (lambda path: path.write_bytes(b"\x1f\x8b\x08" + bytes(20)), "a gzip file"),
        (lambda path: path.write_bytes(bytes([60, 0, 0, 0, 0, 0, 0, 0]) + b'{"a": {}}'), "a safetensors file"),
        (lambda path: path.write_bytes(bytes(range(255, 0, -1))), "an unknown or damaged file"),
    ],
)
def test_another_file_as_model_is_named_by_its_kind(run, tmp_path, make, kind):
    path = tmp_path / "model.npz"
    make(path)
    code, out, err = run("attack", "fgsm", "--eps", "0.1", "--model", path)
    assert (code, out) == (2, "")
    assert f"could not read it (it seems to be {kind}" in err
    assert "allow_pickle" not in err
    assert len(err.splitlines()) == 1


# Memory ---------------------------------------------------------------------------------------------------------------


def peak_of(function):
    """Return the megabytes that a call allocates at most, by NumPy or Python."""
    import tracemalloc

    tracemalloc.start()
    try:
        function()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def refused(function, message):
    def call():
        with pytest.raises(ValueError, match=message):
            function()

    return call


@pytest.mark.parametrize(
    "option", [{"inputs": 10**8}, {"inputs": 10**30}, {"units": 10**7}, {"inputs": -1}, {"inputs": "x"}]
)
def test_a_small_file_does_not_make_a_large_network(weights, tmp_path, option):
    about = f'{{"network": "{"maxout_mlp" if "units" in option else "softmax_regression"}", "options": {option}}}'
    path = tmp_path / "w.npz"
    save_arrays(path, load_arrays(weights) | {"about": np.array(about.replace("'", '"'))})
    assert peak_of(refused(lambda: load_network(path), "w.npz: ")) < 300


def test_a_compressed_archive_is_checked_before_it_is_unpacked(weights, tmp_path):
    path = tmp_path / "w.npz"
    header = saved(np.zeros(0, np.float32)).replace(b"(0,), }" + b" " * 10, b"(536870912,), }  ")
    assert b"536870912" in header
    block = bytes(2**20)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("x.npy", "w", force_zip64=True) as member,
    ):
        member.write(header)
        for _ in range(2**11):
            member.write(block)
    assert path.stat().st_size < 3 * 2**20
    assert peak_of(refused(lambda: load_network(path, "softmax_regression"), "does not fit this model")) < 50
    assert peak_of(refused(lambda: load_arrays(path), "at most 1,073,741,824 bytes, got 2,147,483,648")) < 50


def test_a_false_size_in_the_archives_table_is_refused(weights, tmp_path):
    path = tmp_path / "w.npz"
    members = list(read_members(weights).items())
    huge = saved(np.zeros(0, np.float32)).replace(b"(0,), }" + b" " * 14, b"(99999999999,), }    ")
    assert b"99999999999" in huge
    write_members(path, [*members, ("x.npy", huge)])
    assert peak_of(refused(lambda: load_arrays(path), "x: expected an .npz archive")) < 50


def test_changed_facts_in_a_file_of_weights_are_refused_or_harmless(run, weights, tmp_path):
    words = [PLAIN, "--examples", "2", "--overwrite", "--out", tmp_path]
    rng = np.random.default_rng(0)
    path = tmp_path / "w.npz"
    for _ in range(30):
        shutil.copy(weights, path)
        change_json(path, rng)
        code, _, err = run("attack", "fgsm", "--eps", "0.1", "--model", path, *words)
        assert (code, len(err.splitlines())) in ((0, 0), (2, 1))
