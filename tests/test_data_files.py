"""The readers of data files: on good files, on files that are wrong in every way, and on downloads."""

import gzip
import hashlib
import importlib
import io
import itertools
import os
import struct
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
from npadv.data import DataError, cifar10, mnist
from npadv.data.cifar10 import read_batch
from npadv.data.files import check_md5, data_folders, download_file, user_cache
from npadv.data.idx import DTYPES, read_idx

# `npadv.data.mnist` as an attribute is the function; the module of that name is in sys.modules.
MNIST = importlib.import_module("npadv.data.mnist")
CIFAR10 = importlib.import_module("npadv.data.cifar10")


def md5(content):
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


# IDX ------------------------------------------------------------------------------------------------------------------


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


# Finding files --------------------------------------------------------------------------------------------------------


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


# MNIST ----------------------------------------------------------------------------------------------------------------


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


# CIFAR-10 -------------------------------------------------------------------------------------------------------------


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


# Downloads, from a server in this process -----------------------------------------------------------------------------


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


# By name --------------------------------------------------------------------------------------------------------------


def test_load_finds_by_name(tiny_cifar10, tmp_path):
    assert list(data.DATASETS) == ["digits", "mnist", "cifar10"]
    with pytest.raises(DataError, match="train-images"):
        data.load("mnist", root=tmp_path, download=False)
    with pytest.raises(ValueError, match=r"one of digits, mnist, cifar10, got 'minst'; did you mean 'mnist'\?$"):
        data.load("minst")
    with pytest.raises(ValueError, match=r"one of digits, mnist, cifar10, got 'imagenet'$"):
        data.load("imagenet")
