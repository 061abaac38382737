"""The results of an attack, batch by batch: arrays in memory, and the files that hold them.

Each finished batch is a file of its own in ``examples.parts``, so that a killed run loses no finished batch. At the end, or on
Ctrl-C, the parts become ``examples.npz``, and ``result.json`` is written last: a folder whose ``result.json`` says
``complete`` is complete.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from npadv.attacks import AttackResult
from npadv.backend import is_array, to_numpy
from npadv.data import Split
from npadv.files import ArrayHeader, atomic_write, from_json, load_arrays, save_arrays, write_json
from npadv.progress import interrupts_held

EXAMPLES, PICTURE, RESULT, PARTS = "examples.npz", "examples.png", "result.json", "examples.parts"
FACTS = ("settings", "seconds", "layout")
"""Members of a file that are no arrays of results: JSON, a number, JSON."""


class Results:
    """The results of the finished batches, in the order of the examples.

    Attributes
    ----------
    out : Path
        The folder.
    settings : mapping
        Everything the results depend on; a file with other settings is not continued.
    test, index : Split, array
        The test images, and the indices of those to attack.
    seconds : float
        Time spent in the attack.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any], test: Split, index: np.ndarray) -> None:
        self.out, self.settings, self.test, self.index = out, settings, test, index
        self.seconds = 0.0
        self._parts: list[dict[str, np.ndarray]] = []

    def __len__(self) -> int:
        return sum(len(part["labels"]) for part in self._parts)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by its name, (N, ...) each."""
        return {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}

    def add(self, result: AttackResult, seconds: float, **more: np.ndarray) -> None:
        """Add a batch, and write it to a file: the attack's result, and ``more`` arrays with an entry for each example."""
        own = {name: array for name, array in _per_example(result).items() if name not in more}
        part = {name: to_numpy(array) for name, array in {**more, **own}.items()}
        if self._parts and _layout(part) != (before := _layout(self._parts[0])):
            names = sorted(name for name in part.keys() | before.keys() if _layout(part).get(name) != before.get(name))
            raise ValueError(f"{self.out}: the examples in the folder differ from those of this attack in {names[:3]}")
        start = len(self)
        if not start:
            self._discard_files()
        self._parts.append(part)
        self.seconds += seconds
        _save(self.out / PARTS / f"{start:07}.npz", part, self.settings, seconds, sync=False)

    def commit(self, result: Mapping[str, Any], picture: bytes | None) -> None:
        """Write ``examples.png`` and ``examples.npz``, then ``result.json``, which says whether they are complete."""
        with interrupts_held():  # a signal waits until the files agree with each other
            (self.out / RESULT).unlink(missing_ok=True)
            if picture is not None:
                atomic_write(self.out / PICTURE, picture)
            else:
                (self.out / PICTURE).unlink(missing_ok=True)  # it shows another run, or an earlier part of this one
            _save(self.out / EXAMPLES, self.arrays, self.settings, self.seconds)
            write_json(self.out / RESULT, result)
            shutil.rmtree(self.out / PARTS, ignore_errors=True)

    def resume(self) -> None:
        """Load the results in the folder, if they were written with the same settings.

        Raises
        ------
        ValueError
            A file is damaged, or belongs to another run; the message says how their settings differ.
        """
        if (self.out / EXAMPLES).exists():
            self._load(self.out / EXAMPLES, whole=True)
        for path in sorted((self.out / PARTS).glob("*.npz")):
            # A part before this place is in examples.npz already; one after a gap is attacked again.
            if path.stem == f"{len(self):07}" and len(self) < len(self.index):
                try:
                    self._load(path, whole=False)
                except ValueError as error:
                    raise ValueError(f"{error}; without this file, --resume attacks its examples again") from error

    def is_complete(self) -> bool:
        """Return whether the folder is that of a finished run: ``result.json`` says so, and all examples are there."""
        path = self.out / RESULT
        if len(self) < len(self.index) or not path.exists():
            return False
        result = read_result(path)
        return result.get("complete") is True and result.get("attacked") == len(self)

    def _discard_files(self) -> None:
        """Remove the files of the run that this one overwrites, ``result.json`` first."""
        for name in (RESULT, EXAMPLES, PICTURE):
            (self.out / name).unlink(missing_ok=True)
        shutil.rmtree(self.out / PARTS, ignore_errors=True)

    def _load(self, path: Path, *, whole: bool) -> None:
        start = len(self)
        settings = self._read_settings(path)
        for name, (was, value) in differences(settings, self.settings):
            raise ValueError(f"{path}: was written with {name} {was!r:.70}, this run has {value!r:.70}")
        arrays = load_arrays(path, lambda headers: self._check_headers(path, headers, start, whole=whole))
        facts = {name: arrays.pop(name) for name in FACTS if name in arrays}
        self._check_values(path, arrays, facts, start)
        self._parts.append(arrays)
        self.seconds += float(facts["seconds"])

    def _read_settings(self, path: Path) -> dict[str, Any]:
        def check(headers: Mapping[str, ArrayHeader]) -> None:
            for name in ("settings", "layout"):
                if name in headers and (headers[name].dtype.kind != "U" or headers[name].nbytes > 2**20):
                    raise _foreign(path, f"{name} is {headers[name].dtype}")
            if "settings" not in headers:
                raise _foreign(path, "no settings")

        settings = from_json(str(load_arrays(path, check, only=("settings",))["settings"]), f"{path}: settings")
        if not isinstance(settings, dict) or "attack" not in settings:
            raise _foreign(path, "no settings")
        return settings

    def _check_headers(self, path: Path, headers: Mapping[str, ArrayHeader], start: int, *, whole: bool) -> None:
        """Raise a ValueError unless the file holds the arrays of a number of whole batches, before any is read."""
        labels = headers.get("labels", ArrayHeader((), np.dtype(bool)))
        count = labels.shape[0] if labels.shape else 0
        left, batch = len(self.index) - start, self.settings["batch"]
        if not (0 < count <= left if whole else count == min(batch, left)) or (count % batch and count != left):
            raise _foreign(path, f"{count} examples of {len(self.index)} in batches of {batch}")
        image = (count, *self.test.images.shape[1:])
        expected: dict[str, tuple[tuple[int, ...], str]] = {
            **dict.fromkeys(("index", "labels", "prediction", "prediction_before", "queries"), ((count,), "iu")),
            **dict.fromkeys(("x", "x_adv"), (image, self.test.images.dtype.char)),
            **dict.fromkeys(("success", "flags/already_wrong"), ((count,), "b")),
            **({} if self.settings["target"] is None else {"target": ((count,), "iu")}),
            "distance": ((count,), "f"),
            "seconds": ((), "f"),
        }
        for name, (shape, kinds) in expected.items():
            header = headers.get(name)
            if header is None:
                raise _foreign(path, f"no {name}")
            if header.shape != shape or not (header.dtype.kind in kinds or header.dtype.char in kinds):
                raise _foreign(path, f"{name} is {header.shape} of {header.dtype}")
        for name, header in headers.items():
            per_image = math.prod(header.shape[1:]) <= 100 * math.prod(image[1:])
            if name not in FACTS and (header.shape[:1] != (count,) or header.dtype.kind not in "fiub" or not per_image):
                raise _foreign(path, f"{name[:40]!r} is {header.shape} of {header.dtype}")

    def _check_values(
        self, path: Path, arrays: Mapping[str, np.ndarray], facts: Mapping[str, np.ndarray], start: int
    ) -> None:
        """Raise a ValueError unless the arrays are complete and of the test images that this run attacks."""
        chosen = self.index[start : start + len(arrays["labels"])]
        own = {"index": chosen, "x": self.test.images[chosen], "labels": self.test.labels[chosen]}
        for name, array in own.items():
            if not np.array_equal(arrays[name], array):
                raise _foreign(path, f"{name} is not that of the test images")
        if "layout" in facts and from_json(str(facts["layout"]), f"{path}: layout") != _layout(arrays):
            raise _foreign(path, "arrays are missing or changed")
        if self._parts and _layout(arrays) != _layout(self._parts[0]):
            raise _foreign(path, "its arrays are not those of the other batches")
        if not 0 <= float(facts["seconds"]) < np.inf:
            raise _foreign(path, f"seconds is {facts['seconds']}")


def read_result(path: Path) -> dict[str, Any]:
    """Return the contents of a ``result.json``, or raise a ValueError that names the file."""
    if path.stat().st_size > 2**26:
        raise ValueError(f"{path}: expected the result of a run, got a file of {path.stat().st_size:,} bytes")
    result = from_json(path.read_text("utf-8", errors="replace"), str(path))
    if not isinstance(result, dict):
        raise ValueError(f"{path}: expected the result of a run, got {result!r:.40}")
    return result


def _save(
    path: Path, arrays: Mapping[str, np.ndarray], settings: Mapping[str, Any], seconds: float, *, sync: bool = True
) -> None:
    """Write arrays and facts to an ``.npz`` file, atomically and without pickle."""
    facts = {
        "settings": np.array(json.dumps(settings)),
        "seconds": np.array(seconds),
        "layout": np.array(json.dumps(_layout(arrays))),
    }
    save_arrays(path, {**arrays, **facts}, sync=sync)


def _layout(arrays: Mapping[str, np.ndarray]) -> dict[str, list[Any]]:
    """Return the dtype and the shape of one example of each array, in JSON's types.

    >>> _layout({"x": np.zeros((5, 1, 28, 28), np.float32)})
    {'x': ['<f4', 1, 28, 28]}
    """
    return {name: [array.dtype.str, *array.shape[1:]] for name, array in arrays.items()}


def _foreign(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path}: expected the examples of npadv attack, got another .npz file ({reason})")


def differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield the settings in which two runs differ, with the values of both.

    >>> list(differences({"seed": 0, "attack_options": {"eps": 0.1}}, {"seed": 0, "attack_options": {"eps": 0.2}}))
    [('eps', (0.1, 0.2))]
    """
    for name, value in now.items():
        was = before.get(name)
        if isinstance(value, Mapping) and isinstance(was, Mapping):
            yield from differences(was, value)
        elif was != value:
            yield name, (was, value)


def _per_example(result: AttackResult) -> dict[str, Any]:
    """Return the fields of a result that have an entry for each example, and its flags as ``flags/NAME``."""
    found: dict[str, Any] = {}
    for field in fields(result):
        value = getattr(result, field.name)
        if field.name == "flags":
            found.update({f"flags/{name}": flag for name, flag in value.items()})
        elif is_array(value) and value.ndim and len(value) == len(result.x_adv):
            found[field.name] = value
    return found
