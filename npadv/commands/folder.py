"""The folder of a run's results. A second run overwrites nothing in it, unless the user asks for that."""

from __future__ import annotations

from pathlib import Path


def check_folder(out: Path, *files: str, overwrite: bool, hint: str = "") -> None:
    """Raise an error if the folder is a file, or holds one of these files and may not be overwritten."""
    if out.exists() and not out.is_dir():
        raise NotADirectoryError(f"--out: expected a folder, got the file {out}")
    for path in (out / file for file in files):
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path}: exists; choose another --out, {hint}or --overwrite it")
