"""Modules: functions with parameters.

A module is called on a batch and returns one. ``module(x)`` is always inference; ``module(x, train=True, rng=rng)`` is
training, where dropout draws its masks from ``rng`` and batch normalisation uses the statistics of the batch. There is no
training mode to set or to forget.

The state of a module is every Tensor among its attributes, in the order of definition; modules, lists and dicts among the
attributes are searched too. Its parameters are the ``Parameter`` objects in the state. Other Tensors, such as running averages,
are saved and moved with the module, but not trained.

``about`` holds facts about a module. It is saved with the state, so that a file of weights names its network.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import Any, Self

import numpy as np

from npadv.autodiff import Tensor
from npadv.backend import like
from npadv.fast.memory import aligned
from npadv.files import ArrayHeader, from_json, load_arrays, save_arrays, to_json
from npadv.nn.parameter import Parameter

ABOUT = "about"
"""The name of ``Module.about``, as JSON, in a file of weights. A tensor cannot have this name: it is that of an attribute."""


class Module:
    """The base of layers and networks. A subclass defines ``forward``; calls, parameters and files are the same for all.

    >>> class Scale(Module):
    ...     def __init__(self):
    ...         self.factor = Parameter(np.array([2.0]))
    ...     def forward(self, x, *, train, rng):
    ...         return x * self.factor
    >>> scale = Scale()
    >>> scale(np.array([3.0])).numpy(), [name for name, _ in scale.named_parameters()]
    (array([6.]), ['factor'])
    """

    about: Mapping[str, Any] = MappingProxyType({})
    """Facts to keep with the weights, in JSON's types, such as the network's name. Replace it; do not change it in place."""

    def forward(self, x: Any, *, train: bool, rng: np.random.Generator | None) -> Any:
        """Return the module's output for a batch ``x``; each subclass defines this."""
        raise NotImplementedError(f"{type(self).__name__} defines no forward(x, *, train, rng)")

    def __call__(self, x: Any, *, train: bool = False, rng: np.random.Generator | None = None) -> Any:
        """Return the module's output: inference unless ``train=True``."""
        return self.forward(x, train=train, rng=rng)

    # State ----------------------------------------------------------------------------------------------------------

    def named_tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Yield every tensor of the module's state with its dotted name, each once."""
        yield from _walk(self, "", set())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield the parameters with their names."""
        for name, tensor in self.named_tensors():
            if isinstance(tensor, Parameter) and tensor.requires_grad:
                yield name, tensor

    def parameters(self) -> list[Parameter]:
        """Return the parameters, in order of definition."""
        return [parameter for _, parameter in self.named_parameters()]

    def state(self) -> dict[str, np.ndarray]:
        """Return a copy of all state as NumPy arrays by name."""
        return {name: tensor.numpy().copy() for name, tensor in self.named_tensors()}

    def load_state(self, state: Mapping[str, np.ndarray], source: str = "state") -> Self:
        """Copy arrays into the state; names, shapes and dtypes must all agree, and nothing changes unless they do.

        Raises
        ------
        ValueError
            Names, shapes or dtypes differ; the message names the first difference.
        """
        self.check_state(state, source)
        for name, tensor in self.named_tensors():
            tensor.assign(like(state[name], tensor.data))
        return self

    def check_state(self, state: Mapping[str, Any], source: str = "state") -> None:
        """Raise a ValueError unless names, shapes and dtypes are those of the module; ``state`` may hold headers alone."""
        own = dict(self.named_tensors())
        missing, unknown = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
        if missing or unknown:
            raise ValueError(f"{source}: does not fit this model; missing {_few(missing)}, unknown {_few(unknown)}")
        for name, tensor in own.items():
            if state[name].shape != tensor.shape or state[name].dtype != tensor.dtype:
                raise ValueError(
                    f"{source}: {name}: expected shape {tensor.shape} and {tensor.dtype}, "
                    f"got {state[name].shape} and {state[name].dtype}"
                )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all state, and ``about`` unless it is empty, to an ``.npz`` file, atomically and without pickle."""
        about = {ABOUT: np.array(to_json(self.about, ABOUT))} if self.about else {}
        save_arrays(path, {**self.state(), **about})

    def load(self, path: str | os.PathLike[str]) -> Self:
        """Read all state from an ``.npz`` file made by ``save`` of the same architecture; returns the module.

        Raises
        ------
        FileNotFoundError
            There is no such file.
        ValueError
            The file is damaged, or has weights of another architecture. The module is then unchanged.
        """
        about = read_about(path)
        for fact in ("network", "options"):
            own, theirs = self.about.get(fact), about.get(fact)
            if None not in (own, theirs) and own != theirs:
                raise ValueError(
                    f"{os.fspath(path)}: was saved from a module of {fact} {theirs!r}, this one has {own!r}"
                )
        return self.load_state(read_state(path, self), source=os.fspath(path))

    # Device and precision -------------------------------------------------------------------------------------------

    def to(self, device: str) -> Self:
        """Move all state to ``"cpu"`` or ``"cuda"``, in place; returns the module."""
        for _, tensor in self.named_tensors():
            tensor.to(device)
        return self

    def astype(self, dtype: Any) -> Self:
        """Convert all state of floating point to another such type, in place; returns the module."""
        for _, tensor in self.named_tensors():
            if tensor.dtype.kind == "f":
                tensor.mark_changed()
                tensor.data = aligned(tensor.data.astype(dtype))
        return self

    # Printing -------------------------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        settings = ", ".join(
            f"{name}={value}" for name, value in vars(self).items() if isinstance(value, int | float | str | tuple)
        )
        return f"{type(self).__name__}({settings})"


def read_about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return ``about`` from a file that ``Module.save`` wrote, ``{}`` if it was empty; the weights are not read."""

    def check(headers: Mapping[str, ArrayHeader]) -> None:
        own = headers.get(ABOUT)
        if own is not None and (own.shape or own.dtype.kind != "U" or own.nbytes > 2**20):
            raise ValueError(f"{os.fspath(path)}: {ABOUT}: expected facts as JSON, got {own.shape} of {own.dtype}")

    arrays = load_arrays(path, check, only=(ABOUT,))
    if ABOUT not in arrays:
        return {}
    text = str(arrays[ABOUT])
    try:
        about = from_json(text, ABOUT)
    except ValueError:
        about = None
    if not isinstance(about, dict):
        raise ValueError(f"{os.fspath(path)}: {ABOUT}: expected facts as JSON, got {text[:40]!r}")
    return about


def read_state(path: str | os.PathLike[str], model: Module) -> dict[str, np.ndarray]:
    """Return the model's state from a file that ``Module.save`` wrote; it is checked before any array is read."""

    def check(headers: Mapping[str, ArrayHeader]) -> None:
        weights = {name: header for name, header in headers.items() if name != ABOUT}
        model.check_state(weights, source=os.fspath(path))

    return load_arrays(path, check, only=dict(model.named_tensors()))


def _few(names: list[str]) -> str:
    """Return the first few of the names as text.

    >>> _few([]), _few(["a"]), _few(["a", "b", "c", "d"])
    ('nothing', "['a']", "['a', 'b', 'c'] and 1 more")
    """
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{[name[:60] for name in names[:3]]}{more}" if names else "nothing"


def _walk(value: Any, name: str, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of a value with their names; ``seen`` holds the ids of the values that were visited before."""
    if not isinstance(value, Tensor | Module | list | tuple | dict) or id(value) in seen:
        return
    seen.add(id(value))  # so each tensor is yielded once, and a module may have a reference to its parent
    if isinstance(value, Tensor):
        yield name, value
        return
    if isinstance(value, Module):
        children: Iterable[tuple[Any, Any]] = vars(value).items()
    elif isinstance(value, dict):
        children = value.items()
    else:
        children = enumerate(value)
    for key, child in children:
        yield from _walk(child, f"{name}.{key}" if name else str(key), seen)
