"""Checkpoints of ``fit``: all state that the next training step depends on, in one ``.npz`` file of plain arrays.

The state is the weights, the optimizer's memory, the random generator's state, the order of the running epoch and the place
in it. Names are grouped: ``model/...``, ``optimizer/...``, ``callbacks/0/...``, ``masks/...`` (the random state of captured
steps), ``order`` and ``json``, which holds everything that is not an array. Nothing is pickled.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from npadv.callbacks import Training
from npadv.files import ArrayHeader, from_json, load_arrays, save_arrays

FORMAT = 1
LARGEST_JSON = 2**26  # bytes: the history of some hundred thousand epochs


@dataclass
class Progress:
    """The place that a run has reached, and the settings that a resumed run must share."""

    batch_size: int
    examples: int
    capture: bool = False  # captured steps draw other masks, so a run is captured from the start or not at all
    epoch: int = 0  # whole epochs finished
    batch: int = 0  # batches of the running epoch finished
    total: float = 0.0  # the sum of the running epoch's losses
    seconds: float = 0.0
    order: np.ndarray | None = None  # of the running epoch; None between epochs


class Checkpoint:
    """The file of a run: written after each epoch, read when the run is resumed. Without a path it does nothing.

    Parameters
    ----------
    path : path or None
        The file.
    training : Training
        Holds the model and the optimizer, which are restored in place, and the history.
    callbacks : sequence
        Those with a ``state`` are saved.
    rng : numpy.random.Generator
        Restored in place.
    masks : DeviceRandom, optional
        The random state of captured steps.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None,
        training: Training,
        callbacks: Sequence[Any],
        rng: np.random.Generator,
        masks: Any = None,
    ) -> None:
        self.path, self.training, self.rng = path, training, rng
        self.parts = {"model": training.model, "optimizer": training.optimizer}
        self.parts |= {f"callbacks/{i}": callback for i, callback in enumerate(callbacks) if hasattr(callback, "state")}
        if masks is not None:
            self.parts["masks"] = masks

    def begin(self, new: Progress, *, resume: bool) -> Progress:
        """Return the progress of the run in the file, restored, or that of a new run if there is no file.

        Raises
        ------
        FileExistsError
            There is a file, and ``resume`` is false.
        ValueError
            The file is not a checkpoint, or it belongs to another model, optimizer, generator, data set or batch size.
            Nothing has changed then.
        """
        if self.path is None or not Path(self.path).exists():
            return new
        if not resume:
            raise FileExistsError(
                f"{os.fspath(self.path)}: exists; pass resume=True to continue that run, or remove it"
            )
        return self._load(os.fspath(self.path), new)

    def write(self, run: Progress) -> None:
        """Write all state that the next step depends on, atomically."""
        if self.path is None:
            return
        arrays = {"order": np.zeros(0, np.int64) if run.order is None else run.order}
        for prefix, part in self.parts.items():
            arrays.update(_group(prefix, part.state()))
        facts = {
            "format": FORMAT,
            "progress": {k: v for k, v in asdict(run).items() if k != "order"},
            "between_epochs": run.order is None,
            "history": self.training.history,
            "stop": self.training.stop,
            "generator": _to_json(self.rng.bit_generator.state),
        }
        save_arrays(self.path, {**arrays, "json": np.array(json.dumps(facts))})

    def _load(self, name: str, expected: Progress) -> Progress:
        """Check the file, then restore the run in place; after an error, nothing has changed."""
        facts = _facts(name)
        run = Progress(**facts["progress"])
        self._check(name, facts, run, expected)
        before = {prefix: part.state() for prefix, part in self.parts.items()}
        arrays = load_arrays(name, partial(self._check_headers, name, before, run.examples))
        run.order = _order(name, facts, arrays["order"], run)
        generator = self.rng.bit_generator.state
        try:
            for prefix, part in self.parts.items():
                part.load_state(_members(prefix, arrays))
            self.rng.bit_generator.state = _from_json(facts["generator"])
        except BaseException as error:
            self.rng.bit_generator.state = generator
            for prefix, part in self.parts.items():
                part.load_state(before[prefix])
            if not isinstance(error, Exception):
                raise
            raise ValueError(f"{name}: {error}") from error
        self.training.history[:] = facts["history"]
        self.training.stop = facts["stop"]
        return run

    def _check(self, name: str, facts: Mapping[str, Any], run: Progress, expected: Progress) -> None:
        """Raise a ValueError if the settings in the file are not those of this run."""
        for setting in ("batch_size", "examples", "capture"):
            written, here = getattr(run, setting), getattr(expected, setting)
            if written != here:
                raise ValueError(f"{name}: was written with {setting}={written}, this run has {here}")
        written, here = facts["generator"].get("bit_generator"), type(self.rng.bit_generator).__name__
        if written != here:
            raise ValueError(f"{name}: was written with the generator {written}, this run has {here}")

    def _check_headers(
        self, name: str, before: Mapping[str, Mapping[str, Any]], examples: int, headers: Mapping[str, ArrayHeader]
    ) -> None:
        """Raise a ValueError if an array in the file is missing, unknown or of another shape; ``before`` is the state now.

        Each callback checks its own state, which may grow during a run.
        """
        order = headers.get("order")
        if order is None or order.shape not in ((0,), (examples,)) or order.dtype.kind not in "iu":
            raise ValueError(f"{name}: order: expected {examples} indices or none, got {order and order.shape}")
        for array in headers.keys() - {"json", "order"}:
            if not array.startswith(("callbacks/", *(f"{prefix}/" for prefix in before))):
                raise ValueError(f"{name}: expected the state of this run, got an unknown array {array[:60]!r}")
        self.training.model.check_state(_members("model", headers), name)
        for prefix in before.keys() & {"optimizer", "masks"}:
            own, written = before[prefix], _members(prefix, headers)
            if {key: (a.shape, a.dtype) for key, a in own.items()} != written:
                raise ValueError(f"{name}: {prefix} state: does not fit this {prefix} and its parameters")


def _facts(name: str) -> dict[str, Any]:
    """Return the JSON of a checkpoint, with its types checked; the arrays are not read."""

    def check(headers: Mapping[str, ArrayHeader]) -> None:
        if headers.get("json", ArrayHeader((), np.dtype("U1"))).nbytes > LARGEST_JSON:
            raise ValueError(f"{name}: json: expected a text of at most {LARGEST_JSON:,} bytes")

    arrays = load_arrays(name, check, only=("json",))
    text = arrays.get("json", np.array(""))
    try:
        facts: dict[str, Any] = from_json(str(text), "json")
        written = facts["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected a checkpoint of npadv, got another .npz file ({error!r:.100})") from error
    if written != FORMAT:
        raise ValueError(f"{name}: expected a checkpoint of format {FORMAT}, got {written!r:.40}")
    types = {"progress": dict, "between_epochs": bool, "history": list, "stop": bool, "generator": dict}
    for key, kind in types.items():
        if not isinstance(facts.get(key), kind):
            raise ValueError(f"{name}: {key}: expected a {kind.__name__}, got {facts.get(key)!r:.40}")
    example = {key: value for key, value in asdict(Progress(0, 0)).items() if key != "order"}
    given: dict[str, Any] = {"capture": False, **facts["progress"]}  # older checkpoints do not have it
    for key in given.keys() | example.keys():
        value: Any = given.get(key)
        number = isinstance(value, int) or (isinstance(value, float) and isinstance(example.get(key), float))
        if key not in example or not number or not 0 <= abs(value) < float("inf"):
            raise ValueError(f"{name}: progress: expected {sorted(example)} as numbers, got {key[:40]}={value!r:.40}")
    for row in facts["history"]:
        numbers = row.values() if isinstance(row, dict) and {"epoch", "seconds"} <= row.keys() else [""]
        if not all(value is None or isinstance(value, int | float) for value in numbers) or row["seconds"] is None:
            raise ValueError(f"{name}: history: expected a row of numbers for each epoch, got {row!r:.60}")
    return facts


def _order(name: str, facts: Mapping[str, Any], order: np.ndarray, run: Progress) -> np.ndarray | None:
    """Return the order of the running epoch, or raise a ValueError if it or the place in it is impossible."""
    if facts["between_epochs"]:
        return None
    batches = -(-run.examples // run.batch_size)
    if not np.array_equal(np.sort(order), np.arange(run.examples)) or not 0 <= run.batch <= batches:
        raise ValueError(f"{name}: order: expected each of {run.examples} examples once, and a batch of {batches}")
    return order


def _group(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return arrays with ``prefix/`` before their names."""
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def _members(prefix: str, arrays: Mapping[str, Any]) -> dict[str, Any]:
    """Undo ``_group``: return the arrays of a prefix by their own names."""
    return {name.removeprefix(prefix + "/"): array for name, array in arrays.items() if name.startswith(prefix + "/")}


def _to_json(value: Any) -> Any:
    """Return a generator's state in JSON's types; some generators keep arrays."""
    if isinstance(value, Mapping):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    return value.item() if isinstance(value, np.generic) else value


def _from_json(value: Any) -> Any:
    """Undo ``_to_json``."""
    if not isinstance(value, dict):
        return value
    if value.keys() == {"array", "dtype"}:
        return np.array(value["array"], dtype=value["dtype"])
    return {key: _from_json(item) for key, item in value.items()}
