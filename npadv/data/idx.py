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

import numpy as np

from npadv.data.files import bad_file

__all__ = ["read_idx"]

DTYPES = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
GZIP_MAGIC = b"\x1f\x8b"


def read_idx(path: str | os.PathLike[str]) -> np.ndarray:
    r"""Read the array in an IDX file.

    Parameters
    ----------
    path
        The file. Its first two bytes, not its name, tell whether it is gzipped.

    Returns
    -------
    array
        Of the shape and dtype in the header, in this machine's byte order, writable.

    Raises
    ------
    DataError
        If the file is missing, truncated, too long, or no IDX file.

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
    data = _read_bytes(path)
    if len(data) < 4:
        raise bad_file(path, "a header of at least 4 bytes", f"a file of {len(data)}")
    if data[:2] != b"\0\0":
        raise bad_file(path, "an IDX file, which starts with the bytes 00 00", data[:2].hex(" "))
    code, rank = data[2], data[3]
    if code not in DTYPES:
        raise bad_file(path, f"one of the dtype codes {', '.join(f'0x{c:02x}' for c in DTYPES)}", f"0x{code:02x}")
    start = 4 + 4 * rank
    if len(data) < start:
        raise bad_file(path, f"a header of {start} bytes for {rank} dimensions", f"a file of {len(data)}")
    shape = tuple(np.frombuffer(data, ">u4", count=rank, offset=4).tolist())
    dtype = np.dtype(DTYPES[code])
    expected = (
        start + math.prod(shape) * dtype.itemsize
    )  # Python integers, which the sizes in a damaged header cannot overflow
    if len(data) != expected:
        raise bad_file(path, f"{expected} bytes for shape {shape} of {dtype.newbyteorder('=')}", f"{len(data)} bytes")
    return np.frombuffer(data, dtype, offset=start).reshape(shape).astype(dtype.newbyteorder("="))


def _read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise bad_file(
            path, "a readable IDX file", str(error.strerror), "give the path of a file that exists"
        ) from error
    if data[:2] != GZIP_MAGIC:
        return data
    try:
        return gzip.decompress(data)
    except (EOFError, OSError, zlib.error) as error:
        raise bad_file(path, "a whole gzip file", f"a damaged one ({error})") from error
