"""The folder of a training: which files it holds, and whether a run may begin in it, resume in it, or has ended in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npadv.commands.results import read_result
from npadv.files import from_json
from npadv.nn.module import read_about
from npadv.train import Training

WEIGHTS, RESULT, CHECKPOINT = "weights.npz", "result.json", "checkpoint.npz"
TEACHER, TEACHER_CHECKPOINT = "teacher.npz", "teacher-checkpoint.npz"


class Settings(dict[str, Any]):
    """The options a run was started with. The checkpoint stores them, so that no run resumes with other options.

    ``fit`` stores and restores the state of each callback, so the settings are a callback that does nothing else.
    """

    def __call__(self, training: Training) -> None:
        """Do nothing after an epoch."""

    def state(self) -> dict[str, np.ndarray]:
        """Return the settings, as JSON."""
        return {"json": np.array(json.dumps(self))}

    def load_state(self, state: Mapping[str, np.ndarray]) -> None:
        """Raise a ValueError unless the checkpoint's run was started with the same settings."""
        before = from_json(str(state["json"]), "settings") if "json" in state else {}
        if not isinstance(before, dict):
            raise ValueError(f"settings: expected options by name, got {before!r:.40}")
        self.compare(before)

    def compare(self, before: Mapping[str, Any]) -> None:
        """Raise a ValueError unless a run was started with the same settings."""
        for name, value in self.items():
            if before.get(name) != value:
                raise ValueError(f"was written with {name}={before.get(name)!r}, this run has {value!r}")


def check_folder(out: Path, settings: Settings, *, resume: bool) -> None:
    """Raise an error if the folder holds another run, or one that can only be resumed."""
    parts = [CHECKPOINT, TEACHER_CHECKPOINT] if (out / RESULT).exists() else [CHECKPOINT, TEACHER_CHECKPOINT, TEACHER]
    if unfinished := [out / file for file in parts if (out / file).exists()]:
        if not resume:
            raise FileExistsError(
                f"{unfinished[0]}: an unfinished run is there; continue it with --resume, or remove it"
            )
        if (out / TEACHER).exists():
            _check_teacher(out / TEACHER, settings)
        return
    for path in (out / WEIGHTS, out / RESULT):
        if path.exists():
            raise FileExistsError(f"{path}: exists; choose another --out, or remove it to train again")


def _check_teacher(path: Path, settings: Settings) -> None:
    """Raise a ValueError unless the teacher was trained with the settings of this run."""
    before = read_about(path).get("settings")
    if not isinstance(before, dict):
        raise ValueError(f"{path}: expected the settings of a run, got {before!r:.40}")
    try:
        settings.compare(before)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def finished_result(out: Path, settings: Settings, epochs: int) -> dict[str, Any] | None:
    """Return the result in the folder if it is that of a finished run; raise an error if that run had other settings."""
    path = out / RESULT
    if (out / CHECKPOINT).exists() or not path.exists() or not (out / WEIGHTS).exists():
        return None
    result = read_result(path)
    for name, value in {**settings, "epochs": epochs}.items():
        if result.get(name) != value:
            raise ValueError(f"{path}: was written with {name}={result.get(name)!r:.70}, this run has {value!r}")
    error = result.get("test_error")
    if not isinstance(error, float) or not 0 <= error <= 1:
        raise ValueError(f"{path}: test_error: expected a rate, got {error!r:.40}")
    return result
