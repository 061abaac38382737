"""Files that are whole or not there; those of ``write_json`` and the moment of the crash are in test_files_writing.py."""

import io
import os
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npadv.files import atomic_write, load_arrays, save_arrays, write_json

names = st.text("abcdef./_0", min_size=1, max_size=8).filter(lambda name: not name.startswith("/"))
plain = hnp.arrays(
    st.one_of(hnp.floating_dtypes(), hnp.integer_dtypes(), hnp.boolean_dtypes(), hnp.unicode_string_dtypes(max_len=4)),
    hnp.array_shapes(min_dims=0, min_side=0, max_side=3),
)


@given(arrays=st.dictionaries(names, plain, max_size=3))
def test_arrays_come_back_as_they_went(tmp_path_factory, arrays):
    path = tmp_path_factory.mktemp("arrays") / "a.npz"
    save_arrays(path, arrays)
    loaded = load_arrays(path)
    assert list(loaded) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(loaded[name], array)
        assert loaded[name].dtype == array.dtype


@pytest.mark.parametrize("name", ["file", "args", "allow_pickle"])
def test_no_name_is_reserved(tmp_path, name):
    save_arrays(tmp_path / "a.npz", {name: np.arange(3)})
    np.testing.assert_array_equal(load_arrays(tmp_path / "a.npz")[name], [0, 1, 2])


def test_the_same_arrays_make_the_same_file(tmp_path):
    for name in ("a", "b"):
        save_arrays(tmp_path / name, {"x": np.arange(3), "y": np.ones((2, 2))})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_python_objects_are_not_pickled_and_leave_no_file(tmp_path):
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        save_arrays(tmp_path / "a.npz", {"x": np.array([None])})
    assert os.listdir(tmp_path) == []


def test_a_pickle_is_not_opened(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    (tmp_path / "a.npz").write_bytes(pickle.dumps(Trap()))
    np.savez(tmp_path / "b.npz", x=np.array([Trap()]))
    for name in ("a.npz", "b.npz: x"):
        with pytest.raises(ValueError, match=f"{name}: expected an .npz archive of arrays"):
            load_arrays(tmp_path / name[:5])
    assert not (tmp_path / "sprung").exists()


def test_no_truncated_archive_is_read(tmp_path):
    path = tmp_path / "a.npz"
    save_arrays(path, {"x": np.arange(9.0)})
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=r"a\.npz.*: expected an \.npz archive of arrays, could not read it"):
            load_arrays(path)


@pytest.mark.parametrize(("write", "data"), [(save_arrays, {}), (write_json, {}), (atomic_write, "")])
def test_what_cannot_be_written_leaves_nothing(tmp_path, write, data):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("old")
    with pytest.raises(IsADirectoryError):
        write(tmp_path / "folder", data)
    with pytest.raises((FileExistsError, NotADirectoryError)):
        write(tmp_path / "file" / "inside", data)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "old"


def test_a_folder_is_no_archive(tmp_path):
    with pytest.raises(ValueError, match=r"expected an \.npz archive of arrays"):
        load_arrays(tmp_path)


def test_a_missing_archive_is_not_found(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"a\.npz"):
        load_arrays(tmp_path / "a.npz")


def test_anyones_numpy_reads_what_was_saved(tmp_path):
    save_arrays(tmp_path / "a", {"layers/0.weight": np.eye(2)})
    with np.load(io.BytesIO((tmp_path / "a").read_bytes())) as archive:
        assert archive.files == ["layers/0.weight"]
