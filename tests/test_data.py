"""Splits and batches by their laws; every file reader on good files, and on files that are wrong in every way."""

import gzip
import hashlib
import importlib
import io
import itertools
import os
import struct
import subprocess
import sys
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from npadv import data
from npadv.data import DataError, Dataset, Split, batches, cifar10, digits, mnist
from npadv.data.cifar10 import read_batch
from npadv.data.files import check_md5, data_folders, download_file, user_cache
from npadv.data.idx import DTYPES, read_idx

# `npadv.data.mnist` as an attribute is the function; the module of that name is in sys.modules.
MNIST = importlib.import_module("npadv.data.mnist")
CIFAR10 = importlib.import_module("npadv.data.cifar10")


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def split_of(n):
    images = np.broadcast_to(np.linspace(0, 1, n, dtype=np.float32)[:, None, None, None], (n, 1, 2, 2))
    return Split(images, np.arange(n))


# ---------------------------------------------------------------------------------------------------------------------
# Split, Dataset, batches


def test_split_takes_slices_indices_and_masks():
    split = split_of(6)
    assert len(split) == 6
    assert split[2:4].labels.tolist() == [2, 3]
    assert np.shares_memory(split[2:4].images, split.images)
    assert split[np.array([5, 0])].labels.tolist() == [5, 0]
    assert split[split.labels % 2 == 1].labels.tolist() == [1, 3, 5]
    assert len(split[[]]) == 0
    np.testing.assert_array_equal(split[[4]].images, split.images[4:5])


def test_labels_become_int64():
    assert Split(np.zeros((2, 1, 2, 2)), np.array([0, 1], np.uint8)).labels.dtype == np.int64


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 4, 4)), np.zeros(3, int), r"images must have shape \(N, C, H, W\), got \(3, 4, 4\)"),
        (np.zeros((3, 1, 4, 4), np.uint8), np.zeros(3, int), r"images must be floating point .* got dtype uint8"),
        (np.zeros((3, 1, 4, 4)), np.zeros((3, 1), int), r"labels must have shape \(N,\), got \(3, 1\)"),
        (np.zeros((3, 1, 4, 4)), np.zeros(3), "labels must be integers, got dtype float64"),
        (np.zeros((3, 1, 4, 4)), np.zeros(2, int), "equally many, got 3 and 2"),
        (np.full((3, 1, 4, 4), 255.0), np.zeros(3, int), r"images must lie in \[0, 1\], got values in \[255"),
        (np.full((3, 1, 4, 4), np.nan), np.zeros(3, int), r"images must lie in \[0, 1\], got values in \[nan"),
        ([[[[0.0]]]], np.zeros(1, int), "images must be a NumPy array, got list"),
    ],
)
def test_split_refuses(images, labels, message):
    with pytest.raises(ValueError, match=message):
        Split(images, labels)


@pytest.mark.parametrize("index", [3, np.int64(3), [0.5], [[0, 1]], "a"])
def test_split_refuses_an_index_that_is_no_subset(index):
    with pytest.raises(TypeError, match="index must be"):
        split_of(6)[index]


def test_hold_out_takes_the_last():
    whole = Dataset("six", split_of(6), split_of(3), list("abcdef"))
    held = whole.hold_out(2)
    assert held.train.labels.tolist() == [0, 1, 2, 3]
    assert held.validation.labels.tolist() == [4, 5]
    assert held.test is whole.test
    assert whole.validation is None
    assert held.classes == tuple("abcdef")
    with pytest.raises(ValueError, match="has a validation split of 2 already"):
        held.hold_out(1)


@pytest.mark.parametrize("n", [0, 6, -1, 2.0])
def test_hold_out_refuses(n):
    with pytest.raises(ValueError, match=r"n must be an integer in 1\.\.5"):
        Dataset("six", split_of(6), split_of(3), "abcdef").hold_out(n)


def test_dataset_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"test.labels must be in 0\.\.1, got 0\.\.2"):
        Dataset("x", split_of(2), split_of(3), "ab")
    with pytest.raises(ValueError, match=r"test\.images must have the training images' shape"):
        Dataset("x", split_of(2), Split(np.zeros((2, 1, 3, 3)), np.arange(2)), "ab")


@given(n=st.integers(1, 40), size=st.integers(1, 50), seed=st.none() | st.integers(0, 99), drop_last=st.booleans())
def test_batches_cover_each_example_once(n, size, seed, drop_last):
    if drop_last and n < size:
        return
    split = split_of(n)
    rng = None if seed is None else np.random.default_rng(seed)
    seen = list(batches(split, size, rng=rng, drop_last=drop_last))
    labels = np.concatenate([labels for _, labels in seen])
    np.testing.assert_array_equal(np.concatenate([images for images, _ in seen]), split.images[labels])
    assert all(len(labels) == size for _, labels in seen[:-1])
    if seed is None:
        assert (np.diff(labels) == 1).all()
    if drop_last:
        assert len(seen[-1][1]) == size
        assert len(labels) == n // size * size
        assert len(set(labels.tolist())) == len(labels)
    else:
        assert sorted(labels.tolist()) == list(range(n))


def test_batches_are_decided_by_the_generator():
    def epoch(**order):
        return [labels.tolist() for _, labels in batches(split_of(20), 6, **order)]

    assert epoch(rng=np.random.default_rng(3)) == epoch(rng=np.random.default_rng(3))
    assert epoch(rng=np.random.default_rng(3)) != epoch(rng=np.random.default_rng(4))
    rng = np.random.default_rng(3)
    assert epoch(rng=rng) != epoch(rng=rng)
    permutation = np.random.default_rng(3).permutation(20)
    assert epoch(order=permutation) == epoch(rng=np.random.default_rng(3))
    assert epoch(order=permutation[12:]) == epoch(rng=np.random.default_rng(3))[2:]
    assert epoch(order=[]) == []


def test_batches_draw_at_the_call_and_copy():
    split, rng = Split(np.zeros((4, 1, 2, 2)), np.arange(4)), np.random.default_rng(0)
    epoch = batches(split, 2, rng=rng)
    rng.random(100)  # what is drawn later does not change the epoch
    assert np.concatenate([labels for _, labels in epoch]).tolist() == np.random.default_rng(0).permutation(4).tolist()
    for images, _ in batches(split, 2):
        images += 1
    assert not split.images.any()


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (0, {}, "size must be a positive integer, got 0"),
        (2.5, {}, "size must be a positive integer, got 2.5"),
        (2, {"rng": 0}, "rng must be a numpy.random.Generator .* got 0"),
        (2, {"rng": np.random.default_rng(0), "order": [0]}, "rng and order were both given"),
        (2, {"order": [0, 6]}, r"order must hold indices in 0\.\.5, got 0\.\.6"),
        (2, {"order": [0, -1]}, r"order must hold indices in 0\.\.5, got -1\.\.0"),
        (2, {"order": [0, 1, 0]}, "order must hold each index at most once, got 1 repeats"),
        (2, {"order": [0.0, 1.0]}, r"order must be a 1-D array of indices, got shape \(2,\) of float64"),
        (7, {"drop_last": True}, "size must be at most the split's 6 examples when drop_last is set, got 7"),
    ],
)
def test_batches_refuse_at_the_call(size, options, message):
    with pytest.raises(ValueError, match=message):
        batches(split_of(6), size, **options)  # never iterated


def test_batches_refuse_an_empty_split():
    with pytest.raises(ValueError, match="split must hold at least one example"):
        batches(split_of(6)[:0], 2)


# ---------------------------------------------------------------------------------------------------------------------
# IDX


def idx_bytes(array):
    code = next(code for code, dtype in DTYPES.items() if np.dtype(dtype) == array.dtype.newbyteorder(">"))
    header = struct.pack(f">HBB{array.ndim}I", 0, code, array.ndim, *array.shape)
    return header + array.astype(DTYPES[code]).tobytes()


IDX_DTYPES = st.sampled_from(["u1", "i1", "i2", "i4", "f4", "f8"])
IDX_SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)


@given(array=hnp.arrays(IDX_DTYPES, IDX_SHAPES), packed=st.booleans())
def test_idx_round_trip(tmp_path_factory, array, packed):
    path = tmp_path_factory.getbasetemp() / "drawn.idx"
    path.write_bytes(gzip.compress(idx_bytes(array)) if packed else idx_bytes(array))
    came = read_idx(path)
    assert came.dtype == array.dtype
    assert came.dtype.isnative
    assert came.flags.writeable
    np.testing.assert_array_equal(came, array)


GOOD = idx_bytes(np.arange(6, dtype=np.int16).reshape(2, 3))  # 12 bytes of header, 12 of data
PACKED = gzip.compress(GOOD, mtime=0)
GZIP_FAULTS = ["truncated", "header only", "and more", "checksum", "garbled"]


@pytest.mark.parametrize(
    ("content", "expected", "came"),
    [
        (b"", "a header of at least 4 bytes", "a file of 0"),
        (GOOD[:9], "a header of 12 bytes for 2 dimensions", "a file of 9"),
        (GOOD[:-1], "24 bytes for shape (2, 3) of int16", "23 bytes"),
        (GOOD + b"\0", "24 bytes for shape (2, 3) of int16", "25 bytes"),
        (b"\x01" + GOOD[1:], "starts with the bytes 00 00", "01 00"),
        (GOOD[:2] + b"\x0a" + GOOD[3:], "one of the dtype codes 0x08, 0x09, 0x0b", "0x0a"),
        (b"\0\0\x0e\4" + b"\xff" * 16, "bytes for shape (4294967295, 4294967295,", "20 bytes"),
        (PACKED[:-9], "a whole gzip file", "a damaged one"),
        (PACKED[:5], "a whole gzip file", "a damaged one"),
        (PACKED + b"more", "a whole gzip file", "a damaged one"),
        (PACKED[:-8] + bytes(8), "a whole gzip file", "CRC check failed"),
        (PACKED[:12] + b"\xff" * 20, "a whole gzip file", "a damaged one"),
    ],
    ids=[
        "empty",
        "short header",
        "short",
        "long",
        "magic",
        "dtype",
        "huge",
        *(f"gzip {fault}" for fault in GZIP_FAULTS),
    ],
)
def test_idx_refuses_a_bad_file(tmp_path, content, expected, came):
    path = tmp_path / "bad.idx"
    path.write_bytes(content)
    with pytest.raises(DataError) as error:
        read_idx(path)
    message = str(error.value)
    assert str(path) in message
    assert expected in message.split(", got ")[0]
    assert came in message
    assert message.endswith("; delete the file and fetch it again")


def test_idx_refuses_a_missing_file(tmp_path):
    with pytest.raises(DataError, match=r"none\.idx: expected a readable IDX file, got No such file.*; give the path"):
        read_idx(tmp_path / "none.idx")


# ---------------------------------------------------------------------------------------------------------------------
# Finding files


@pytest.fixture
def empty_cache(tmp_path, monkeypatch):
    """No NPADV_DATA, and a cache in which there is nothing."""
    for variable in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME"):
        monkeypatch.setenv(variable, str(tmp_path / "cache"))
    monkeypatch.delenv("NPADV_DATA", raising=False)
    return user_cache()


def test_folders_are_root_or_the_variable_and_the_cache(empty_cache, tmp_path, monkeypatch):
    assert data_folders("here", "mnist") == [Path("here")]
    assert data_folders(None, "mnist") == [empty_cache / "mnist"]
    monkeypatch.setenv("NPADV_DATA", str(tmp_path))
    assert data_folders(None, "mnist") == [tmp_path, empty_cache / "mnist"]
    monkeypatch.setenv("NPADV_DATA", str(tmp_path / "slip"))
    with pytest.raises(DataError, match=r"NPADV_DATA must name a folder that exists, got .*slip.*; correct it"):
        data_folders(None, "mnist")


def test_check_md5_names_both_sums(tmp_path):
    path = tmp_path / "file.gz"
    path.write_bytes(b"content")
    check_md5(path, md5(b"content"))
    with pytest.raises(DataError) as error:
        check_md5(path, md5(b"other"))
    message = str(error.value)
    assert all(part in message for part in (str(path), md5(b"other"), md5(b"content"), "delete", "NPADV_DATA"))


@pytest.mark.parametrize("load", [mnist, cifar10])
def test_a_missing_file_says_where_it_was_looked_for(load, empty_cache):
    with pytest.raises(DataError) as error:
        load(download=False)
    message = str(error.value)
    assert str(empty_cache / load.__name__) in message
    assert "set NPADV_DATA to a folder that holds it, or let it be downloaded" in message


# ---------------------------------------------------------------------------------------------------------------------
# MNIST


@pytest.fixture
def tiny_mnist(monkeypatch):
    """The contents of four files of three images each, put in the place of MNIST's checksums."""
    pixels = np.arange(3 * 28 * 28).reshape(3, 28, 28).astype(np.uint8)
    contents = {name: idx_bytes(pixels if "images" in name else np.arange(3, dtype=np.uint8)) for name in MNIST.FILES}
    packed = {name: gzip.compress(content, mtime=0) for name, content in contents.items()}
    monkeypatch.setattr(MNIST, "FILES", {name: (md5(packed[name]), md5(contents[name])) for name in contents})
    return {f"{name}.gz": content for name, content in packed.items()}


@pytest.mark.parametrize("dotted", [False, True])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("folder", ["", "mnist"])
def test_mnist_is_found_under_each_spelling(tiny_mnist, empty_cache, tmp_path, monkeypatch, folder, packed, dotted):
    root = tmp_path / "data" / folder
    root.mkdir(parents=True)
    for name, content in tiny_mnist.items():
        name = name.replace("-idx", ".idx") if dotted else name
        (root / (name if packed else name.removesuffix(".gz"))).write_bytes(
            content if packed else gzip.decompress(content)
        )
    monkeypatch.setenv("NPADV_DATA", str(tmp_path / "data"))
    for found in (mnist(download=False), mnist(tmp_path / "data", download=False)):
        assert found.train.images.shape == (3, 1, 28, 28)
        assert found.train.images.dtype == np.float32
        assert found.train.images[0, 0, 0, 5] == np.float32(5 / 255)
        assert found.test.labels.tolist() == [0, 1, 2]
        assert found.train.images.max() == 1


@pytest.mark.parametrize("name", ["t10k-images-idx3-ubyte.gz", "t10k-images-idx3-ubyte"])
def test_mnist_refuses_a_wrong_checksum(tiny_mnist, tmp_path, name):
    for good, content in tiny_mnist.items():
        (tmp_path / good).write_bytes(content)
    (tmp_path / "t10k-images-idx3-ubyte.gz").unlink()
    (tmp_path / name).write_bytes(b"Fashion-MNIST, say")
    with pytest.raises(DataError, match=f"{name}: expected MD5 .*, got {md5(b'Fashion-MNIST, say')}; delete the file"):
        mnist(tmp_path, download=False)


def test_mnist_itself():
    root = os.environ.get("NPADV_DATA") or Path(__file__).parents[2] / "shared" / "data"
    places = [Path(root), Path(root, "mnist")]
    if not any(list(place.glob("train-images?idx3-ubyte*")) for place in places):
        pytest.skip("MNIST is neither in $NPADV_DATA nor in ../shared/data beside the repository")
    found = mnist(root, download=False).hold_out(10_000)
    assert [len(split) for split in (found.train, found.validation, found.test)] == [50_000, 10_000, 10_000]
    assert found.train.images.shape == (50_000, 1, 28, 28)
    assert found.train.labels[:10].tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    assert found.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(found.test.labels).tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    mean = np.concatenate([found.train.images, found.validation.images]).mean(dtype=np.float64)
    assert mean == pytest.approx(0.1307, abs=5e-5)  # the well-known mean of the 60,000


# ---------------------------------------------------------------------------------------------------------------------
# CIFAR-10


def batch_bytes(records, seed=0):
    rows = np.random.default_rng(seed).integers(0, 256, (records, 3073), dtype=np.uint8)
    rows[:, 0] %= 10
    return rows.tobytes()


@pytest.fixture
def tiny_cifar10(monkeypatch):
    """The contents of six batch files of four records each."""
    monkeypatch.setattr(CIFAR10, "RECORDS", 4)
    return {name: batch_bytes(4, seed) for seed, name in enumerate(CIFAR10.BATCHES)}


def test_read_batch_takes_planes(tmp_path):
    path = tmp_path / "batch.bin"
    record = bytes([7]) + bytes([1] * 1024) + bytes([2] * 1024) + bytes([3, 4] + [0] * 1022)
    path.write_bytes(record * 2)
    images, labels = read_batch(path, records=2)
    assert images.shape == (2, 3, 32, 32)
    assert labels.tolist() == [7, 7]
    assert (images[:, 0] == 1).all()
    assert (images[:, 1] == 2).all()
    assert images[0, 2, 0, :3].tolist() == [3, 4, 0]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (batch_bytes(2)[:-1], "expected 6146 bytes for 2 records of 3073, got 6145 bytes; delete the file"),
        (batch_bytes(3), "expected 6146 bytes for 2 records of 3073, got 9219 bytes; delete the file"),
        (bytes(3073) + b"\x0a" + bytes(3072), r"expected labels in 0\.\.9, got 10 in record 1; delete the file"),
        (None, "expected a readable batch file, got No such file.*; delete its folder"),
    ],
    ids=["short", "long", "label", "missing"],
)
def test_read_batch_refuses_a_bad_file(tmp_path, content, message):
    path = tmp_path / "data_batch_1.bin"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=rf"data_batch_1\.bin: {message}"):
        read_batch(path, records=2)


@pytest.mark.parametrize("folder", ["", "cifar10", "cifar-10-batches-bin", "cifar10/cifar-10-batches-bin"])
def test_cifar10_is_found_in_each_folder(tiny_cifar10, empty_cache, tmp_path, monkeypatch, folder):
    root = tmp_path / "data" / folder
    root.mkdir(parents=True)
    for name, content in tiny_cifar10.items():
        (root / name).write_bytes(content)
    monkeypatch.setenv("NPADV_DATA", str(tmp_path / "data"))
    found = cifar10(download=False)
    assert found.train.images.shape == (20, 3, 32, 32)
    assert found.test.images.dtype == np.float32
    row = np.frombuffer(tiny_cifar10["data_batch_2.bin"], np.uint8)
    assert found.train.labels[4] == row[0]
    assert found.train.images[4, 0, 0, 0] == np.float32(row[1] / 255)
    assert found.classes[3] == "cat"


def test_cifar10_with_a_hole_is_refused_not_mended(tiny_cifar10, tmp_path):
    for name in list(tiny_cifar10)[1:]:
        (tmp_path / name).write_bytes(tiny_cifar10[name])
    with pytest.raises(DataError, match=r"data_batch_1\.bin: expected a readable batch file"):
        cifar10(tmp_path)


# ---------------------------------------------------------------------------------------------------------------------
# Downloads, from a server in this process


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A folder to put files in and the URL that serves them."""
    pytest.importorskip("pooch")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    folder = tmp_path / "served"
    folder.mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield folder, f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()
        thread.join()


def test_download_takes_the_first_mirror_that_has_it_right(server, tmp_path):
    folder, url = server
    (folder / "good").write_bytes(b"content")
    (folder / "bad").write_bytes(b"another")
    path = download_file("file", [url + "none", url + "bad", url + "good"], md5(b"content"), tmp_path / "to")
    assert path == tmp_path / "to" / "file"
    assert path.read_bytes() == b"content"
    assert os.listdir(tmp_path / "to") == ["file"]


def test_a_wrong_download_leaves_nothing_behind(server, tmp_path):
    folder, url = server
    (folder / "bad").write_bytes(b"another")
    with pytest.raises(DataError) as error:
        download_file("file", [url + "none", url + "bad"], md5(b"content"), tmp_path / "to")
    message = str(error.value)
    assert message.startswith(f"file: expected MD5 {md5(b'content')}, got it from no URL")
    assert all(part in message for part in (url + "none", "404", url + "bad", md5(b"another"), "set NPADV_DATA"))
    assert os.listdir(tmp_path / "to") == []


def test_an_interrupted_download_leaves_nothing_behind(tmp_path, monkeypatch):
    pooch = pytest.importorskip("pooch")

    def interrupted(url, target, pooch):
        Path(target).write_bytes(b"cont")
        raise KeyboardInterrupt

    monkeypatch.setattr(pooch.core, "choose_downloader", lambda url, progressbar: interrupted)
    with pytest.raises(KeyboardInterrupt):
        download_file("file", ["http://127.0.0.1/file"], md5(b"content"), tmp_path)
    assert os.listdir(tmp_path) == []


def test_without_pooch_the_message_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataError, match=r'file: .* needs pooch; pip install "npadv\[demo\]", or .* set NPADV_DATA'):
        download_file("file", [], "", tmp_path)


def test_mnist_downloads_once(server, tiny_mnist, empty_cache, monkeypatch):
    folder, url = server
    for name, content in tiny_mnist.items():
        (folder / name).write_bytes(content)
    monkeypatch.setattr(MNIST, "MIRRORS", [url])
    assert len(mnist().train) == 3
    assert sorted(os.listdir(empty_cache / "mnist")) == sorted(tiny_mnist)
    assert len(mnist(download=False).train) == 3


@pytest.mark.parametrize(("load", "title", "count"), [(mnist, "MNIST", 4), (cifar10, "CIFAR-10", 6)])
def test_without_a_connection_the_message_is_short_and_names_the_files(load, title, count, empty_cache, monkeypatch):
    monkeypatch.setattr(MNIST, "MIRRORS", ["http://127.0.0.1:9/"])  # where nothing listens
    monkeypatch.setattr(CIFAR10, "URLS", ["http://127.0.0.1:9/file"])
    with pytest.raises(DataError, match="is not on this machine and could not be downloaded") as error:
        load()
    message = str(error.value)
    assert message.startswith(f"{title} is not on this machine")
    assert "(127.0.0.1: no connection)" in message
    assert str(empty_cache) in message
    assert message.count(".gz" if title == "MNIST" else ".bin") == count
    assert ("--data digits" in message) == (title == "MNIST")
    assert len(message) < 500


def test_a_small_file_does_not_unpack_to_gigabytes(tmp_path):
    header = b"\0\0\x08\1" + (2**31).to_bytes(4, "big")
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(header + bytes(2**20)))
    with pytest.raises(DataError, match=r"2147483656 bytes .*, got room for 1073741824 bytes"):
        read_idx(tmp_path / "bomb.gz")
    content = header[:4] + (2**20).to_bytes(4, "big") + bytes(2**20)
    (tmp_path / "small.gz").write_bytes(gzip.compress(content))
    assert len(read_idx(tmp_path / "small.gz")) == 2**20
    with pytest.raises(DataError, match="room for 1000 bytes"):
        read_idx(tmp_path / "small.gz", largest=1000)


def test_cifar10_downloads_and_unpacks_only_its_own_files(server, tiny_cifar10, empty_cache, monkeypatch):
    folder, url = server
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as tar:
        names = [f"{CIFAR10.FOLDER}/{name}" for name in (*tiny_cifar10, "batches.meta.txt", "readme.html")]
        for name, content in itertools.zip_longest([*names, "../escaped"], tiny_cifar10.values(), fillvalue=b"text"):
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    (folder / CIFAR10.ARCHIVE).write_bytes(stream.getvalue())
    monkeypatch.setattr(CIFAR10, "URLS", [url + CIFAR10.ARCHIVE])
    with pytest.raises(DataError, match=r"CIFAR-10 is not on this machine .*127\.0\.0\.1: wrong checksum"):
        cifar10()
    assert os.listdir(empty_cache / "cifar10") == []
    monkeypatch.setattr(CIFAR10, "ARCHIVE_MD5", md5(stream.getvalue()))
    assert len(cifar10().train) == 20
    assert os.listdir(empty_cache) == ["cifar10"]
    assert os.listdir(empty_cache / "cifar10") == [CIFAR10.FOLDER]
    assert sorted(os.listdir(empty_cache / "cifar10" / CIFAR10.FOLDER)) == ["batches.meta.txt", *sorted(tiny_cifar10)]
    assert len(cifar10(download=False).test) == 4
    # A process that finishes second finds the folder there, keeps it and cleans up after itself.
    assert CIFAR10._download(empty_cache / "cifar10") == empty_cache / "cifar10" / CIFAR10.FOLDER
    assert os.listdir(empty_cache / "cifar10") == [CIFAR10.FOLDER]


# ---------------------------------------------------------------------------------------------------------------------
# Digits, and the door


def test_digits_look_like_mnist():
    pytest.importorskip("sklearn")
    found = digits()
    assert found.train.images.shape == (1500, 1, 28, 28)
    assert found.train.images.dtype == np.float32
    frame = np.ones((28, 28), bool)
    frame[4:-4, 4:-4] = False
    assert not found.train.images[:, 0, frame].any()
    assert found.train.images.max() == 1
    # Stratified: of 1,797 digits, 174 to 183 of each kind, a sixth is 28.8 to 30.2.
    assert set(np.bincount(found.test.labels)) <= {28, 29, 30, 31}


def test_digits_are_upright_and_split_by_the_seed():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    one, same, other = digits(seed=1), digits(seed=1), digits(seed=2)
    np.testing.assert_array_equal(one.test.images, same.test.images)
    assert not np.array_equal(one.test.labels, other.test.labels)
    # Every original is there once: averaging 20 x 20 down to 4 x 4 gives what averaging 8 x 8 does, but for the spline.
    both = np.concatenate([one.train.images, one.test.images])[:, 0, 4:-4, 4:-4]
    small = both.reshape(-1, 4, 5, 4, 5).mean((2, 4)).reshape(-1, 16)
    raw = (sklearn_datasets.load_digits().images / 16).reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16)
    distances = ((raw[:, None] - small[None]) ** 2).sum(-1)
    assert distances.min(axis=1).max() < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_size": 0}, r"test_size must be an integer in 10\.\.1787, got 0"),
        ({"test_size": 0.2}, r"test_size must be an integer in 10\.\.1787, got 0.2"),
        ({"seed": -1}, "seed must be an integer .* got -1"),
        ({"seed": None}, "seed must be an integer .* got None"),
    ],
)
def test_digits_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        digits(**options)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'^digits\(\) needs scikit-learn: pip install "npadv\[demo\]"$'):
        digits()


def test_load_finds_by_name(tiny_cifar10, tmp_path):
    assert list(data.DATASETS) == ["digits", "mnist", "cifar10"]
    with pytest.raises(DataError, match="train-images"):
        data.load("mnist", root=tmp_path, download=False)
    with pytest.raises(ValueError, match=r"one of digits, mnist, cifar10, got 'minst'; did you mean 'mnist'\?$"):
        data.load("minst")
    with pytest.raises(ValueError, match=r"one of digits, mnist, cifar10, got 'imagenet'$"):
        data.load("imagenet")


def test_import_is_light():
    code = (
        "import sys, npadv; before = set(sys.modules); import npadv.data; "
        "never = {'sklearn', 'pooch', 'tqdm', 'requests', 'matplotlib'} & set(sys.modules); "
        "here = {'scipy', 'scipy.ndimage'} & (set(sys.modules) - before); "
        "sys.exit(f'imported {never | here}' if never | here else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
