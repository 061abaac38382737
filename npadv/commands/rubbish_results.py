"""The inputs that ``npadv attack ..._rubbish`` has made, batch by batch: arrays in memory, and the files that hold them.

As for the other attacks (``results.py``), each batch is a file of its own until ``examples.npz`` is written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npadv.attacks import RubbishResult
from npadv.backend import to_numpy
from npadv.commands.results import EXAMPLES, PARTS, PICTURE, RESULT, differences
from npadv.files import ArrayHeader, as_json, atomic_write, from_json, load_arrays, save_arrays, write_json
from npadv.progress import interrupts_held

FACTS = ("settings", "queries", "seconds")
KINDS = {"x": "f", "prediction": "iu", "confidence": "f", "confident": "b", "target": "iu"}


class RubbishResults:
    """The inputs made so far.

    Attributes
    ----------
    out : Path
        The folder.
    settings : mapping
        Everything the inputs depend on; a file with other settings is not continued.
    shape : tuple
        The shape of one input.
    queries, seconds : int, float
        Inputs given to the model, and the time spent.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], shape: tuple[int, ...]) -> None:
        self.out, self.settings, self.shape = out, settings, shape
        self.queries, self.seconds = 0, 0.0
        self._parts: list[dict[str, np.ndarray]] = []

    def __len__(self) -> int:
        return sum(len(part["x"]) for part in self._parts)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by its name, (N, ...) each."""
        return {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}

    def add(self, result: RubbishResult, seconds: float) -> None:
        """Add a batch, and write it to a file."""
        names = [name for name in KINDS if name != "target" or result.target is not None]
        part = {name: to_numpy(getattr(result, name)) for name in names}
        part |= {f"flags/{name}": to_numpy(flag) for name, flag in result.flags.items()}
        start = len(self)
        if not start:
            for name in (RESULT, EXAMPLES, PICTURE):  # of the run that this one overwrites
                (self.out / name).unlink(missing_ok=True)
            shutil.rmtree(self.out / PARTS, ignore_errors=True)
        self._parts.append(part)
        self.queries, self.seconds = self.queries + result.queries, self.seconds + seconds
        self._save(self.out / PARTS / f"{start:07}.npz", part, result.queries, seconds, sync=False)

    def commit(self, result: Mapping[str, Any], picture: bytes | None) -> None:
        """Write ``examples.png`` and ``examples.npz``, then ``result.json``, which says whether they are complete."""
        with interrupts_held():  # a signal waits until the files agree with each other
            (self.out / RESULT).unlink(missing_ok=True)
            if picture is not None:
                atomic_write(self.out / PICTURE, picture)
            else:
                (self.out / PICTURE).unlink(missing_ok=True)
            self._save(self.out / EXAMPLES, self.arrays, self.queries, self.seconds)
            write_json(self.out / RESULT, result)
            shutil.rmtree(self.out / PARTS, ignore_errors=True)

    def resume(self) -> None:
        """Load the inputs in the folder, if they were made with the same settings.

        Raises
        ------
        ValueError
            A file is damaged, or belongs to another run.
        """
        if (self.out / EXAMPLES).exists():
            self._load(self.out / EXAMPLES)
        for path in sorted((self.out / PARTS).glob("*.npz")):
            if path.stem == f"{len(self):07}":
                self._load(path)

    def _save(
        self, path: Path, arrays: Mapping[str, np.ndarray], queries: int, seconds: float, *, sync: bool = True
    ) -> None:
        facts = {
            "settings": np.array(json.dumps(self.settings)),
            "queries": np.array(queries),
            "seconds": np.array(seconds),
        }
        save_arrays(path, {**arrays, **facts}, sync=sync)

    def _load(self, path: Path) -> None:
        arrays = load_arrays(path, lambda headers: self._check_headers(path, headers))
        settings = from_json(str(arrays.pop("settings")), f"{path}: settings")
        if not isinstance(settings, dict):
            raise ValueError(f"{path}: settings: expected options by name, got {settings!r:.40}")
        for name, (was, value) in differences(settings, as_json(self.settings)):
            raise ValueError(f"{path}: was written with {name} {was!r:.70}, this run has {value!r:.70}")
        self.queries, self.seconds = (
            self.queries + int(arrays.pop("queries")),
            self.seconds + float(arrays.pop("seconds")),
        )
        self._parts.append(arrays)

    def _check_headers(self, path: Path, headers: Mapping[str, ArrayHeader]) -> None:
        """Raise a ValueError unless the file holds the arrays of a number of whole batches, before any is read."""
        first = headers.get("x", ArrayHeader((), np.dtype(bool)))
        count = first.shape[0] if first.shape else 0
        total, batch = self.settings["examples"], self.settings["batch"]
        last = len(self) + count
        if not count > 0 or last > total or (last % batch and last != total):
            raise _foreign(path, f"{count} inputs of {total} in batches of {batch}")
        expected = {name: ((count, *self.shape) if name == "x" else (count,), kinds) for name, kinds in KINDS.items()}
        if "target" not in (self._parts[0] if self._parts else headers):
            del expected["target"]
        expected |= {"settings": ((), "U"), "queries": ((), "iu"), "seconds": ((), "f")}
        expected |= {name: ((count,), "b") for name in headers if name.startswith("flags/")}
        if self._parts and self._parts[0].keys() != expected.keys() - set(FACTS):
            raise _foreign(path, "its arrays are not those of the other batches")
        for name in headers.keys() | expected.keys():
            header, (shape, kinds) = headers.get(name), expected.get(name, ((), ""))
            if header is None or header.shape != shape or header.dtype.kind not in kinds:
                raise _foreign(path, f"{name[:40]!r} is {header and header.shape} of {header and header.dtype}")


def _foreign(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path}: expected the inputs of npadv attack, got another .npz file ({reason})")
