"""Checkpoints of ``fit``: one ``.npz`` file of plain arrays, with the rest as JSON inside it; no pickle.

Names are grouped: ``model/...``, ``optimizer/...``, ``callbacks/0/...``, ``masks/...`` (of captured steps), ``order``
(of the running epoch) and ``json``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from npadv.files import load_arrays, save_arrays

FORMAT = 1


@dataclass
class Progress:
    """How far a run has come, and what it must agree with to be continued."""

    batch_size: int
    examples: int
    capture: bool = False  # whether steps are those of npadv.capture, which draw other masks
    epoch: int = 0  # whole epochs finished
    batch: int = 0  # batches of the running epoch finished
    total: float = 0.0  # the sum of the running epoch's losses
    seconds: float = 0.0
    order: np.ndarray | None = None  # of the running epoch; None between epochs


def save_checkpoint(
    path: str | os.PathLike[str],
    place: Progress,
    training: Any,
    callbacks: Sequence[Any],
    rng: np.random.Generator,
    masks: Any = None,
) -> None:
    """Write everything the next step depends on, atomically; ``masks`` is the random state of captured steps."""
    arrays = {"order": np.zeros(0, np.int64) if place.order is None else place.order}
    for prefix, part in _parts(training, callbacks, masks).items():
        arrays.update(_group(prefix, part.state()))
    facts = {
        "format": FORMAT,
        "progress": {k: v for k, v in asdict(place).items() if k != "order"},
        "between_epochs": place.order is None,
        "history": training.history,
        "stop": training.stop,
        "generator": _plain(rng.bit_generator.state),
    }
    save_arrays(path, {**arrays, "json": np.array(json.dumps(facts))})


def load_checkpoint(
    path: str | os.PathLike[str],
    expected: Progress,
    training: Any,
    callbacks: Sequence[Any],
    rng: np.random.Generator,
    masks: Any = None,
) -> Progress:
    """Restore a run in place and return its progress.

    Raises
    ------
    ValueError
        The file is no checkpoint, or one of another model, optimizer, generator, data set or batch size.
    """
    name = os.fspath(path)
    arrays = load_arrays(path)
    try:
        facts = json.loads(str(arrays["json"]))
        written = facts["format"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{name}: expected a checkpoint of npadv, got another .npz file ({error!r})") from error
    if written != FORMAT:
        raise ValueError(f"{name}: expected a checkpoint of format {FORMAT}, got {written}")
    place = Progress(**facts["progress"])
    for setting in ("batch_size", "examples", "capture"):
        if getattr(place, setting) != getattr(expected, setting):
            raise ValueError(
                f"{name}: was written with {setting}={getattr(place, setting)}, this run has {getattr(expected, setting)}"
            )
    generator = facts["generator"]["bit_generator"]
    if generator != type(rng.bit_generator).__name__:
        raise ValueError(
            f"{name}: was written with the generator {generator}, this run has {type(rng.bit_generator).__name__}"
        )
    parts = _parts(training, callbacks, masks)
    before = {prefix: part.state() for prefix, part in parts.items()}
    try:
        for prefix, part in parts.items():
            part.load_state(_members(prefix, arrays))
    except ValueError as error:  # all or nothing
        for prefix, part in parts.items():
            part.load_state(before[prefix])
        raise ValueError(f"{name}: {error}") from error
    rng.bit_generator.state = _arrays(facts["generator"])
    training.history[:] = facts["history"]
    training.stop = facts["stop"]
    place.order = None if facts["between_epochs"] else arrays["order"]
    return place


def _parts(training: Any, callbacks: Sequence[Any], masks: Any) -> dict[str, Any]:
    """Return all that has a state, by the prefix of its names."""
    memories = {f"callbacks/{i}": callback for i, callback in enumerate(callbacks) if hasattr(callback, "state")}
    if masks is not None:
        memories["masks"] = masks
    return {"model": training.model, "optimizer": training.optimizer, **memories}


def _group(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {f"{prefix}/{name}": array for name, array in arrays.items()}


def _members(prefix: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    return {name.removeprefix(prefix + "/"): array for name, array in arrays.items() if name.startswith(prefix + "/")}


def _plain(value: Any) -> Any:
    """Return a generator's state as JSON knows it; some generators keep arrays."""
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return {"array": value.tolist(), "dtype": str(value.dtype)}
    return value.item() if isinstance(value, np.generic) else value


def _arrays(value: Any) -> Any:
    """Undo ``_plain``."""
    if not isinstance(value, dict):
        return value
    if value.keys() == {"array", "dtype"}:
        return np.array(value["array"], dtype=value["dtype"])
    return {key: _arrays(item) for key, item in value.items()}
