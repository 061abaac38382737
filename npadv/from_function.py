"""Models that are written elsewhere: a function of arrays, and its gradient as the other library computes it.

npadv needs two functions of a model f: f(x), the logits, and the vector-Jacobian product x, g -> g . df/dx. PyTorch, JAX and
others have both. What they lack here is a record of how the gradient was computed, so it cannot be differentiated again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from npadv.autodiff import defvjp, primitive
from npadv.backend import Array, is_array


def from_function(forward: Callable[[Array], Array], vjp: Callable[[Array, Array], Array]) -> Callable[[Any], Any]:
    """Return a model of two functions of arrays: its output, and its gradient.

    Parameters
    ----------
    forward : callable
        Takes x (N, ...), an array as it was handed to the model, and returns logits (N, K), an array of the same library
        (NumPy's or CuPy's). It must not change x.
    vjp : callable
        Takes x and a cotangent g of the logits' shape and dtype, and returns the gradient of sum(g * forward(x)) in x: an
        array of x's shape. It is converted to x's dtype.

    Returns
    -------
    model : callable
        Takes an array, and returns an array; or a Tensor, and returns a Tensor that is recorded. Attacks take it as they
        take any model.

    Raises
    ------
    TypeError
        By a call: ``forward`` or ``vjp`` does not return an array.
    ValueError
        When the gradient is taken: ``vjp`` returns another shape than x's.
    NotImplementedError
        When the gradient's own gradient is taken. Attacks that take it (``virtual_adversarial``) and penalties on
        gradients need a model of npadv's operations, or one made with ``npadv.primitive``.

    Examples
    --------
    A model in plain NumPy whose gradient was derived by hand, logits = tanh(x) w:

    >>> import numpy as np
    >>> import npadv
    >>> from npadv.attacks import fgsm
    >>> w = np.array([[1.0, -1.0], [-2.0, 2.0]])
    >>> model = npadv.from_function(
    ...     lambda x: np.tanh(x) @ w,
    ...     lambda x, g: (g @ w.T) * (1 - np.tanh(x) ** 2),
    ... )
    >>> x = np.array([[0.6, 0.2]])
    >>> model(x).argmax(axis=1)
    array([0])
    >>> result = fgsm(model, x, np.array([0]), eps=0.2)
    >>> model(result.x_adv).argmax(axis=1)
    array([1])
    """
    for name, function in (("forward", forward), ("vjp", vjp)):
        if not callable(function):
            raise TypeError(f"from_function({name}): expected a function, got {type(function).__name__}")

    def model(x: Any) -> Any:
        return foreign(x, forward=forward, vjp=vjp)

    return model


@primitive
def foreign(x: Any, *, forward: Callable[[Array], Array], vjp: Callable[[Array, Array], Array]) -> Any:
    """Return forward(x)."""
    return _checked_array(forward(x), "forward")


@primitive
def foreign_vjp(g: Any, x: Any, *, vjp: Callable[[Array, Array], Array]) -> Any:
    """Return vjp(x, g): the gradient of ``foreign``."""
    gradient = _checked_array(vjp(x, g), "vjp")
    if gradient.shape != x.shape:
        raise ValueError(f"from_function(vjp): expected a gradient of x's shape {x.shape}, got {gradient.shape}")
    return gradient.astype(x.dtype, copy=False)


def _refuse(*args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError(
        "from_function: the gradient of this model cannot be differentiated again; write the model with npadv.ops, or with "
        "npadv.primitive and rules made of primitives, where second derivatives are needed"
    )


defvjp(foreign, lambda g, y, x, forward, vjp: foreign_vjp(g, x, vjp=vjp))
defvjp(foreign_vjp, _refuse, _refuse)


def _checked_array(value: Any, name: str) -> Array:
    if not is_array(value):
        raise TypeError(
            f"from_function({name}): expected to get back an array of NumPy or CuPy, got {type(value).__module__}."
            f"{type(value).__name__}"
        )
    return value
