"""Files that are complete or absent: written under a temporary name, then renamed in one step."""

from __future__ import annotations

import io
import json
import math
import os
import secrets
import sys
import zipfile
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from npadv.file_kinds import describe_file


def atomic_write(path: str | os.PathLike[str], data: bytes | str, *, sync: bool = True) -> Path:
    """Write `data` (text as UTF-8) to `path`, so that a crash never leaves half a file.

    A missing folder is made. If writing fails, an older file at `path` stays as it was, no temporary file is left, and the
    error names `path`. A killed process may leave its temporary file; `clear_temporaries` removes it. Without `sync`, the
    file may be lost, or empty, after a power failure.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, so on the same file system, where a rename is atomic. open() gives the usual permissions, unlike
    # mkstemp, which gives 0600.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.errno is not None:
            raise OSError(error.errno, error.strerror, os.fspath(path)) from error
        raise
    return path


def clear_temporaries(folder: Path, names: Collection[str]) -> None:
    """Remove the temporary files of these names that killed processes left in a folder; no other process may write there."""
    for path in folder.glob(".*.*"):
        name, _, token = path.name[1:].rpartition(".")
        if name in names and len(token) == 8 and set(token) <= set("0123456789abcdef"):
            path.unlink(missing_ok=True)


def user_cache() -> Path:
    """Return the folder for downloads and compiled kernels, as is usual on the platform; it need not exist.

    pooch has such a function too; this one finds earlier downloads where pooch is not installed.

    >>> user_cache().parts[-1]
    'npadv'
    """
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "npadv"


def write_json(path: str | os.PathLike[str], data: Any) -> Path:
    """Write `data` as indented JSON; NumPy scalars and arrays become numbers and lists, NaN and infinity are refused.

    Raises
    ------
    ValueError
        If a number is not finite; the message says where it is.
    TypeError
        If a value has no JSON form.
    """
    return atomic_write(path, to_json(data, "data", indent=2) + "\n")


def to_json(data: Any, name: str, *, indent: int | None = None) -> str:
    """Return `data` as JSON, by the rules of `write_json`; `name` stands for it in errors.

    >>> to_json({"units": np.int64(240)}, "about")
    '{"units": 240}'
    """
    return json.dumps(_plain(data, name), indent=indent, ensure_ascii=False)


def as_json(data: Any) -> Any:
    """Return `data` as it comes back from a JSON file: tuples are lists.

    >>> as_json({"shape": (1, 28)})
    {'shape': [1, 28]}
    """
    return json.loads(json.dumps(data))


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any], *, sync: bool = True) -> None:
    """Write named arrays as an ``.npz`` archive, under exactly this name; Python objects are refused.

    ``sync`` is that of ``atomic_write``.
    """
    buffer = io.BytesIO()
    # Not np.savez: it pickles Python objects, and it cannot take names such as "file".
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    atomic_write(path, buffer.getvalue(), sync=sync)


class ArrayHeader(NamedTuple):
    """The shape and dtype of an array in an archive, known before the array is read."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def nbytes(self) -> int:
        """The size of the array in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


LARGEST = 2**30
"""Bytes that the arrays of a compressed archive may take: a small file can unpack to a thousand times its size."""


def load_arrays(
    path: str | os.PathLike[str],
    check: Callable[[dict[str, ArrayHeader]], object] | None = None,
    *,
    only: Collection[str] | None = None,
) -> dict[str, np.ndarray]:
    """Read an ``.npz`` archive of plain arrays. Nothing in it is ever unpickled.

    Parameters
    ----------
    path : path
        The archive.
    check : callable, optional
        Is called with the headers of all arrays before any array is read; raises a ValueError if they are not as expected.
    only : collection of str, optional
        Names of the arrays to read; by default all.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is not such an archive, is damaged, holds Python objects, or holds more than the memory it may need.
    """
    headers = array_headers(path)
    if check is not None:
        check(headers)
    names = [name for name in headers if only is None or name in only]
    where, need = os.fspath(path), sum(headers[name].nbytes for name in names)
    if need > max(LARGEST, os.path.getsize(path)):
        raise ValueError(
            f"{where}: expected arrays of at most {LARGEST:,} bytes, got {need:,} bytes in a compressed file"
        )
    arrays: dict[str, np.ndarray] = {}
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            for name in names:
                where = f"{os.fspath(path)}: {_printable(name)}"
                with archive.open(f"{name}.npy") as member:
                    arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
                    member.read(1)  # at its end a member is compared with its checksum
    except Exception as error:  # zipfile, zlib and NumPy raise half a dozen types for a damaged archive
        raise _unreadable(where, error) from error
    return arrays


def array_headers(path: str | os.PathLike[str]) -> dict[str, ArrayHeader]:
    """Return the shape and dtype of each array of an ``.npz`` archive, reading a few bytes of each.

    Raises
    ------
    FileNotFoundError, ValueError
        As for ``load_arrays``.
    """
    headers: dict[str, ArrayHeader] = {}
    where = os.fspath(path)
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                name = member.filename.removesuffix(".npy")
                where = f"{os.fspath(path)}: {_printable(name)}"
                if not member.filename.endswith(".npy") or name in headers:
                    raise ValueError("is not the name of one array")
                headers[name] = _read_header(archive, member)
    except FileNotFoundError:
        raise
    except Exception as error:
        kind = "a zip archive" if headers else describe_file(path)
        if kind == "a zip archive":
            raise _unreadable(where, error) from error
        raise _unreadable(os.fspath(path), f"it seems to be {kind}") from error
    return headers


def _read_header(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> ArrayHeader:
    """Return an array's header, if its size agrees with the size of the member."""
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError("is compressed by a method that NumPy does not use")
    # Deflate packs at most 1032 bytes into one. A larger size in the archive's table is a false one.
    if member.file_size > (1 if member.compress_type == zipfile.ZIP_STORED else 1032) * member.compress_size + 64:
        raise ValueError(f"cannot hold {member.file_size:,} bytes")
    with archive.open(member) as file:
        version = np.lib.format.read_magic(file)
        read = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, _, dtype = read(file)
        start = file.tell()
    if dtype.hasobject:
        raise ValueError("holds Python objects, which npadv never loads")
    header = ArrayHeader(shape, dtype)
    if min(shape, default=0) < 0 or start + header.nbytes != member.file_size:
        raise ValueError(f"has {member.file_size:,} bytes, not those of shape {shape} and {dtype}")
    return header


def _printable(name: str) -> str:
    r"""Return a member's name for an error message, which is one short line.

    >>> _printable("weight\n")
    'weight?'
    """
    return "".join(letter if letter.isprintable() else "?" for letter in name[:60])


def _unreadable(where: str, reason: object) -> ValueError:
    text = " ".join(str(reason).split())[:200]
    return ValueError(f"{where}: expected an .npz archive of arrays, could not read it ({text})")


def from_json(text: str, name: str) -> Any:
    """Return the value that a text holds as JSON, or raise a ValueError that calls the text ``name``.

    >>> from_json('{"seed": 0}', "settings")
    {'seed': 0}
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise ValueError(f"{name}: expected JSON, got {text[:40]!r} ({reason})") from error


def _plain(value: Any, where: str) -> Any:
    """Return `value` in Python's own types.

    >>> _plain({"accuracy": np.float32(0.5), "eps": np.array([0.25])}, "data")
    {'accuracy': 0.5, 'eps': [0.25]}
    >>> _plain({"loss": [1.0, float("nan")]}, "data")
    Traceback (most recent call last):
    ValueError: data['loss'][1] is nan; expected a finite number, or None for one that is missing
    """
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}; expected text, the only keys JSON has")
        return {key: _plain(entry, f"{where}[{key!r}]") for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry, f"{where}[{i}]") for i, entry in enumerate(value)]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{where} is {value}; expected a finite number, or None for one that is missing")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"{where} is a {type(value).__name__}; expected text, a number, a list or a dict")
