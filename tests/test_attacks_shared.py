"""Properties that every attack has: it keeps budget, box, dtype and input, follows its seed, and takes examples one by one.

Every function of ``npadv.attacks`` stands in one of two tables: ``CASES``, whose entries are tried for each property, or
``EXEMPT``, with a reason. To add an attack, add a case. At the end, planted faults show that each property is tested.
"""

import inspect
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
from attack_cases import excess, network

import npadv
from npadv import attacks
from npadv.attacks import AttackResult, fgsm

EXEMPT = {
    "confident_errors": "searches given inputs, and perturbs none",
    "evolved_rubbish": "makes images from noise: there is no example to stay near",
    "gaussian_rubbish": "makes images from noise: there is no example to stay near",
    "gradient_rubbish": "makes images from noise: there is no example to stay near",
    "substitute": "trains a network, and perturbs only its own inputs",
    "transfer_attack": "calls another attack, which has its own case",
}


class Case(NamedTuple):
    """An attack with options that are quick. ``budget``: the norm of its radius ``eps``, None if it has none."""

    attack: Callable[..., AttackResult]
    budget: str | None = None
    options: Mapping[str, Any] = MappingProxyType({})
    drawn: bool = False  # its random numbers depend on the place in the batch
    solver: bool = False  # when it stops, and so queries and flags, depends on how the model's output is rounded

    def __call__(self, model, x, y, **options):
        """Call the attack with those of the arguments that it takes."""
        known = {
            "y": y,
            "basis": np.eye(x[0].size).reshape(-1, *x.shape[1:]),
            "guide": 1 - x,
            "layer": model,
            "eps": 0.3,
            "rng": np.random.default_rng(0),
        }
        takes = inspect.signature(self.attack).parameters
        known = {name: value for name, value in known.items() if name in takes}
        return self.attack(model, x, **{**known, **self.options, **options})


CASES = {
    "fgsm": Case(fgsm, "linf"),
    "pgd linf": Case(attacks.pgd, "linf", {"steps": 4}),
    "pgd l2": Case(attacks.pgd, "l2", {"steps": 4, "norm": "l2"}),
    "pgd l1": Case(attacks.pgd, "l1", {"steps": 4, "norm": "l1"}),
    "pgd momentum": Case(attacks.pgd, "linf", {"steps": 4, "momentum": np.float64(0.9), "step": np.float64(0.2)}),
    "pgd gradient": Case(attacks.pgd, "l2", {"steps": 4, "norm": "l2", "direction": "gradient", "step": 1}),
    "pgd restarts": Case(attacks.pgd, "linf", {"steps": 2, "random_start": True, "restarts": 3}, drawn=True),
    "steepest linf": Case(attacks.steepest_ascent, "linf"),
    "steepest l2": Case(attacks.steepest_ascent, "l2", {"norm": "l2"}),
    "steepest l1": Case(attacks.steepest_ascent, "l1", {"norm": "l1"}),
    "steepest of 2 pixels": Case(attacks.steepest_ascent, "l1", {"norm": "l1", "pixels": 2}),
    "one pixel": Case(attacks.one_pixel, "l1"),
    "tangent": Case(attacks.tangent, "l2"),
    "virtual": Case(attacks.virtual_adversarial, "l2", {"iterations": 2}, drawn=True),
    "virtual xi": Case(attacks.virtual_adversarial, "l2", {"iterations": 2, "xi": np.float64(1e-2)}, drawn=True),
    "feature": Case(attacks.feature, "linf", {"max_iterations": 10}, solver=True),
    "feature batched": Case(attacks.feature, "linf", {"max_iterations": 10, "solver": "batched"}, solver=True),
    "linearized l2": Case(attacks.linearized, None, {"overshoot": np.float64(0.02)}),
    "linearized linf": Case(attacks.linearized, None, {"norm": "linf"}),
    "linearized again": Case(attacks.linearized, None, {"steps": 6}),
    "deepfool l2": Case(attacks.deepfool, None, {"steps": 6, "overshoot": np.float64(0.02)}),
    "deepfool l1": Case(attacks.deepfool, None, {"steps": 6, "norm": "l1"}),
    "jsma": Case(attacks.jsma, None, {"theta": np.float64(0.4), "pixels": 4}),
    "jsma single dark": Case(attacks.jsma, None, {"theta": 1, "pixels": 4, "pairs": False, "increase": False}),
    "carlini wagner": Case(
        attacks.carlini_wagner, None, {"searches": 2, "steps": 10, "step": np.float64(0.1), "weight": np.float64(1)}
    ),
    "lbfgs": Case(attacks.lbfgs, None, {"searches": 2, "max_iterations": 6, "weight": np.float64(1)}, solver=True),
    "lbfgs batched": Case(attacks.lbfgs, None, {"searches": 2, "max_iterations": 6, "solver": "batched"}, solver=True),
}


def missing_cases(package=attacks):
    """Return the functions of the package that are in neither table."""
    functions = {name for name in package.__all__ if inspect.isfunction(getattr(package, name))}
    tried = {case.attack for case in CASES.values()}
    return {name for name in functions - EXEMPT.keys() if getattr(package, name) not in tried}


def test_every_attack_is_tried_or_exempt():
    assert missing_cases() == set()
    assert EXEMPT.keys() <= set(attacks.__all__)


# Properties: each is a function of a case, so that planted faults can be tried too ------------------------------------


def examples(dtype=np.float32, bounds=(0.0, 1.0)):
    """Return a network, five images, some of whose pixels are at the ends of the box, and their labels."""
    rng = np.random.default_rng(0)
    model = network(rng).astype(dtype)
    x = np.clip(rng.uniform(-0.2, 1.2, (5, 1, 2, 2)), 0, 1) * (bounds[1] - bounds[0]) + bounds[0]
    return model, np.clip(x.astype(dtype), *map(dtype, bounds)), np.arange(5) % 3


def keeps_budget(case):
    for dtype in (np.float32, np.float64):
        model, x, y = examples(dtype)
        for eps in (0, 0.05, 0.3, 2):
            result = case(model, x, y, eps=eps)
            assert (excess(result.x_adv, x, eps, case.budget) <= 0).all()
            assert (result.distance <= eps * (1 + 1e-5) + 1e-6).all()


def keeps_box(case):
    for bounds in ((0.0, 1.0), (-0.7, 0.7), (0.1, 0.3)):
        model, x, y = examples(np.float32, bounds)
        options = {"guide": x[::-1].copy()} if case.attack is attacks.feature else {}
        x_adv = case(model, x, y, bounds=bounds, **options).x_adv
        assert x_adv.min() >= np.float32(bounds[0])
        assert x_adv.max() <= np.float32(bounds[1])


def keeps_dtype(case):
    """Whatever the type of the options is, the model is shown x's dtype, and x_adv has it."""
    for dtype in (np.float32, np.float64):
        model, x, y = examples(dtype)
        for number in (float, np.float64, np.float32, int):
            shown = []

            def recorder(batch, model=model, shown=shown):
                shown.append(batch.dtype)
                return model(batch)

            options = {"bounds": (number(0), number(1))}
            if case.budget:
                options["eps"] = number(1)
            result = case(recorder, x, y, **options)
            assert result.x_adv.dtype == dtype
            assert set(shown) == {np.dtype(dtype)}


def follows_its_seed(case):
    model, x, y = examples()
    a, b = case(model, x, y), case(model, x, y)
    np.testing.assert_array_equal(a.x_adv, b.x_adv)
    np.testing.assert_array_equal(a.queries, b.queries)


def takes_examples_one_by_one(case):
    model, x, y = examples(np.float64)  # a product of matrices rounds by the size of the batch
    together = case(model, x, y)
    for rows in (slice(0, 1), slice(0, 3)) if case.drawn else (slice(0, 1), slice(1, 2), slice(3, 5)):
        alone = case(model, x[rows], y[rows])
        np.testing.assert_allclose(alone.x_adv, together.x_adv[rows], rtol=1e-9, atol=1e-9)
        if not case.solver:
            np.testing.assert_array_equal(alone.queries, together.queries[rows])
            assert all((alone.flags[name] == together.flags[name][rows]).all() for name in together.flags)


def leaves_its_input(case):
    model, x, y = examples()
    before, labels, state = x.copy(), y.copy(), model.state()
    x_adv = case(model, x, y).x_adv
    assert not np.shares_memory(x_adv, x)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(y, labels)
    np.testing.assert_equal(model.state(), state)
    x.flags.writeable = y.flags.writeable = False
    case(model, x, y)


def reports_its_result(case):
    model, x, y = examples()
    result = case(model, x, y)
    assert isinstance(result, AttackResult)
    assert result.x_adv.shape == x.shape
    prediction = model(result.x_adv).data.argmax(axis=1)
    np.testing.assert_array_equal(result.prediction, prediction)
    arrays = (result.success, result.distance, result.queries, *result.flags.values())
    assert all(array.shape == (len(x),) for array in arrays)


def works_inside_no_record(case):
    model, x, y = examples()
    outside = case(model, x, y)
    with npadv.no_record():
        inside = case(model, x, y)
        assert not (npadv.Tensor(x, requires_grad=True) * 2).requires_grad  # and no_record is still in force
    np.testing.assert_array_equal(inside.x_adv, outside.x_adv)


PROPERTIES = (
    keeps_box,
    keeps_dtype,
    follows_its_seed,
    takes_examples_one_by_one,
    leaves_its_input,
    reports_its_result,
    works_inside_no_record,
)


pytestmark = pytest.mark.filterwarnings("ignore:virtual_adversarial.*difference of gradients failed:RuntimeWarning")


@pytest.mark.parametrize("holds", PROPERTIES, ids=lambda holds: holds.__name__)
@pytest.mark.parametrize("name", CASES)
def test_every_attack(name, holds):
    holds(CASES[name])


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.budget])
def test_every_attack_with_a_radius_keeps_its_budget(name):
    keeps_budget(CASES[name])


# Planted faults -------------------------------------------------------------------------------------------------------


def threefold(model, x, y=None, *, eps, bounds=(0.0, 1.0)):
    """Exceed the radius threefold."""
    return fgsm(model, x, y, eps=3 * eps, bounds=bounds)


def boxless(model, x, y=None, *, eps, bounds=(0.0, 1.0)):
    """Leave the box."""
    result = fgsm(model, x, y, eps=eps, bounds=bounds)
    return altered(result, x_adv=2 * result.x_adv - x)


def widened(model, x, y=None, *, eps, bounds=(0.0, 1.0)):
    """Return float64, as NumPy's scalars make of float32."""
    result = fgsm(model, x, y, eps=eps, bounds=bounds)
    return altered(result, x_adv=np.clip(result.x_adv, np.float64(bounds[0]), np.float64(bounds[1])))


def unseeded(model, x, y=None, *, eps, bounds=(0.0, 1.0)):
    """Draw random numbers without a seed."""
    result = fgsm(model, x, y, eps=eps, bounds=bounds)
    return altered(result, x_adv=x + np.random.default_rng().random(x.shape, np.float32) * (result.x_adv - x))


def pooled(model, x, y=None, *, eps, bounds=(0.0, 1.0)):
    """Move all examples in the mean direction of the batch."""
    result = fgsm(model, x, y, eps=eps, bounds=bounds)
    return altered(result, x_adv=np.clip(x + (result.x_adv - x).mean(axis=0), *bounds))


def in_place(model, x, y=None, *, eps, bounds=(0.0, 1.0)):
    """Write the result into the input."""
    x[...] = fgsm(model, x, y, eps=eps, bounds=bounds).x_adv
    return fgsm(model, x, y, eps=0, bounds=bounds)


def boastful(model, x, y=None, *, eps, bounds=(0.0, 1.0)):
    """Report predictions that the model does not make."""
    result = fgsm(model, x, y, eps=eps, bounds=bounds)
    return altered(result, prediction=(result.prediction + 1) % 3)


def unrecorded(model, x, y=None, *, eps, bounds=(0.0, 1.0)):
    """Leave it to the caller whether gradients are recorded."""
    inputs = npadv.Tensor(x, requires_grad=True)
    npadv.grad(model(inputs).sum(), inputs)
    return fgsm(model, x, y, eps=eps, bounds=bounds)


def altered(result, **fields):
    return AttackResult(**{**vars(result), **fields})


PLANTED = {
    threefold: keeps_budget,
    boxless: keeps_box,
    widened: keeps_dtype,
    unseeded: follows_its_seed,
    pooled: takes_examples_one_by_one,
    in_place: leaves_its_input,
    boastful: reports_its_result,
    unrecorded: works_inside_no_record,
}


@pytest.mark.parametrize("attack", PLANTED, ids=lambda attack: attack.__name__)
def test_a_planted_fault_is_caught_by_its_property(attack):
    with pytest.raises((AssertionError, ValueError)):
        PLANTED[attack](Case(attack, "linf"))


def test_every_property_has_a_planted_fault():
    assert {*PROPERTIES, keeps_budget} == set(PLANTED.values())


def test_a_new_attack_without_a_case_is_noticed(monkeypatch):
    monkeypatch.setattr(attacks, "threefold", threefold, raising=False)
    monkeypatch.setattr(attacks, "__all__", [*attacks.__all__, "threefold"])
    assert missing_cases() == {"threefold"}
