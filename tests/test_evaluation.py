"""Transfer, robustness curves and distances: exact where the result is known, and equal to plain loops."""

import itertools
import math
import shutil
from functools import partial

import fake_cupy
import numpy as np
import pytest
from attack_cases import linear, network
from scipy.stats import binomtest

from npadv.attacks import carlini_wagner, fgsm, jsma, lbfgs, linearized, pgd, virtual_adversarial
from npadv.autodiff import value_of
from npadv.evaluation import (
    Distances,
    Interrupted,
    Rate,
    RobustnessCurve,
    minimal_distances,
    minimal_eps,
    robustness_curve,
    transfer_matrix,
    wilson,
)
from npadv.evaluation.rates import clearly_more

EPS = [0.0, 0.05, 0.1, 0.3]


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture
def problem(rng):
    """Three models that agree in part, examples, and labels that none of them gets right throughout."""
    models = {name: network(np.random.default_rng(seed)) for seed, name in enumerate("abc")}
    x = rng.random((23, 1, 2, 2), np.float32)
    labels = np.where(rng.random(23) < 0.7, value_of(models["a"](x)).argmax(axis=1), rng.integers(0, 3, 23))
    return models, x, labels


def same(first, second):
    """Compare two results; matrix products of other sizes may round otherwise."""
    assert vars(first).keys() == vars(second).keys()
    for name, value in vars(first).items():
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            np.testing.assert_allclose(vars(second)[name], value, rtol=1e-12, err_msg=name)
        else:
            np.testing.assert_array_equal(vars(second)[name], value, err_msg=name)


# Rates ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
def test_wilson_is_the_interval_that_scipy_has(confidence):
    pairs = [(k, n) for n in (1, 2, 7, 100, 10_000) for k in {0, 1, n // 3, n - 1, n}]
    low, high = wilson(*np.array(pairs).T, confidence)
    for i, (k, n) in enumerate(pairs):
        expected = binomtest(k, n).proportion_ci(confidence, method="wilson")
        np.testing.assert_allclose((low[i], high[i]), expected, atol=1e-12)


def test_a_rate_of_none_is_not_a_number():
    rate = Rate(np.array([[3, 0]]), np.array([[4, 0]]))
    for values in (rate.rate, rate.low, rate.high):
        assert np.isnan(values).tolist() == [[False, True]]
    assert rate.low[0, 0] < rate.rate[0, 0] == 0.75 < rate.high[0, 0]


def test_the_sign_test_is_the_binomial_test():
    for first, second in itertools.product(range(0, 40, 3), repeat=2):
        p = binomtest(first, first + second, alternative="greater").pvalue if first + second else 1.0
        assert clearly_more(first, second) == (p < 0.01), (first, second)


# Transfer -------------------------------------------------------------------------------------------------------------


def test_the_diagonal_of_the_transfer_matrix_is_the_white_box_attack(problem):
    models, x, y = problem
    for attack in (partial(fgsm, eps=0.2), partial(pgd, eps=0.4, norm="l2", steps=3), partial(linearized, steps=3)):
        matrix = transfer_matrix(models, models, x, y, attack=attack)
        for i, model in enumerate(models.values()):
            result = attack(model, x, y)
            np.testing.assert_array_equal(matrix.after[i, i], result.prediction)
            np.testing.assert_array_equal(matrix.crafter_after[i], result.prediction)
            np.testing.assert_array_equal(matrix.distance[i], result.distance)
            assert matrix.errors().hits[i, i] == result.success.sum()
            np.testing.assert_array_equal(matrix.crafter_before[i], matrix.before[i])


@pytest.mark.parametrize(
    "where",
    [c for n in range(4) for c in itertools.combinations(("crafter_fooled", "crafter_right", "target_right"), n)],
)
def test_errors_are_counted_as_a_loop_counts_them(problem, where):
    models, x, y = problem
    crafters, targets = {k: models[k] for k in "ab"}, {k: models[k] for k in "cab"}
    attack = partial(fgsm, eps=0.15)
    rate = transfer_matrix(crafters, targets, x, y, attack=attack).errors(*where)
    assert rate.hits.shape == rate.count.shape == (2, 3)
    for (i, crafter), (j, target) in itertools.product(enumerate(crafters.values()), enumerate(targets.values())):
        x_adv, hits, count = attack(crafter, x, y).x_adv, 0, 0
        for k in range(len(x)):
            one = slice(k, k + 1)
            facts = {
                "crafter_fooled": value_of(crafter(x_adv[one])).argmax() != y[k],
                "crafter_right": value_of(crafter(x[one])).argmax() == y[k],
                "target_right": value_of(target(x[one])).argmax() == y[k],
            }
            if all(facts[name] for name in where):
                count += 1
                hits += value_of(target(x_adv[one])).argmax() != y[k]
        assert (rate.hits[i, j], rate.count[i, j]) == (hits, count)


def test_a_target_needs_no_gradient_and_may_return_classes(problem):
    models, x, y = problem
    targets = {
        "scores": models["b"],
        "numbers": lambda x: np.array(value_of(models["b"](x))),  # not recorded
        "classes": lambda x: value_of(models["b"](x)).argmax(axis=1),
    }
    matrix = transfer_matrix({"a": models["a"]}, targets, x, y, attack=partial(fgsm, eps=0.2))
    for j in (1, 2):
        np.testing.assert_array_equal(matrix.after[:, j], matrix.after[:, 0])
        np.testing.assert_array_equal(matrix.before[j], matrix.before[0])
    np.testing.assert_array_equal(matrix.clean().hits, [(matrix.before[0] != y).sum()] * 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_examples_may_be_vectors_with_two_classes_and_stay_as_they_are(dtype):
    w, b, _ = linear(3, 5, 2)
    model = lambda x: x @ w.astype(dtype) + b.astype(dtype)  # noqa: E731
    x = np.random.default_rng(0).random((9, 5)).astype(dtype)
    y = model(x).argmax(axis=1)
    x.flags.writeable = y.flags.writeable = False
    matrix = transfer_matrix({"m": model}, {"m": model}, x, y, attack=partial(fgsm, eps=0.3))
    gap = (model(x)[:, 0] - model(x)[:, 1]) * np.where(y == 0, 1, -1)
    reach = np.clip(x + 0.3 * np.sign(w[:, 1] - w[:, 0]) * np.where(y == 0, 1, -1)[:, None], 0, 1) - x
    gain = reach @ (w[:, 1] - w[:, 0]) * np.where(y == 0, 1, -1)
    np.testing.assert_array_equal(matrix.after[0, 0] != y, gain > gap)
    assert matrix.clean().hits.tolist() == [0]


# Robustness -----------------------------------------------------------------------------------------------------------


def test_the_curve_is_the_attack_at_each_eps_and_at_0_the_clean_accuracy(problem):
    models, x, y = problem
    attack = partial(pgd, steps=3)
    curve = robustness_curve(models, x, y, attack=attack, eps=EPS)
    assert curve.models == tuple(models)
    for m, model in enumerate(models.values()):
        clean = value_of(model(x)).argmax(axis=1) == y
        np.testing.assert_array_equal(curve.correct[m, 0], clean)
        assert curve.accuracy().hits[m, 0] == clean.sum()
        for e, eps in enumerate(EPS[1:], 1):
            np.testing.assert_array_equal(curve.correct[m, e], ~attack(model, x, y, eps=eps).success)
    assert (curve.accuracy().count == len(x)).all()
    single = robustness_curve(models["b"], x, y, attack=attack, eps=EPS)
    assert single.models == ("model",)
    np.testing.assert_array_equal(single.correct[0], curve.correct[1])


def bump(x):
    """Give class 1 to points between 0.55 and 0.65 only: a step that is too long overshoots it."""
    from npadv import ops

    inside = 0.05 - ops.abs(x - 0.6)
    return inside @ np.array([[-1.0, 1.0]])


def test_what_was_broken_at_a_smaller_eps_stays_broken():
    x, y = np.array([[0.5], [0.2], [0.6]]), np.array([0, 0, 0])
    curve = robustness_curve(bump, x, y, attack=fgsm, eps=[0.01, 0.1, 0.3])
    assert curve.accuracy().hits.tolist() == [[2, 1, 2]]  # the first is broken at 0.1, and overshot at 0.3
    assert curve.worst_so_far().hits.tolist() == [[2, 1, 1]]
    correct = np.random.default_rng(0).random((2, 5, 30)) < 0.8
    worst = RobustnessCurve(("a", "b"), np.arange(5.0), correct).worst_so_far()
    for m, e in itertools.product(range(2), range(5)):
        assert worst.hits[m, e] == sum(all(correct[m, : e + 1, k]) for k in range(30))


# Distances ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_quantiles_and_the_distribution_are_what_counting_gives(seed):
    rng = np.random.default_rng(seed)
    d = np.where(
        rng.random(50) < 0.1, np.inf, rng.choice([0.0, 0.1, 0.25, 0.3, 1.5], 50) + 0.01 * rng.integers(0, 3, 50)
    )
    found = Distances(d)
    for q in [0.0, 0.07, 0.1, 0.5, 0.77, 1.0, *rng.random(20)]:
        enough = [r for r in d if np.sum(d <= r) >= q * len(d) - 1e-9]
        assert found.quantile(q) == min(enough)
    assert found.median == found.quantile(0.5)
    radii, shares = found.cdf()
    assert np.isfinite(radii).all()
    assert (np.diff(radii) > 0).all()
    assert set(radii) == {r for r in d if math.isfinite(r)}
    np.testing.assert_array_equal(shares, [np.mean(d <= r) for r in radii])
    grid = np.array([[0.0, 0.2], [0.31, np.inf]])
    assert found.within(grid).hits.tolist() == [
        [np.sum(d <= r) if np.isfinite(r) else np.isfinite(d).sum() for r in line] for line in grid
    ]
    assert (found.within(grid).count == 50).all()


def test_a_failure_is_infinitely_far_and_a_mistake_is_at_0():
    x, y = np.array([[0.9, 0.1], [0.6, 0.4], [0.2, 0.3]]), np.array([0, 0, 0])
    model = lambda x: 5 * x + np.array([0.0, -2.0])  # noqa: E731
    found = minimal_distances(model, x, y, attack=partial(linearized, norm="linf", overshoot=0.01))
    # The boundary is x_0 - x_1 = -0.4, and both pixels move.
    np.testing.assert_allclose(found.distance, 1.01 * np.array([0.6, 0.3, 0.15]))
    assert minimal_distances(model, x, np.array([1, 0, 0]), attack=linearized).distance[0] == 0
    far = lambda x: 5 * x + np.array([0.0, -50.0])  # noqa: E731
    assert np.isinf(minimal_distances(far, x, y, attack=linearized).distance).all()


def test_every_attack_that_minimises_gives_distances(problem):
    models, x, y = problem
    right = value_of(models["a"](x)).argmax(axis=1) == y
    assert 0 < right.sum() < len(x)
    for attack in (
        partial(linearized, steps=5),
        partial(carlini_wagner, searches=3, steps=20, step=0.1),
        partial(jsma, theta=0.5, pixels=4),
        partial(lbfgs, searches=4, max_iterations=10),
    ):
        result = attack(models["a"], x, y)
        found = minimal_distances(models["a"], x, y, attack=attack).distance
        np.testing.assert_array_equal(found == 0, ~right)
        np.testing.assert_array_equal(np.isinf(found), right & ~np.asarray(result.success))
        broken = right & np.asarray(result.success)
        np.testing.assert_array_equal(found[broken], np.asarray(result.distance)[broken])


def test_an_attack_without_labels_is_counted_by_the_true_class(problem):
    models, x, y = problem
    attack = lambda model, x, y: virtual_adversarial(model, x, eps=0.4, rng=np.random.default_rng(0))  # noqa: E731
    found = minimal_distances(models["a"], x, y, attack=attack)
    assert {0.0, np.inf} <= set(found.distance)


@pytest.mark.parametrize("halvings", [0, 1, 7])
def test_the_least_budget_is_the_margin_of_a_linear_model(halvings):
    w, _, model = linear(1, 6, 2)
    x = np.random.default_rng(0).uniform(0.4, 0.6, (40, 6))
    y = np.random.default_rng(1).integers(0, 2, 40)
    margin = (model(x)[:, 0] - model(x)[:, 1]) * np.where(y == 0, 1, -1) / np.abs(w[:, 0] - w[:, 1]).sum()
    grid = [0.02, 0.05, 0.1]
    found = minimal_eps(model, x, y, attack=fgsm, eps=grid, halvings=halvings).distance
    np.testing.assert_array_equal(found == 0, margin < 0)
    np.testing.assert_array_equal(np.isinf(found), margin > 0.1)
    inside = (margin > 0) & (margin < 0.1)
    assert inside.sum() > 5
    before = np.array([0.0, *grid])[np.searchsorted(grid, margin[inside])]
    step = (np.array(grid)[np.searchsorted(grid, margin[inside])] - before) / 2**halvings
    np.testing.assert_array_equal(found[inside] > margin[inside], True)
    assert (found[inside] - step <= margin[inside] + 1e-12).all()
    np.testing.assert_allclose(((found[inside] - before) / step) % 1 % (1 - 1e-6), 0, atol=1e-6)  # on the halved grid


def test_the_least_budget_is_not_lost_by_stepping_too_far():
    x, y = np.array([[0.5], [0.2], [0.6]]), np.array([0, 0, 0])
    found = minimal_eps(bump, x, y, attack=fgsm, eps=[0.0, 0.1, 0.3, 0.4], halvings=10)
    assert found.distance[0] == pytest.approx(0.05, abs=1e-4)
    assert found.distance[1] == pytest.approx(0.35, abs=1e-4)
    assert found.distance[2] == 0


def test_the_least_budget_needs_no_more_attacks_than_documented():
    x, y = np.random.default_rng(0).random((30, 2)), np.zeros(30, dtype=int)
    attacked = []

    def counting(model, x, y, *, eps):
        assert eps > 0
        attacked.append(len(x))
        return fgsm(model, x, y, eps=eps)

    minimal_eps(lambda x: 5 * x, x, y, attack=counting, eps=[0.1, 0.2, 0.4], halvings=4)
    assert 30 < sum(attacked) <= 30 * 7
    assert 0 not in attacked
    robustness_curve(lambda x: 5 * x, x, y, attack=counting, eps=[0.0, 0.1])


# Shared by all measurements -------------------------------------------------------------------------------------------

RUNS = {
    "transfer": lambda m, x, y, **o: transfer_matrix(m, m, x, y, attack=partial(fgsm, eps=0.1), **o),
    "curve": lambda m, x, y, **o: robustness_curve(m, x, y, attack=fgsm, eps=EPS, **o),
    "distances": lambda m, x, y, **o: minimal_distances(m["a"], x, y, attack=partial(linearized, steps=4), **o),
    "budgets": lambda m, x, y, **o: minimal_eps(m["a"], x, y, attack=fgsm, eps=EPS, halvings=4, **o),
}


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_results_do_not_depend_on_the_batch(problem, run):
    models, x, y = problem
    models = {name: model.astype(np.float64) for name, model in models.items()}
    whole = run(models, x.astype(np.float64), y)
    for size in (1, 7, 22, 23, 1000):
        same(run(models, x.astype(np.float64), y, batch_size=size, progress=False), whole)


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_no_batch_is_larger_than_asked_for(problem, run):
    models, x, y = problem
    sizes = []

    def watched(model):
        return lambda x: (sizes.append(len(x)), model(x))[1]

    run({name: watched(model) for name, model in models.items()}, x, y, batch_size=5)
    assert max(sizes) == 5


@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_ctrl_c_keeps_what_was_measured(problem, run):
    models, x, y = problem
    finished = run(models, x[:10], y[:10], batch_size=5)
    looks = []

    def impatient(model):
        def look(x):
            looks.append(x)
            # The third batch is the first to hold the eleventh example.
            if any(np.array_equal(row, late) for row in value_of(x) for late in late_ones):
                raise KeyboardInterrupt
            return model(x)

        return look

    late_ones = x[10:11]
    with pytest.raises(Interrupted) as stop:
        run({name: impatient(model) for name, model in models.items()}, x, y, batch_size=5)
    same(stop.value.result, finished)
    assert isinstance(stop.value, KeyboardInterrupt)
    late_ones = x[1:2]
    with pytest.raises(KeyboardInterrupt) as stop:
        run({name: impatient(model) for name, model in models.items()}, x, y, batch_size=5)
    assert not isinstance(stop.value, Interrupted)


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++, which runs the kernels here, is not installed")
@pytest.mark.parametrize("run", RUNS.values(), ids=RUNS)
def test_on_the_device_the_numbers_are_the_same_and_on_the_host(problem, run):
    models, x, y = problem
    models = {name: model.astype(np.float64) for name, model in models.items()}
    host = run(models, x.astype(np.float64), y)
    with fake_cupy.installed():
        import cupy

        device = run({k: m.to("cuda") for k, m in models.items()}, cupy.asarray(x.astype(np.float64)), cupy.asarray(y))
        for name, value in vars(host).items():
            assert type(vars(device)[name]) is type(value)
            if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                np.testing.assert_allclose(vars(device)[name], value, rtol=1e-9)
            else:
                np.testing.assert_array_equal(vars(device)[name], value)


# Wrong inputs ---------------------------------------------------------------------------------------------------------

X, Y = np.full((4, 2), 0.5), np.array([0, 1, 0, 1])
MODEL = lambda x: x @ np.array([[1.0, -1.0], [2.0, -3.0]])  # noqa: E731
ATTACK = partial(fgsm, eps=0.1)


def transfer(**changes):
    arguments = {"crafters": {"m": MODEL}, "targets": {"m": MODEL}, "x": X, "y": Y, "attack": ATTACK}
    return transfer_matrix(**(arguments | changes))


def curve(**changes):
    return robustness_curve(**({"models": MODEL, "x": X, "y": Y, "attack": fgsm, "eps": [0.1]} | changes))


def budgets(**changes):
    return minimal_eps(**({"model": MODEL, "x": X, "y": Y, "attack": fgsm, "eps": [0.1]} | changes))


def distances(**changes):
    return minimal_distances(**({"model": MODEL, "x": X, "y": Y, "attack": linearized} | changes))


WRONG = {
    "no crafters": (lambda: transfer(crafters={}), r"^crafters: expected at least one model by its name, got \{\}"),
    "a list": (lambda: transfer(targets=[MODEL]), r"^targets: expected at least one model by its name"),
    "no callable": (lambda: transfer(targets={"m": 3}), r"^targets: expected callables by their names, got 'm': int"),
    "no name": (lambda: transfer(targets={3: MODEL}), r"^targets: expected callables by their names, got 3: function"),
    "a criterion": (lambda: transfer().errors("fooled"), r"^where: expected some of crafter_fooled, .*, got 'fooled'"),
    "targeted": (lambda: transfer(y=0 * Y, attack=partial(ATTACK, targeted=True)), r"^attack: expected an untargeted"),
    "no result": (lambda: transfer(attack=lambda m, x, y: x), r"^attack: expected an AttackResult, got ndarray"),
    "other examples": (
        lambda: transfer(attack=lambda m, x, y: ATTACK(m, x[1:], y[1:])),
        r"^attack: expected examples \(4, 2\) and predictions \(4,\), got \(3, 2\) and \(3,\)",
    ),
    "one answer": (lambda: transfer(targets={"m": lambda x: np.zeros(2)}), r"^model: expected logits \(N, K\) = \(4"),
    "NaN": (lambda: transfer(targets={"m": lambda x: x * np.nan}), r"^model: expected finite logits"),
    "batch": (lambda: transfer(batch_size=0), r"^batch_size: expected an integer of at least 1, got 0"),
    "labels above": (lambda: curve(y=np.array([0, 1, 2, 0])), r"^y: expected classes 0\.\.1, got values from 0 to 2"),
    "labels short": (lambda: curve(y=Y[:3]), r"^y: expected shape \(4,\)"),
    "labels float": (lambda: curve(y=Y * 0.5), r"^y: expected integer classes"),
    "no labels": (lambda: curve(y=None), r"^y: expected the true classes \(N,\), got None"),
    "empty": (lambda: curve(x=X[:0], y=Y[:0]), r"^x: expected at least one example"),
    "integers": (lambda: curve(x=Y[:, None]), r"^x: expected floating-point"),
    "one example": (lambda: curve(x=X[0]), r"^x: expected a batch"),
    "infinite": (lambda: curve(x=np.full((4, 2), np.inf)), r"^x: expected finite values"),
    "outside": (lambda: curve(x=X + 1), r"^x: expected values in the box \[0\.0, 1\.0\]"),
    "no budgets": (lambda: curve(eps=[]), r"^eps: expected a sequence of finite numbers of at least 0, got \[\]"),
    "a number": (lambda: curve(eps=0.1), r"^eps: expected a sequence"),
    "negative": (lambda: curve(eps=[-0.1, 0.1]), r"^eps: expected a sequence of finite numbers of at least 0"),
    "falling": (lambda: curve(eps=[0.2, 0.1]), r"^eps: expected increasing numbers, got \[0\.2, 0\.1\]"),
    "twice": (lambda: budgets(eps=[0.1, 0.1]), r"^eps: expected increasing numbers"),
    "NaN budget": (lambda: budgets(eps=[np.nan]), r"^eps: expected a sequence of finite"),
    "halvings": (lambda: budgets(halvings=-1), r"^halvings: expected an integer of at least 0, got -1"),
    "probabilities": (lambda: distances(model=lambda x: x, x=np.full((4, 2), 0.5)), r"^model: expected logits, got prob"),
    "quantile": (lambda: distances().quantile(1.5), r"^q: expected a number in \[0, 1\], got 1\.5"),
    "radius": (lambda: distances().within(-1.0), r"^r: expected distances of at least 0, got -1\.0"),
    "NaN distance": (lambda: Distances(np.array([np.nan])), r"^distance: expected numbers \(N,\) of at least 0"),
    "no distance": (lambda: Distances(np.array([])), r"^distance: expected numbers"),
    "hits": (lambda: Rate(np.array([3]), np.array([2])), r"^hits: expected from 0 up to count"),
    "shares": (lambda: Rate(np.array([0.3]), np.array([2])), r"^hits: expected integers, got dtype float64"),
    "confidence": (lambda: wilson(1, 2, 95), r"^confidence: expected a number between 0 and 1, got 95"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_input_is_named(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
