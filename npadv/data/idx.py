"""The IDX format of MNIST: an array behind a header that gives its dtype and shape.

    0x00 0x00  dtype  d        two zero bytes, the code of the dtype, the number of dimensions
    n_1 ... n_d                each size as a big-endian uint32
    data                       n_1 * ... * n_d values, big-endian, last index fastest

This module reads whole files, plain or gzipped; it does not write them.
"""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from npadv.data.files import bad_file

__all__ = ["read_idx"]

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: str | os.PathLike[str], *, largest: int = 2**30) -> np.ndarray:
    r"""Read the array in an IDX file.

    Parameters
    ----------
    path : path
        The file. Its first two bytes, not its name, tell whether it is gzipped.
    largest : int
        Bytes that a gzipped file may unpack to: a small one can hold a thousand times its size.

    Returns
    -------
    array
        Of the shape and dtype in the header, in this machine's byte order, writable.

    Raises
    ------
    DataError
        If the file is missing, truncated, too long, too large, or no IDX file.

    Examples
    --------
    >>> import pathlib, tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = pathlib.Path(folder, "row.idx")
    ...     _ = path.write_bytes(b"\0\0" b"\x0b\1" b"\0\0\0\2" b"\0\5\1\0")
    ...     read_idx(path)
    array([  5, 256], dtype=int16)
    """
    path = Path(path)
    try:
        packed = _is_gzip(path)
        with gzip.open(path) if packed else path.open("rb") as stream:
            return _read(path, stream, largest if packed else path.stat().st_size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise bad_file(path, "a whole gzip file", f"a damaged one ({error})") from error
    except OSError as error:
        raise bad_file(
            path, "a readable IDX file", str(error.strerror), "give the path of a file that exists"
        ) from error


def _read(path: Path, stream: Any, largest: int) -> np.ndarray:
    """Read the header, then as many bytes as it says and no more."""
    head = stream.read(4)
    if len(head) < 4:
        raise bad_file(path, "a header of at least 4 bytes", f"a file of {len(head)}")
    if head[:2] != b"\0\0":
        stream.read(2**16)  # a damaged gzip file raises its own error here
        raise bad_file(path, "an IDX file, which starts with the bytes 00 00", head[:2].hex(" "))
    code, rank = head[2], head[3]
    if code not in DTYPES:
        raise bad_file(path, f"one of the dtype codes {', '.join(f'0x{c:02x}' for c in DTYPES)}", f"0x{code:02x}")
    sizes = stream.read(4 * rank)
    start = 4 + len(sizes)
    if len(sizes) < 4 * rank:
        raise bad_file(path, f"a header of {4 + 4 * rank} bytes for {rank} dimensions", f"a file of {start}")
    shape, dtype = tuple(np.frombuffer(sizes, ">u4").tolist()), np.dtype(DTYPES[code])
    count = math.prod(shape) * dtype.itemsize  # Python integers, which the sizes in a damaged header cannot overflow
    expected = f"{start + count} bytes for shape {shape} of {dtype.newbyteorder('=')}"
    if count > largest:
        raise bad_file(path, expected, f"room for {largest} bytes" if _is_gzip(path) else f"{largest} bytes")
    data = stream.read(count)
    if len(data) < count:
        raise bad_file(path, expected, f"{start + len(data)} bytes")
    if stream.read(1):
        size = path.stat().st_size
        raise bad_file(path, expected, f"{size} bytes" if size > start + count else "more")
    return np.frombuffer(data, dtype).reshape(shape).astype(dtype.newbyteorder("="))


def _is_gzip(path: Path) -> bool:
    with path.open("rb") as stream:
        return stream.read(2) == GZIP_MAGIC
