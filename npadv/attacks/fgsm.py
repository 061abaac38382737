"""The fast gradient sign method: one step of eps along the sign of the loss's gradient in the input.

    x_adv = clip(x + eps * sign(grad_x J(x, y)), low, high)        [SYN] eq. 2, [WG] eq. 1.3

If J were linear in x this would be the worst perturbation with ||x_adv - x||_inf <= eps, and it would raise J by
eps * ||grad||_1: a sum over all pixels, which is why changes too small to see add up to one that decides the class.

J need not be a classifier's loss: with ``loss`` given, the model may be a regression, or an autoencoder whose
reconstruction error the step raises ([WG] 1.2).

References: Goodfellow, Shlens and Szegedy 2014, "Explaining and harnessing adversarial examples"; Warde-Farley and
Goodfellow, "Adversarial Perturbations of Deep Neural Networks" [WG], section 1.2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from npadv import ops
from npadv.attacks.checks import check_first_logits, check_flag, check_inputs, check_losses, check_targets
from npadv.attacks.result import (
    AttackResult,
    Bounds,
    LossResult,
    Model,
    check_gradient,
    input_gradient,
    make_result,
    records,
)
from npadv.autodiff import Tensor, no_record, value_of
from npadv.backend import Array, is_array, xp_of
from npadv.norms import norm, sign_step


@records
def fgsm(
    model: Model,
    x: Array,
    y: Any = None,
    *,
    eps: float | Array,
    targeted: bool = False,
    bounds: Bounds = (0.0, 1.0),
    loss: Callable[[Any, Any], Any] | None = None,
) -> AttackResult:
    """Perturb every pixel by eps in the direction that raises the loss, and stay in the box.

    Parameters
    ----------
    model, x, y, targeted, bounds : see npadv.attacks
    eps : float, or (N,) array
        Size of the step in the maximum norm, in units of x.
    loss : callable, optional
        ``loss(output, y)`` gives one number an example, (N,), and replaces the cross-entropy. The model's output and y may
        then be of any kind that it takes. With ``targeted`` the step lowers it.

    Returns
    -------
    AttackResult, or LossResult with ``loss``
        ``distance`` is in the maximum norm; 2 queries an example. With ``loss``, success is a loss that rose.

    Examples
    --------
    A linear model, whose loss rises by eps times the l1 norm of its gradient:

    >>> import numpy as np
    >>> weights = np.array([[1.0, -1.0], [-2.0, 2.0]])
    >>> result = fgsm(lambda x: x @ weights, np.array([[0.5, 0.2]]), np.array([0]), eps=0.1)
    >>> result.x_adv, bool(result.success[0])
    (array([[0.4, 0.3]]), True)
    """
    eps, bounds = check_inputs(x, eps=eps, bounds=bounds, eps_per_example=True)
    inputs = Tensor(x, requires_grad=True)
    output = model(inputs)
    if loss is not None:
        return _raise_loss(model, x, y, inputs, output, eps, targeted, bounds, loss)
    logits = check_first_logits(output, len(x))
    y = check_targets(y, logits, targeted=targeted)

    # Summed over the batch, so that the gradient of one example does not depend on the others.
    total = ops.softmax_cross_entropy(output, labels=y, reduction="sum")
    g, flags = check_gradient(input_gradient(total, inputs))
    x_adv = _step(x, -g if targeted else g, eps, bounds)

    before = logits.argmax(axis=1)
    return make_result(model, x, x_adv, y, kind="linf", targeted=targeted, queries=1, before=before, flags=flags)


def _step(x: Array, g: Array, eps: float | Array, bounds: Bounds) -> Array:
    """Return clip(x + eps * sign(g), low, high). With one eps for all examples a GPU does it in one kernel."""
    if not is_array(eps):
        return sign_step(x, g, eps, bounds)
    return xp_of(x).clip(x + eps * xp_of(x).sign(g), *bounds)


def _raise_loss(
    model: Model,
    x: Array,
    y: Any,
    inputs: Tensor,
    output: Any,
    eps: float | Array,
    targeted: bool,
    bounds: Bounds,
    loss: Callable[[Any, Any], Any],
) -> LossResult:
    """Take the same step on a loss of the caller's.

    An autoencoder that drops the second pixel. The first pixel came out too dark, so making it darker raises the error; the
    second pixel cannot lower it:

    >>> import numpy as np
    >>> from npadv.functional import mean_squared_error
    >>> error = lambda output, y: mean_squared_error(output, y, reduction="none")
    >>> x = np.array([[0.5, 0.2]])
    >>> fgsm(lambda x: x * np.array([0.9, 0.0]), x, x, eps=0.1, loss=error).x_adv
    array([[0.4, 0.2]])
    """
    check_flag("targeted", targeted)
    losses = loss(output, y)
    before = check_losses(losses, len(x))
    # Losses that are no Tensor were not recorded; input_gradient refuses them.
    total = losses.sum() if isinstance(losses, Tensor) else losses
    g, flags = check_gradient(input_gradient(total, inputs))
    x_adv = _step(x, -g if targeted else g, eps, bounds)
    with no_record():
        prediction = value_of(model(x_adv))
        after = check_losses(loss(prediction, y), len(x))
    xp = xp_of(x)
    return LossResult(
        x_adv=x_adv,
        success=after < before if targeted else after > before,
        distance=norm(x_adv - x, "linf"),
        queries=xp.zeros(len(x), dtype=int) + 2,
        prediction=prediction,
        flags={"already_wrong": xp.zeros(len(x), dtype=bool), **flags},
        loss_before=before,
        loss=after,
    )
