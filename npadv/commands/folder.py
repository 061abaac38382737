"""The folder of a run's results: locked and tried before the work, and overwritten only if the user asks for that."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from npadv.files import clear_temporaries

try:
    import fcntl
except ImportError:  # Windows, where two runs into one folder go unnoticed
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"


@contextlib.contextmanager
def open_folder(out: Path, *files: str) -> Iterator[None]:
    """Make the folder and hold its lock, so that a run finds out before its work whether it can write there.

    Temporary files of killed runs are removed. A folder that is still empty at the end is removed too.

    Parameters
    ----------
    out : Path
        The folder.
    files : str
        The files that the run will write.

    Raises
    ------
    OSError
        The folder cannot be made or written to, or one of the files is a folder.
    RuntimeError
        Another run is writing into the folder.
    """
    if _is_other_than_folder(out):
        raise NotADirectoryError(f"--out: expected a folder, got the file {out}")
    new = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        lock = _lock(out)
    except OSError as error:
        _remove_empty(new)
        raise OSError(f"--out: cannot write into {out}: {error.strerror}") from error
    if lock is None:
        raise RuntimeError(f"--out: another run is writing into {out}; wait for its end, or choose another --out")
    try:
        for path in (out / file for file in files):
            if path.is_dir():
                raise IsADirectoryError(f"{path}: expected a file or nothing, got a folder")
        clear_temporaries(out, files)
        yield
    finally:
        with contextlib.suppress(OSError):
            (out / LOCK).unlink()
        os.close(lock)
        _remove_empty(new)


def check_folder(out: Path, *files: str, overwrite: bool, hint: str = "") -> None:
    """Raise an error if the folder holds one of these files and may not be overwritten."""
    for path in (out / file for file in files):
        if path.exists() and not overwrite:
            raise FileExistsError(f"{path}: exists; choose another --out, {hint}or --overwrite it")


def _lock(out: Path) -> int | None:
    """Make the folder and return a descriptor that holds its lock, or None if another process holds it.

    The system releases the lock when the process ends, even when it is killed.
    """
    for left in reversed(range(100)):
        try:
            out.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        except (FileNotFoundError, FileExistsError):
            if not left:
                raise
            continue  # another run has just removed the folder, which it left empty
        if fcntl is None:
            return descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return None
        except OSError:  # a file system without locks
            return descriptor
        # The other run may have removed the file between our opening and locking it: then lock the new file.
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), os.stat(out / LOCK)):
                return descriptor
        os.close(descriptor)
    return None


def _is_other_than_folder(path: Path) -> bool:
    """Whether there is something at the path that is no folder; by one look, since other runs make and remove folders."""
    try:
        return not stat.S_ISDIR(path.stat().st_mode)
    except OSError:
        return False


def _remove_empty(folders: list[Path]) -> None:
    """Remove the folders, innermost first, as far as they are empty."""
    with contextlib.suppress(OSError):
        for folder in folders:
            folder.rmdir()
