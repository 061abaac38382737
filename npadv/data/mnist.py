"""MNIST: 60,000 + 10,000 handwritten digits, the papers' first dataset (LeCun, Cortes and Burges, 1998)."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from npadv.data.dataset import Dataset, Split
from npadv.data.files import (
    DownloadError,
    check_md5,
    data_folders,
    download_file,
    find_file,
    missing_dataset,
    missing_file,
)
from npadv.data.idx import read_idx

__all__ = ["mnist"]

# The published MD5 of each file, and the MD5 of its contents, for files kept unpacked.
FILES = {
    "train-images-idx3-ubyte": ("f68b3c2dcbeaaa9fbdd348bbdeb94873", "6bbc9ace898e44ae57da46a324031adb"),
    "train-labels-idx1-ubyte": ("d53e105ee54ea40749a09fcbcd1e9432", "a25bea736e30d166cdddb491f175f624"),
    "t10k-images-idx3-ubyte": ("9fb629c4189551a2d022fa330f9573f3", "2646ac647ad5339dbf082846283269ea"),
    "t10k-labels-idx1-ubyte": ("ec29112dd5afa0611ce80d1b7f02629c", "27ae3e4e09519cfbb04c329615203637"),
}
MIRRORS = ["https://ossci-datasets.s3.amazonaws.com/mnist/", "https://storage.googleapis.com/cvdf-datasets/mnist/"]


def mnist(root: str | os.PathLike[str] | None = None, *, download: bool = True) -> Dataset:
    """Load MNIST: images (60000, 1, 28, 28) and (10000, 1, 28, 28), pixels / 255, ink 1 on paper 0.

    Parameters
    ----------
    root : path, optional
        Folder with the four canonical files, gzipped or not, or with a subfolder ``mnist`` of them; also where missing
        ones are downloaded to. By default $NPADV_DATA, then the user's cache, and downloads go to the cache.
    download : bool
        Download missing files (11 MB, once; needs pooch).

    Raises
    ------
    DataError
        A file is missing and cannot be downloaded, or its checksum is wrong.

    Examples
    --------
    >>> mnist("an/empty/folder", download=False)
    Traceback (most recent call last):
    npadv.data.files.DataError: train-images-idx3-ubyte.gz: expected in one of ...; set NPADV_DATA to a folder ...
    """
    folders = data_folders(root, "mnist")
    arrays = [read_idx(_find(name, folders, download)) for name in FILES]
    train_images, train_labels, test_images, test_labels = arrays
    return Dataset(
        name="mnist",
        train=_split(train_images, train_labels),
        test=_split(test_images, test_labels),
        classes=tuple("0123456789"),
    )


def _find(name: str, folders: list[Path], download: bool) -> Path:
    """Return the path of a file whose checksum is right."""
    packed, unpacked = FILES[name]
    dotted = name.replace("-idx", ".idx")  # as some archives unpack it
    places = [folder / sub for folder in folders for sub in ("", "mnist")]
    path = find_file([f"{name}.gz", f"{dotted}.gz", name, dotted], places)
    if path is not None:
        check_md5(path, packed if path.suffix == ".gz" else unpacked)
        return path
    if not download:
        raise missing_file(f"{name}.gz", places)
    try:
        return download_file(f"{name}.gz", [mirror + f"{name}.gz" for mirror in MIRRORS], packed, folders[-1])
    except DownloadError as error:
        instead = "use the digits (--data digits), or "
        raise missing_dataset("MNIST", [f"{file}.gz" for file in FILES], folders[-1], error, instead) from error


def _split(pixels: np.ndarray, labels: np.ndarray) -> Split:
    images = pixels[:, None].astype(np.float32)  # (N, H, W) -> (N, 1, H, W)
    images /= 255
    return Split(images, labels)
