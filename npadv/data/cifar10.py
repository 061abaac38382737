"""CIFAR-10: 50,000 + 10,000 colour photographs of ten kinds of things (Krizhevsky, 2009), from its binary version.

A batch file is a sequence of records: one byte of label, then 3072 bytes of pixels, the red plane, the green and the blue.
The version "for Python" is a pickle, which may run code when it is read, and is not supported.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import tempfile
from pathlib import Path

import numpy as np

from npadv.data.dataset import Dataset, Split
from npadv.data.files import (
    DownloadError,
    bad_file,
    data_folders,
    download_file,
    find_file,
    missing_dataset,
    missing_file,
)

__all__ = ["cifar10", "read_batch"]

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = "cifar-10-batches-bin"
BATCHES = [*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"]
RECORDS = 10_000  # in each batch file
SHAPE = (3, 32, 32)
ARCHIVE = "cifar-10-binary.tar.gz"
ARCHIVE_MD5 = "c32a1d4ab5d03f1284b67883e8d87530"
URLS = ["https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz"]


def cifar10(root: str | os.PathLike[str] | None = None, *, download: bool = True) -> Dataset:
    """Load CIFAR-10: images (50000, 3, 32, 32) and (10000, 3, 32, 32), planes R, G, B, pixels / 255.

    Parameters
    ----------
    root : path, optional
        Folder with the six batch files or with a subfolder ``cifar10`` or ``cifar-10-batches-bin`` of them; also where
        they are downloaded to. By default $NPADV_DATA, then the user's cache, and downloads go to the cache.
    download : bool
        Download them if there is none (170 MB, once; needs pooch).

    Raises
    ------
    DataError
        A file is missing and cannot be downloaded, or has a wrong size, checksum or label. The published checksum is that
        of the archive; of unpacked batch files, only the sizes and labels are checked.

    Examples
    --------
    >>> cifar10("an/empty/folder", download=False)
    Traceback (most recent call last):
    npadv.data.files.DataError: data_batch_1.bin: expected in one of ...; set NPADV_DATA to a folder ...
    """
    folders = data_folders(root, "cifar10")
    subfolders = ("", "cifar10", FOLDER, f"cifar10/{FOLDER}")
    places = [folder / sub for folder in folders for sub in subfolders]
    found = find_file(BATCHES, places)
    if found is None and not download:
        raise missing_file(BATCHES[0], places)
    # All six come from one folder: an incomplete set is an error and never completed from another copy.
    folder = found.parent if found is not None else _download(folders[-1])
    *train, test = (read_batch(folder / name, RECORDS) for name in BATCHES)
    return Dataset("cifar10", _split(train), _split([test]), CLASSES)


def read_batch(path: str | os.PathLike[str], records: int = RECORDS) -> tuple[np.ndarray, np.ndarray]:
    """Read one batch file: images (records, 3, 32, 32) and labels (records,), both uint8.

    Raises
    ------
    DataError
        If the file is missing, is not records * 3073 bytes long, or has a label above 9.
    """
    path, length = Path(path), 1 + np.prod(SHAPE).item()
    try:
        size = path.stat().st_size
        if size != records * length:
            raise bad_file(path, f"{records * length} bytes for {records} records of {length}", f"{size} bytes")
        data = path.read_bytes()
    except OSError as error:
        remedy = "delete its folder, and the next call downloads all six files"
        raise bad_file(path, "a readable batch file", str(error.strerror), remedy) from error
    rows = np.frombuffer(data, np.uint8).reshape(records, length)
    labels, pixels = rows[:, 0], rows[:, 1:]
    if records and labels.max() >= len(CLASSES):
        raise bad_file(path, f"labels in 0..{len(CLASSES) - 1}", f"{labels.max()} in record {labels.argmax()}")
    return pixels.reshape(records, *SHAPE), labels


def _split(parts: list[tuple[np.ndarray, np.ndarray]]) -> Split:
    images = np.concatenate([pixels for pixels, _ in parts]).astype(np.float32)
    images /= 255
    return Split(images, np.concatenate([labels for _, labels in parts]))


def _download(folder: Path) -> Path:
    """Download and unpack the archive into ``folder``; return the folder of batch files, which is complete or absent."""
    try:
        archive = download_file(ARCHIVE, URLS, ARCHIVE_MD5, folder)
    except DownloadError as error:
        raise missing_dataset("CIFAR-10", BATCHES, folder, error) from error
    target = folder / FOLDER
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        unpacked = Path(temporary, FOLDER)
        unpacked.mkdir()
        with tarfile.open(archive) as tar:
            for name in [*BATCHES, "batches.meta.txt"]:  # by name, so that no path in the archive is used
                member = tar.extractfile(f"{FOLDER}/{name}")
                if member is None:
                    raise bad_file(archive, f"a file {FOLDER}/{name}", "something else of that name")
                with member, open(unpacked / name, "wb") as file:
                    shutil.copyfileobj(member, file)
        try:
            unpacked.rename(target)
        except OSError:
            if not target.is_dir():  # else another process has unpacked the same files
                raise
    archive.unlink(missing_ok=True)
    return target
