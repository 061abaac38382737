"""The finished measurements of an unfinished ``npadv evaluate``, in one file: arrays, and the rest as JSON; no pickle.

A measurement is a number, a dataclass of ``npadv.evaluation``, or a tuple of them. In JSON a dataclass is its name and its
fields, and an array is its name in the archive, its dtype and its shape.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from npadv.commands.runner import Pictures
from npadv.evaluation import Check, ChurchWindows, Distances, RobustnessCurve, TransferMatrix
from npadv.files import ArrayHeader, from_json, load_arrays, save_arrays

TYPES: dict[str, Any] = {
    kind.__name__: kind for kind in (RobustnessCurve, Distances, TransferMatrix, Check, ChurchWindows, Pictures)
}
FIELDS = {"np.ndarray": np.ndarray, "str": str, "bool": bool, "tuple[str, ...]": tuple, "Mapping[str, float]": dict}
"""The types of their fields, by annotation."""

LARGEST_JSON = 2**26  # bytes


def save_measurements(path: Path, settings: Mapping[str, Any], done: Mapping[str, Any]) -> None:
    """Write the measurements by their titles."""
    arrays: dict[str, np.ndarray] = {}
    facts = {"settings": settings, "done": {title: _pack(value, title, arrays) for title, value in done.items()}}
    save_arrays(path, {**arrays, "json": np.array(json.dumps(facts))})


def load_measurements(path: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the settings and the measurements by their titles.

    Raises
    ------
    ValueError
        The file is damaged, or is no such file.
    """

    def check(headers: Mapping[str, ArrayHeader]) -> None:
        own = headers.get("json")
        if own is None or own.shape or own.dtype.kind != "U" or own.nbytes > LARGEST_JSON:
            raise _foreign(path, "no text json")

    facts = from_json(str(load_arrays(path, check, only=("json",))["json"]), f"{path}: json")
    try:
        settings, packed = dict(facts["settings"]), dict(facts["done"])
        expected = dict(_arrays_of(packed))

        def check_arrays(headers: Mapping[str, ArrayHeader]) -> None:
            found = {name: [h.dtype.str, *h.shape] for name, h in headers.items() if name != "json"}
            if found != expected:
                raise _foreign(path, "arrays are missing or changed")

        arrays = load_arrays(path, check_arrays)
        done = {title: _unpack(value, arrays) for title, value in packed.items()}
        for title, value in done.items():
            if not isinstance(value, (float, tuple, *TYPES.values())):
                raise TypeError(f"{title} is a {type(value).__name__}")
        return settings, done
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        if str(path) in str(error):
            raise
        raise _foreign(path, repr(error)[:100]) from error


def _pack(value: Any, name: str, arrays: dict[str, np.ndarray]) -> Any:
    """Return a measurement in JSON's types; its arrays are added to ``arrays``."""
    if isinstance(value, np.ndarray):
        arrays[name] = value
        return {"array": name, "layout": [value.dtype.str, *value.shape]}
    if type(value).__name__ in TYPES:
        names = [field.name for field in fields(value)] if is_dataclass(value) else value._fields
        own = {key: _pack(getattr(value, key), f"{name}/{key}", arrays) for key in names}
        return {"type": type(value).__name__, "fields": own}
    if isinstance(value, tuple):
        return {"tuple": [_pack(item, f"{name}/{i}", arrays) for i, item in enumerate(value)]}
    if isinstance(value, Mapping):
        return {"mapping": {key: _pack(item, f"{name}/{key}", arrays) for key, item in value.items()}}
    return value.item() if isinstance(value, np.generic) else value


def _unpack(value: Any, arrays: Mapping[str, np.ndarray]) -> Any:
    """Undo ``_pack``."""
    if not isinstance(value, dict):
        return value
    if "array" in value:
        return arrays[value["array"]]
    if "tuple" in value:
        return tuple(_unpack(item, arrays) for item in value["tuple"])
    if "mapping" in value:
        return {key: _unpack(item, arrays) for key, item in value["mapping"].items()}
    kind, own = TYPES[value["type"]], {key: _unpack(item, arrays) for key, item in value["fields"].items()}
    for key, annotation in kind.__annotations__.items():
        expected = FIELDS[getattr(annotation, "__forward_arg__", annotation)]
        if not isinstance(own[key], expected):
            raise TypeError(f"{value['type']}.{key} is a {type(own[key]).__name__}")
    return kind(**own)


def _arrays_of(value: Any) -> list[tuple[str, list[Any]]]:
    """Return the name and the layout of each array that a packed value names."""
    if isinstance(value, dict):
        if "array" in value:
            return [(value["array"], value["layout"])]
        return [pair for item in value.values() for pair in _arrays_of(item)]
    return [pair for item in value for pair in _arrays_of(item)] if isinstance(value, list) else []


def _foreign(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path}: expected the measurements of npadv evaluate, got another .npz file ({reason})")
