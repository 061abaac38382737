"""The gradient: the chain rule, applied to the records between two tensors in reverse order of creation.

At each record y = f(a, b), the cotangent g = d(loss)/dy is known, and the rules of f give the contributions to the cotangents
of a and b:

    d(loss)/da += g . dy/da,        d(loss)/db += g . dy/db.

An argument that is used twice receives the sum. All records that use y were created after y, so in reverse order of creation
y is reached when its cotangent is complete. This needs no recursion and no topological sort, only a sort by the numbers of
the tape's clock. ``_backward_pass`` is the whole algorithm.
"""

from __future__ import annotations

from operator import attrgetter
from typing import Any

import numpy as np

from npadv.autodiff.checks import check_targets, check_unchanged, checked_cotangent, unused_gradient
from npadv.autodiff.primitive import recording
from npadv.autodiff.tensor import Tensor, value_of
from npadv.backend import Array, xp_of


def grad(y: Tensor, wrt: Any, cotangent: Any = None, *, create_graph: bool = False, unused: str = "raise") -> Any:
    """Return the gradient of ``y``, weighted by ``cotangent``, with respect to ``wrt``.

    Parameters
    ----------
    y : Tensor
        The result to differentiate. With more than one element it needs a ``cotangent``.
    wrt : Tensor or sequence of Tensor
        The tensors to differentiate by. Only the records between these and ``y`` are visited, so the gradient with respect
        to an input does not compute those with respect to the parameters.
    cotangent : array or Tensor of ``y``'s shape, optional
        The vector of the vector-Jacobian product; 1 by default.
    create_graph : bool
        Return Tensors that can be differentiated again, instead of plain arrays.
    unused : {"raise", "zeros"}
        For a tensor of ``wrt`` that ``y`` does not depend on: raise a ValueError, or return zeros.

    Returns
    -------
    array (Tensor if ``create_graph``), or a list of them where ``wrt`` is a sequence
        Each in the shape and dtype of its ``wrt``.

    Raises
    ------
    TypeError
        ``y`` or one of ``wrt`` is not a Tensor.
    ValueError
        ``y`` or one of ``wrt`` was not recorded; ``y`` does not depend on one of ``wrt``; the cotangent is missing or has
        another shape than ``y``.
    RuntimeError
        A tensor was changed in place after it was recorded. A change of a plain array that took part is not noticed.

    Examples
    --------
    >>> import npadv
    >>> x = npadv.Tensor(3.0, requires_grad=True)
    >>> first = npadv.grad(x * x * x, x, create_graph=True)
    >>> float(first.data), float(npadv.grad(first, x))
    (27.0, 18.0)
    """
    targets = [wrt] if isinstance(wrt, Tensor) else list(wrt)
    check_targets(y, targets, unused)
    g = checked_cotangent(y, cotangent)
    if create_graph:
        with recording(True):  # even inside no_record(): otherwise a second derivative would silently be 0
            gradients = _gradients(y, g, targets, create_graph, unused)
    else:
        gradients = _gradients(y, value_of(g), targets, create_graph, unused)
    return gradients[0] if isinstance(wrt, Tensor) else gradients


def _gradients(y: Tensor, g: Any, targets: list[Tensor], create_graph: bool, unused: str) -> list[Any]:
    cotangents = _backward_pass(y, g, targets, create_graph)
    gradients = [_finished(cotangents.get(w), w, k, create_graph, unused) for k, w in enumerate(targets)]
    return _in_own_memory(gradients, g)


def _backward_pass(y: Tensor, g: Any, targets: list[Tensor], create_graph: bool) -> dict[Tensor, Any]:
    """Return the cotangents d(loss)/d(tensor) that reach the targets: the chain rule."""
    path, on_path = _path_between(targets, y)
    check_unchanged(path)
    asked_for = set(targets)
    cotangents = {y: Tensor(g) if create_graph and not isinstance(g, Tensor) else g}
    for node in reversed(path):
        g = cotangents[node] if node in asked_for else cotangents.pop(node)  # memory is freed as soon as possible
        rules, kwargs = node._operation.rules, node._kwargs  # type: ignore[union-attr]
        # On Tensors the rules are recorded, on arrays they are not.
        inputs, output = (node._args, node) if create_graph else (node._values, node.data)
        for i, a in enumerate(node._args):
            if isinstance(a, Tensor) and a in on_path:
                contribution = rules[i](g, output, *inputs, **kwargs)
                cotangents[a] = cotangents[a] + contribution if a in cotangents else contribution
    return cotangents


def _path_between(targets: list[Tensor], y: Tensor) -> tuple[list[Tensor], set[Tensor]]:
    """Return the records that lead from a target to ``y``, in order of creation, and the set of these and the targets."""
    path: list[Tensor] = []
    on_path = set(targets)
    if y.requires_grad and targets:
        for node in ancestors(y, oldest=min(w._order for w in targets)):
            if node._operation is not None:
                for a in node._args:
                    if isinstance(a, Tensor) and a in on_path:
                        path.append(node)
                        on_path.add(node)
                        break
    return path, on_path


def ancestors(y: Tensor, oldest: int = 0) -> list[Tensor]:
    """Return ``y`` and the recorded tensors it was made from, none older than ``oldest``, in order of creation."""
    found = {y}
    stack = [y]
    while stack:
        node = stack.pop()
        if node._operation is not None:
            for a in node._args:
                if isinstance(a, Tensor) and a.requires_grad and a._order >= oldest and a not in found:
                    found.add(a)
                    stack.append(a)
    return sorted(found, key=_creation)


_creation = attrgetter("_order")


def _finished(g: Any, w: Tensor, k: int, create_graph: bool, unused: str) -> Any:
    """Return a target's cotangent as its gradient: in the target's dtype, a Tensor if ``create_graph``, else an array."""
    if g is None:
        g = unused_gradient(w, k, unused)
    if create_graph:
        g = g if isinstance(g, Tensor) else Tensor(g)
        return g if g.dtype == w.dtype else g.astype(w.dtype)
    return as_gradient(g.data if isinstance(g, Tensor) else g, w.data)


def _in_own_memory(gradients: list[Any], cotangent: Any) -> list[Any]:
    """Return gradients that belong to the caller: writable, and none shares memory with another or with the cotangent.

    A rule may return the cotangent itself (``a + b`` does, twice), a view of it or a broadcast array.
    """
    if len(gradients) == 1 and type(g := gradients[0]) is np.ndarray and g.base is None and g.flags.writeable:
        return gradients if g is not cotangent else [g.copy()]  # the usual case, decided quickly
    owned = []
    taken = {_base(cotangent)}
    for g in gradients:
        base = _base(g)
        if base in taken or not _is_plain(value_of(g)):
            g = g.astype(g.dtype)  # a copy; of a Tensor, a recorded one
            base = _base(g)
        taken.add(base)
        owned.append(g)
    return owned


def _base(g: Any) -> int:
    """Return the identity of the array whose memory an array or a Tensor uses."""
    base = value_of(g)
    while getattr(base, "base", None) is not None:
        base = base.base
    return id(base)


def _is_plain(g: Array) -> bool:
    """Whether an array can be written to and no two of its elements share memory."""
    if type(g) is np.ndarray and not g.flags.writeable:
        return False
    return 0 not in g.strides or g.size <= 1 or all(s or n == 1 for s, n in zip(g.strides, g.shape, strict=True))


def as_gradient(g: Array, x: Array) -> Array:
    """Return a cotangent as an array of x's kind and dtype."""
    return g if type(g) is type(x) and g.dtype == x.dtype else xp_of(x).asarray(g, dtype=x.dtype)


def backward(y: Tensor, cotangent: Any = None) -> None:
    """Add the gradient of ``y`` to ``leaf.grad`` for every leaf that it was computed from: ``Tensor.backward``."""
    leaves = [node for node in ancestors(y) if node.is_leaf and node.requires_grad]
    if not leaves:
        raise ValueError("backward: nothing was recorded; no tensor in this computation has requires_grad=True")
    for leaf, g in zip(leaves, grad(y, leaves, cotangent), strict=True):
        leaf.grad = g if leaf.grad is None else leaf.grad + g
