"""Files that are complete or absent: written under a temporary name, then renamed in one step."""

from __future__ import annotations

import io
import json
import math
import os
import secrets
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def atomic_write(path: str | os.PathLike[str], data: bytes | str) -> Path:
    """Write `data` (text as UTF-8) to `path`, so that a crash never leaves half a file.

    A missing folder is made. If writing fails, an older file at `path` stays as it was, and no temporary file is left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # In the same folder, so on the same file system, where a rename is atomic. open() gives the usual permissions, unlike
    # mkstemp, which gives 0600.
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with open(temporary, "xb") as file:
            file.write(data.encode() if isinstance(data, str) else data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


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


def save_arrays(path: str | os.PathLike[str], arrays: Mapping[str, Any]) -> None:
    """Write named arrays as an ``.npz`` archive, under exactly this name; Python objects are refused."""
    buffer = io.BytesIO()
    # Not np.savez: it pickles Python objects, and it cannot take names such as "file".
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)
    atomic_write(path, buffer.getvalue())


def load_arrays(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read an ``.npz`` archive of plain arrays; one that would need unpickling is refused.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        The file is not such an archive, is damaged or holds Python objects.
    """
    arrays: dict[str, np.ndarray] = {}
    where = os.fspath(path)
    try:
        # Opened here, since np.load leaves the file of a damaged archive open.
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as archive:
            for name in archive.files:
                where = f"{os.fspath(path)}: {name}"
                arrays[name] = archive[name]
    except FileNotFoundError:
        raise
    except Exception as error:  # zipfile and numpy raise half a dozen types for a damaged archive
        raise ValueError(f"{where}: expected an .npz archive of arrays, could not read it ({error})") from error
    return arrays


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
