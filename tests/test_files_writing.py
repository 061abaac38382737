"""Writing files: whole or not at all, and JSON with numbers alone."""

import json
import os
import stat

import numpy as np
import pytest

from npadv.files import atomic_write, write_json


@pytest.mark.parametrize("function", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, function):
    path = atomic_write(tmp_path / "file", "old")

    def planted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, function, planted)
    with pytest.raises(KeyboardInterrupt):
        atomic_write(path, "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_atomic_write_makes_folders_replaces_files_and_leaves_them_readable(tmp_path):
    path = tmp_path / "runs" / "one" / "file"
    atomic_write(path, b"\x00")
    assert atomic_write(str(path), "ε").read_text("utf-8") == "ε"
    (plain := tmp_path / "plain").write_text("")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_json_takes_numpy_and_refuses_what_is_not_a_number(tmp_path):
    data = {"a": np.float32(0.5), "b": np.int64(3), "c": np.bool_(True), "d": np.arange(2), "e": ("ε", None)}
    path = write_json(tmp_path / "r.json", data)
    assert json.loads(path.read_text("utf-8")) == {"a": 0.5, "b": 3, "c": True, "d": [0, 1], "e": ["ε", None]}
    for bad in (float("nan"), np.float32("inf"), np.array([1, np.nan])):
        with pytest.raises(ValueError, match=r"^data\['a'\].* is (nan|inf); expected a finite number"):
            write_json(path, {"a": bad})
    with pytest.raises(TypeError, match=r"^data\[0\] is a set"):
        write_json(path, [{1}])
    with pytest.raises(TypeError, match=r"^data has the key 1"):
        write_json(path, {1: 2})
    assert json.loads(path.read_text("utf-8"))["a"] == 0.5
    assert os.listdir(tmp_path) == ["r.json"]
