"""The results of an attack, batch by batch: arrays by name, and the file that holds them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from npadv.attacks import AttackResult
from npadv.backend import is_array, to_numpy
from npadv.files import load_arrays, save_arrays


class Results:
    """The results of the finished batches, in the order of the examples.

    Attributes
    ----------
    settings : mapping
        Everything the results depend on; a file with other settings is not continued.
    seconds : float
        Time spent in the attack.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.settings, self.seconds = settings, 0.0
        self._parts: list[dict[str, np.ndarray]] = []

    def __len__(self) -> int:
        return sum(len(part["labels"]) for part in self._parts)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """Every array by its name, (N, ...) each."""
        return {name: np.concatenate([part[name] for part in self._parts]) for name in self._parts[0]}

    def add(self, result: AttackResult, seconds: float, **more: np.ndarray) -> None:
        """Add a batch: the attack's result, and ``more`` arrays with an entry for each example."""
        own = {name: array for name, array in _per_example(result).items() if name not in more}
        self._parts.append({name: to_numpy(array) for name, array in {**more, **own}.items()})
        self.seconds += seconds

    def save(self, path: Path) -> None:
        """Write all arrays to an ``.npz`` file, with the settings as JSON, atomically and without pickle."""
        facts = {"settings": np.array(json.dumps(self.settings)), "seconds": np.array(self.seconds)}
        save_arrays(path, {**self.arrays, **facts})

    def resume(self, path: Path) -> None:
        """Load a file that ``save`` wrote, if it was written with the same settings.

        Raises
        ------
        ValueError
            The file is damaged, or belongs to another run; the message says how their settings differ.
        """
        arrays = load_arrays(path)
        try:
            before = json.loads(str(arrays.pop("settings")))
            seconds = float(arrays.pop("seconds"))
            lengths = {len(array) for array in arrays.values()}
            if "labels" not in arrays or len(lengths) != 1 or not isinstance(before, dict):
                raise ValueError(f"arrays of {sorted(lengths)} examples")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(
                f"{path}: expected the examples of npadv attack, got another .npz file ({error})"
            ) from error
        for name, (was, value) in _differences(before, self.settings):
            raise ValueError(f"{path}: was written with {name} {was!r}, this run has {value!r}")
        self._parts, self.seconds = [arrays], seconds


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield the settings in which two runs differ, with the values of both.

    >>> list(_differences({"seed": 0, "attack_options": {"eps": 0.1}}, {"seed": 0, "attack_options": {"eps": 0.2}}))
    [('eps', (0.1, 0.2))]
    """
    for name, value in now.items():
        was = before.get(name)
        if isinstance(value, Mapping) and isinstance(was, Mapping):
            yield from _differences(was, value)
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
