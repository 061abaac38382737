"""Finding data files, checking them, and downloading missing ones.

A file is searched for in the folder that the caller names; without one, in the folder that the environment variable
NPADV_DATA names, and then in the user's cache, into which a missing file is downloaded. Nothing is ever unpickled. A
download gets its final name only after its checksum was right.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from npadv.files import user_cache

__all__ = [
    "VARIABLE",
    "DataError",
    "DownloadError",
    "bad_file",
    "check_md5",
    "data_folders",
    "download_file",
    "find_file",
    "missing_dataset",
    "missing_file",
    "user_cache",
]

VARIABLE = "NPADV_DATA"


class DataError(ValueError):
    """A data file is missing or wrong; the message names the file, the fault and the remedy."""


class DownloadError(DataError):
    """A data file could not be downloaded; ``reason`` says why in a few words."""

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


def bad_file(path: Path | str, expected: str, got: str, remedy: str = "") -> DataError:
    """Build the error for a file that is there and wrong.

    >>> bad_file("t10k.gz", "8 bytes", "7")
    DataError('t10k.gz: expected 8 bytes, got 7; delete the file and fetch it again')
    """
    return DataError(f"{path}: expected {expected}, got {got}; {remedy or 'delete the file and fetch it again'}")


def data_folders(root: str | os.PathLike[str] | None, name: str) -> list[Path]:
    """Return the folders in which to search for the dataset ``name``; the last one takes a download.

    >>> [str(folder) for folder in data_folders("here", "mnist")]
    ['here']
    """
    if root is not None:
        return [Path(root)]
    cache = user_cache() / name
    if not (named := os.environ.get(VARIABLE)):
        return [cache]
    if not Path(named).is_dir():  # a misspelt folder must not become a silent download
        raise DataError(f"{VARIABLE} must name a folder that exists, got {named!r}; correct it or unset it")
    return [Path(named), cache]


def find_file(names: Iterable[str], folders: Iterable[Path]) -> Path | None:
    """Return the path of one of the ``names`` (spellings of one file) in the first of the ``folders`` that has one, or None."""
    names = list(names)
    return next((path for folder in folders for name in names if (path := folder / name).is_file()), None)


def missing_file(name: str, folders: Iterable[Path]) -> DataError:
    """Build the error for a file that is in none of the folders."""
    looked = ", ".join(str(folder) for folder in folders)
    return DataError(
        f"{name}: expected in one of {looked}; found none there; "
        f"set {VARIABLE} to a folder that holds it, or let it be downloaded with download=True"
    )


def check_md5(path: Path, md5: str) -> None:
    """Raise DataError unless the file's MD5 is ``md5``, in hexadecimal.

    The datasets' authors published MD5 sums. They detect damage; they are no protection against forgery.
    """
    with path.open("rb") as stream:
        got = hashlib.file_digest(stream, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
    if got != md5:
        remedy = f"delete the file, and the next call downloads it, or set {VARIABLE} to a folder with a good copy"
        raise bad_file(path, f"MD5 {md5}", got, remedy)


def download_file(name: str, urls: Iterable[str], md5: str, folder: Path) -> Path:
    """Download one file into ``folder``, from the first of the ``urls`` that has it with the right checksum.

    pooch writes to a temporary name, checks it and then moves it, so an interrupted download leaves no ``name`` behind.

    Raises
    ------
    DownloadError
        If pooch is not installed or no URL gave the file; each URL's failure is in the message.
    """
    by_hand = f"download it by hand and set {VARIABLE} to its folder"
    try:
        import pooch
    except ImportError as error:
        raise DownloadError(
            f"{name}: expected in {folder}, found nothing, and downloading needs pooch; "
            f'pip install "npadv[demo]", or {by_hand}',
            'downloading needs pooch: pip install "npadv[demo]"',
        ) from error
    progress = sys.stderr.isatty() and importlib.util.find_spec("tqdm") is not None
    failures, short = [], []
    for url in urls:
        try:
            return Path(pooch.retrieve(url, f"md5:{md5}", fname=name, path=folder, progressbar=progress))
        except (OSError, ValueError) as error:  # no network, no such file, no right to write; a wrong checksum
            reason = _reason(error)
            failures.append(f"{url}: {reason}")
            short.append(f"{urlsplit(url).hostname}: {'wrong checksum' if isinstance(error, ValueError) else reason}")
    raise DownloadError(
        f"{name}: expected MD5 {md5}, got it from no URL ({'; '.join(failures)}); try again, or {by_hand}",
        "; ".join(short),
    )


def missing_dataset(
    title: str, names: Iterable[str], folder: Path, error: DownloadError, instead: str = ""
) -> DataError:
    """Build the error for a data set that is not on this machine and could not be downloaded."""
    return DataError(
        f"{title} is not on this machine and could not be downloaded ({error.reason}); {instead}put these files into "
        f"{folder}, or into a folder that {VARIABLE} names: {', '.join(names)}"
    )


def _reason(error: Exception) -> str:
    """Return the reason of a failed download in a few words; error messages of HTTP libraries have hundreds of characters."""
    names = {kind.__name__ for kind in type(error).__mro__}
    if names & {"ConnectionError", "ConnectTimeout", "Timeout", "gaierror"}:
        return "no connection"
    return " ".join(str(error).split())[:200]
