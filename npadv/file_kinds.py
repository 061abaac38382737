"""What kind of file a file seems to be, for the error about one of another kind."""

from __future__ import annotations

import codecs
import os
import zipfile

SIGNATURES = {
    b"\x89PNG": "a PNG picture",
    b"\xff\xd8\xff": "a JPEG picture",
    b"GIF8": "a GIF picture",
    b"%PDF": "a PDF document",
    b"\x1f\x8b": "a gzip file",
    b"\x93NUMPY": "a single array (.npy)",
    b"\x89HDF": "an HDF5 file",
    b"\x80\x02": "a pickle (an older file of PyTorch's is one), which npadv never opens",
    b"\x80\x03": "a pickle, which npadv never opens",
    b"\x80\x04": "a pickle, which npadv never opens",
    b"\x80\x05": "a pickle, which npadv never opens",
}


def describe_file(path: str | os.PathLike[str]) -> str:
    """Return what kind of file this seems to be, from its first bytes; its name says nothing."""
    if os.path.isdir(path):
        return "a folder"
    with open(path, "rb") as file:
        head = file.read(4096)
    if not head:
        return "an empty file"
    for signature, kind in SIGNATURES.items():
        if head.startswith(signature):
            return kind
    if head.startswith(b"PK"):
        try:
            with zipfile.ZipFile(path) as archive:
                torch = any(name.endswith("data.pkl") for name in archive.namelist())
        except Exception:  # zipfile raises half a dozen types
            return "a damaged zip archive"
        return "a file of PyTorch's, which holds pickles that npadv never opens" if torch else "a zip archive"
    if head[8:9] == b"{":
        return "a safetensors file"
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # incremental, since the last character may be cut
    except UnicodeDecodeError:
        return "an unknown or damaged file"
    return "an unknown or damaged file" if b"\0" in head else "a text file"
