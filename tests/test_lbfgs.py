"""The L-BFGS attack's two solvers: optimal where this can be checked, alike, independent of the batch, clean when stopped."""

import json
import signal
import threading
import time

import numpy as np
import pytest
from fake_cupy import installed
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from benchmarks import __main__ as command_line
from benchmarks import attacks_lbfgs as benchmark
from npadv import Tensor, ops
from npadv.attacks import lbfgs, lbfgs_batched, lbfgs_scipy
from npadv.attacks.lbfgs_problem import PenalizedLoss
from npadv.attacks.lbfgs_search import Search
from npadv.backend import to_numpy
from npadv.functional import cross_entropy, softmax
from npadv.nn import Dense, ReLU, Sequential, Tanh

SOLVERS = {"scipy": lbfgs_scipy.solve, "batched": lbfgs_batched.solve}


@pytest.fixture(params=SOLVERS)
def solver(request):
    return request.param


@pytest.fixture(autouse=True)
def no_thread_is_left_behind():
    yield
    assert not [thread for thread in threading.enumerate() if thread.name == "npadv-lbfgs"]


class Recorded(PenalizedLoss):
    """A problem that stores the solutions by example."""

    solutions: dict

    def finish(self, search, solution):
        self.solutions.setdefault(search.example, []).append((search.weight, solution))
        super().finish(search, solution)


def solve(solver, model, x, targets, weight=1.0, bounds=(0.0, 1.0), at_once=256, **options):
    """Return each example's solution of the inner problem for one lambda."""
    problem = Recorded(model, x, bounds, **{"squared": True, "tolerance": 1e-5, "max_iterations": 300, **options})
    problem.solutions = {}
    SOLVERS[solver](problem, [Search(i, int(t), weight, 1) for i, t in enumerate(targets)], at_once)
    return [problem.solutions[i][0][1] for i in range(len(x))]


def row_by_row(seed, features=6, classes=3):
    """Return a smooth model whose every row is computed alone, to the bit: no matrix product, whose rounding may differ."""
    rng = np.random.default_rng(seed)
    w, v = rng.normal(0, 2, (8, features)), rng.normal(0, 2, (classes, 8))

    def model(x):
        hidden = [ops.tanh(ops.sum(x * row, axis=1, keepdims=True)) for row in w]
        return ops.concatenate([sum(h * float(k) for h, k in zip(hidden, row, strict=True)) for row in v], axis=1)

    return model


def network(activation, seed=0, widths=(12, 40, 30, 4), scale=2):
    """Return a network in float64; large weights make it strongly nonlinear, so that problems have several minima."""
    rng = np.random.default_rng(seed)
    a, b, c, d = widths
    layers = Dense(a, b, rng=rng), activation(), Dense(b, c, rng=rng), activation(), Dense(c, d, rng=rng)
    model = Sequential(*layers).astype(np.float64)
    for p in model.parameters():
        p.assign(scale * p.data)
    return model


# Optimality on convex problems ----------------------------------------------------------------------------------------


@settings(max_examples=60)
@given(
    seed=seeds,
    features=st.integers(1, 6),
    classes=st.integers(2, 4),
    weight=st.floats(1e-3, 1e2),
    squared=st.booleans(),
    solver=st.sampled_from(list(SOLVERS)),
)
def test_a_solution_meets_the_karush_kuhn_tucker_conditions(seed, features, classes, weight, squared, solver):
    """On a linear model the problem is convex, so these conditions are necessary and sufficient for a minimum."""
    rng = np.random.default_rng(seed)
    w, b = rng.normal(0, 2, (features, classes)), rng.normal(0, 0.3, classes)
    x = np.clip(rng.uniform(-0.3, 1.3, (3, features)), 0, 1)  # many pixels at the ends of the box
    targets = rng.integers(classes, size=3)
    for i, solution in enumerate(solve(solver, lambda x: x @ w + b, x, targets, weight, squared=squared)):
        point, eta = solution.point, solution.point - x[i]
        assert ((point >= 0) & (point <= 1)).all()
        p = softmax(point @ w + b)
        g = w @ (p - np.eye(classes)[targets[i]])
        size = np.linalg.norm(eta)
        loss = cross_entropy((point @ w + b)[None], targets[i : i + 1])
        assert solution.objective == pytest.approx(weight * (size**2 if squared else size) + loss, rel=1e-9)
        if size == 0 and not squared:  # the norm's subgradients make up for any gradient of length up to lambda
            followed = np.where(((point == 0) & (g > 0)) | ((point == 1) & (g < 0)), 0, g)
            assert np.linalg.norm(followed) <= weight + 2e-5
            continue
        g = g + weight * (2 * eta if squared else eta / size)
        # How well it can be met: a change of x in its last digit changes the gradient of a short norm by this.
        tolerance = 1e-5 * (1 + 1e-3 * weight / max(size, 1e-9) * (not squared))
        # f rises only at the lower end and falls only at the upper: the slope or the distance to that end is zero.
        assert np.minimum(np.maximum(g, 0), point).max() <= tolerance
        assert np.minimum(np.maximum(-g, 0), 1 - point).max() <= tolerance
        assert solution.residual == pytest.approx(np.abs(np.clip(point - g, 0, 1) - point).max(), abs=1e-9)


@pytest.mark.parametrize("share", [0.999, 1.001])
def test_without_the_square_a_large_lambda_keeps_eta_at_exactly_0(solver, share):
    """The norm's slope is lambda from the start: it outweighs the loss from lambda = ||gradient|| on."""
    w, x = np.array([[2.0, -2.0], [-1.0, 1.0], [5.0, -5.0]]), np.array([[0.5, 0.4, 0.0]])
    p = softmax(x @ w)[0]
    g = w @ (p - [0, 1])  # of class 1; the third pixel is at 0 and would have to go below
    (solution,) = solve(solver, lambda x: x @ w, x, [1], share * np.linalg.norm(g[:2]), squared=False)
    assert (np.abs(solution.point - x).max() == 0) == (share > 1)
    assert solution.residual <= 1e-5


@pytest.mark.parametrize("squared", [True, False])
def test_both_penalties_find_the_distance_to_the_boundary(solver, squared):
    w = np.array([[3.0, -1.0], [0.0, 4.0], [1.0, 1.5]])
    x = np.array([[0.9, 0.1, 0.5], [0.6, 0.2, 0.3]])
    normal = w[:, 1] - w[:, 0]
    result = lbfgs(lambda x: 20 * (x @ w), x, solver=solver, squared=squared, searches=30, bounds=(-9, 9))
    exact = np.abs(x @ normal) / np.linalg.norm(normal)
    assert result.success.all()
    assert (result.distance >= exact * (1 - 1e-9)).all()
    # Without the square, lambda ||eta|| and J are both almost linear before the boundary: eta jumps past it.
    np.testing.assert_allclose(result.distance, exact, rtol=1e-4 if squared else 0.2)


# The two solvers agree ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("weight", [0.01, 0.3, 3.0])
def test_solvers_agree_on_a_smooth_network(weight, squared):
    model, rng = network(Tanh, scale=1), np.random.default_rng(1)
    x, targets = rng.random((20, 12)), rng.integers(4, size=20)
    ours, scipys = (solve(name, model, x, targets, weight, squared=squared) for name in ("batched", "scipy"))
    agree = [
        a.objective == pytest.approx(b.objective, rel=1e-6) and np.abs(a.point - b.point).max() < 2e-3
        for a, b in zip(ours, scipys, strict=True)
    ]
    assert sum(agree) >= 19  # one solver may have reached another minimum
    assert all("converged: the residual" in solution.message for solution in ours)
    assert sum(s.evaluations for s in ours) <= 1.2 * sum(s.evaluations for s in scipys)


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("weight", [0.03, 0.3, 3.0])
def test_solvers_agree_on_a_network_with_kinks(weight, squared):
    """A solver that crosses another kink may end in another minimum, which is as often better as worse."""
    model, rng = network(ReLU, scale=1), np.random.default_rng(1)
    x, targets = rng.random((60, 12)), rng.integers(4, size=60)
    solutions = [solve(name, model, x, targets, weight, squared=squared) for name in ("batched", "scipy")]
    for group in solutions:
        classes = model(np.array([s.point for s in group])).data.argmax(axis=1)
        assert [s.reached for s in group] == classes.tolist()
    ours, scipys = (np.array([s.objective for s in group]) for group in solutions)
    assert np.median(ours / scipys - 1) <= 1e-3
    assert np.log(ours / scipys).mean() <= 0.05


def test_the_batched_solver_finds_examples_as_near_as_scipys():
    model, rng = network(ReLU), np.random.default_rng(1)
    x = rng.random((12, 12))
    ours, scipys = (lbfgs(model, x, solver=name, searches=8) for name in ("batched", "scipy"))
    assert (ours.success == scipys.success).all()
    assert abs(np.log(ours.distance / scipys.distance).mean()) <= 0.03


# Independence of the batch --------------------------------------------------------------------------------------------


@settings(max_examples=5)
@given(seed=seeds, at_once=st.integers(1, 8), squared=st.booleans(), solver=st.sampled_from(list(SOLVERS)))
def test_an_examples_result_does_not_depend_on_its_batch(seed, at_once, squared, solver):
    model, x = row_by_row(seed), np.random.default_rng(seed).random((5, 6))
    options = {"solver": solver, "squared": squared, "searches": 3, "max_iterations": 15}
    together = lbfgs(model, x, at_once=at_once, **options)
    for i in range(5):
        alone = lbfgs(model, x[i : i + 1], **options)
        assert alone.trials[0] == together.trials[i]
        assert alone.kept[0] == together.kept[i]
        np.testing.assert_array_equal(alone.x_adv[0], together.x_adv[i])


def test_scipys_solvers_give_the_same_in_batches_and_one_at_a_time():
    model, x = row_by_row(3), np.random.default_rng(3).random((7, 6))
    for at_once in (2, 256):
        batches, one = (lbfgs(model, x, searches=4, at_once=n) for n in (at_once, 1))
        assert batches.trials == one.trials
        np.testing.assert_array_equal(batches.x_adv, one.x_adv)


def test_the_model_is_evaluated_in_batches_of_at_most_at_once(solver):
    sizes, model, x = [], row_by_row(1), np.random.default_rng(1).random((9, 6))

    def counted(x):
        sizes.append(len(x))
        return model(x)

    result = lbfgs(counted, x, solver=solver, searches=2, at_once=6)
    assert max(sizes[1:-1]) == 6
    assert sum(sizes) == result.queries.sum()
    assert np.mean(sizes[1:-1]) > 5  # a free slot is refilled at once


def test_problems_that_end_at_the_same_time_are_replaced_by_the_next(solver):
    """The problems of equal examples end in the same pass, and for a moment no problem is running."""
    model, x = row_by_row(1), np.repeat(np.random.default_rng(1).random((1, 6)), 7, axis=0)
    y = np.full(7, (int(to_numpy(model(x)).argmax(axis=1)[0]) + 1) % 3)
    for at_once in (1, 2, 3):
        result = lbfgs(model, x, y, targeted=True, solver=solver, searches=3, max_iterations=10, at_once=at_once)
        assert {len(trials) for trials in result.trials} == {3}
        assert (result.x_adv == result.x_adv[0]).all()


def test_the_model_is_only_called_by_the_callers_thread(solver):
    threads, model = set(), row_by_row(0)
    lbfgs(lambda x: (threads.add(threading.get_ident()), model(x))[1], np.full((3, 6), 0.5), solver=solver, searches=1)
    assert threads == {threading.get_ident()}


# The outer search -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [True, False])
def test_more_searches_continue_the_same_search_and_never_lose_a_success(solver, targeted):
    model, rng = network(Tanh), np.random.default_rng(4)
    x, y = rng.random((6, 12)), rng.integers(4, size=6)
    before = None
    for searches in (1, 2, 4, 7):
        result = lbfgs(model, x, y, targeted=targeted, solver=solver, searches=searches, at_once=1)
        if before is not None:
            assert (result.success >= before.success).all()
            assert (result.distance[before.success] <= before.distance[before.success]).all()
            if targeted:
                for longer, shorter in zip(result.trials, before.trials, strict=True):
                    assert longer[: len(shorter)] == shorter
        before = result
    assert before.success.all()


def test_targeted_success_means_the_target(solver):
    model, x = network(Tanh), np.random.default_rng(5).random((8, 12))
    y = np.arange(8) % 4
    result = lbfgs(model, x, y, targeted=True, solver=solver, searches=6)
    np.testing.assert_array_equal(result.prediction, y)
    assert result.success.all()
    assert all({trial.target for trial in trials} <= {y[i]} for i, trials in enumerate(result.trials))


def test_the_nearest_success_of_all_trials_is_kept(solver):
    model, x = network(Tanh), np.random.default_rng(6).random((5, 12))
    result = lbfgs(model, x, solver=solver, searches=5)
    for i, (trials, kept) in enumerate(zip(result.trials, result.kept, strict=True)):
        assert kept is min((t for t in trials if t.success), key=lambda t: t.distance)
        assert kept.target == result.prediction[i]
        assert kept.distance == pytest.approx(result.distance[i], rel=1e-12)
        assert {t.target for t in trials} == set(range(4)) - {int(model(x).data[i].argmax())}
        assert all(isinstance(t.message, str) and t.evaluations >= 1 and t.residual >= 0 for t in trials)


def test_a_first_step_is_no_longer_than_the_minimum_of_the_penalty():
    """With a large lambda the objective is nearly lambda ||eta||^2, which -g / (2 lambda) minimises at once."""
    (solution,) = solve("batched", lambda x: x @ np.array([[4.0, -4.0], [1.0, 2.0]]), np.array([[0.3, 0.6]]), [1], 1e5)
    assert solution.evaluations <= 3
    assert solution.converged


def test_the_message_names_the_reason_to_stop():
    x = np.array([[0.3, 0.6]])
    line = lambda x: x @ np.array([[4.0, -4.0], [1.0, 2.0]])  # noqa: E731
    kinks = network(ReLU, widths=(2, 60, 60, 2))
    assert "residual" in solve("batched", line, x, [1])[0].message
    assert "max_iterations" in solve("batched", line, x, [1], max_iterations=1)[0].message
    messages = {s.message for s in solve("batched", kinks, np.random.default_rng(0).random((50, 2)), [1] * 50, 0.1)}
    assert any("neither" in message for message in messages)
    assert any("CONVERGENCE" in s.message for s in solve("scipy", line, x, [1]))


# Box and dtype --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("bounds", [(0.0, 1.0), (0.1, 0.7), (-0.3, 1 / 3)])
def test_results_stay_in_the_box_and_in_the_dtype(solver, dtype, bounds, squared):
    rng = np.random.default_rng(0)
    w = rng.normal(0, 2, (6, 3)).astype(dtype)
    x = np.clip(rng.random((4, 6)), *bounds).astype(dtype)
    kept, dtypes = x.copy(), set()

    def model(x):
        dtypes.add((x.data if isinstance(x, Tensor) else x).dtype)
        return x @ w

    result = lbfgs(model, x, bounds=bounds, solver=solver, squared=squared, searches=5)
    assert dtypes == {np.dtype(dtype)}
    assert result.x_adv.dtype == dtype
    assert result.x_adv.min() >= dtype(bounds[0])
    assert result.x_adv.max() <= dtype(bounds[1])
    assert result.success.any()
    np.testing.assert_array_equal(x, kept)
    lbfgs(model, result.x_adv, bounds=bounds, solver=solver, searches=1)


def test_images_keep_their_shape(solver):
    model, x = network(Tanh), np.random.default_rng(0).random((2, 3, 2, 2))
    result = lbfgs(lambda x: model(ops.reshape(x, shape=(len(x), 12))), x, solver=solver, searches=4)
    assert result.x_adv.shape == x.shape
    np.testing.assert_array_equal(model(result.x_adv.reshape(2, 12)).data.argmax(axis=1), result.prediction)


def test_a_gradient_that_is_not_finite_is_flagged(solver):
    x = np.array([[0.0, 0.5], [0.5, 0.5]])
    w, b = np.array([[4.0, -4.0], [4.0, -4.0]]), np.array([-6.0, 6.0])  # class 0 for the brighter
    with np.errstate(divide="ignore", invalid="ignore"):  # the root's slope at 0
        result = lbfgs(lambda x: ops.sqrt(x) @ w + b, x, np.array([0, 0]), targeted=True, solver=solver, searches=3)
    np.testing.assert_array_equal(result.flags["non_finite_gradient"], [True, False])
    assert np.isfinite(result.x_adv).all()


@pytest.mark.parametrize("squared", [True, False])
@pytest.mark.parametrize("at_once", [2, 256])
def test_on_the_device_it_is_the_same(solver, at_once, squared):
    rng = np.random.default_rng(2)
    w, x = rng.normal(0, 2, (6, 3)), rng.random((4, 6))
    options = {"solver": solver, "squared": squared, "searches": 4, "at_once": at_once}
    host = lbfgs(lambda x: x @ w, x, **options)
    with installed():
        import cupy

        v = cupy.asarray(w)
        device = lbfgs(lambda x: x @ v, cupy.asarray(x), **options)
        assert type(device.x_adv) is cupy.ndarray
        np.testing.assert_allclose(to_numpy(device.x_adv), host.x_adv, rtol=1e-9)
    for ours, theirs in zip(device.trials, host.trials, strict=True):
        assert [(t.weight, t.success, t.message) for t in ours] == [(t.weight, t.success, t.message) for t in theirs]


# Errors and Ctrl-C ----------------------------------------------------------------------------------------------------


@pytest.fixture
def interruptible():
    """Let an interrupt raise KeyboardInterrupt, also where the tests run in the background and would ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class BrokenError(Exception):
    pass


def failing(after, action):
    """Return a model that performs an action in one of its calls."""
    model, calls = row_by_row(2), iter(range(10**6))

    def call(x):
        if next(calls) == after:
            action()
        return model(x)

    return call


@pytest.mark.parametrize("after", [1, 5])
def test_a_models_exception_is_raised_once(solver, after):
    error = BrokenError("as planned")

    def throw():
        raise error

    with pytest.raises(BrokenError) as caught:
        lbfgs(failing(after, throw), np.random.default_rng(0).random((5, 6)), solver=solver)
    assert caught.value is error
    assert error.__context__ is None


def test_a_solvers_own_exception_is_raised_once(monkeypatch):
    calls, residual = iter(range(10**6)), PenalizedLoss.residual

    def broken(self, *arguments):
        if next(calls) == 3:
            raise BrokenError(threading.current_thread().name)
        return residual(self, *arguments)

    monkeypatch.setattr(PenalizedLoss, "residual", broken)
    with pytest.raises(BrokenError, match="npadv-lbfgs"):
        lbfgs(row_by_row(0), np.random.default_rng(0).random((5, 6)))


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_in_the_model_ends_the_attack(solver):
    x = np.random.default_rng(0).random((5, 6))
    with pytest.raises(KeyboardInterrupt):
        lbfgs(failing(4, lambda: signal.raise_signal(signal.SIGINT)), x, solver=solver)
    assert lbfgs(row_by_row(2), x, solver=solver, searches=1).x_adv.shape == x.shape


@pytest.mark.usefixtures("interruptible")
@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="needs to send a signal to a thread")
def test_an_interrupt_while_a_solver_computes_ends_the_attack(monkeypatch):
    main, calls, residual = threading.main_thread().ident, iter(range(10**6)), PenalizedLoss.residual

    def slow(self, *arguments):
        if next(calls) == 3:
            signal.pthread_kill(main, signal.SIGINT)
            time.sleep(0.2)  # the caller waits for this thread, and stops
        return residual(self, *arguments)

    monkeypatch.setattr(PenalizedLoss, "residual", slow)
    with pytest.raises(KeyboardInterrupt):
        lbfgs(row_by_row(0), np.random.default_rng(0).random((5, 6)))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"weight": 0}, "weight: expected a positive number, got 0"),
        ({"weight": float("nan")}, "weight: expected a positive number, got nan"),
        ({"searches": 0}, "searches: expected an integer of at least 1, got 0"),
        ({"max_iterations": 0}, "max_iterations: expected an integer of at least 1, got 0"),
        ({"max_iterations": 2.5}, "max_iterations: expected an integer of at least 1, got 2.5"),
        ({"at_once": 0}, "at_once: expected an integer of at least 1, got 0"),
        ({"tolerance": -1e-5}, "tolerance: expected a finite number of at least 0, got -1e-05"),
        ({"tolerance": float("nan")}, "tolerance: expected a finite number of at least 0, got nan"),
        ({"solver": "newton"}, "solver: expected one of scipy, batched, got 'newton'"),
    ],
)
def test_bad_settings_are_named(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        lbfgs(lambda x: x, np.full((3, 2), 0.5), **options)


# The benchmark --------------------------------------------------------------------------------------------------------


def test_the_benchmarks_plain_loop_is_the_same_attack():
    model, x = row_by_row(4), np.random.default_rng(7).random((3, 6))
    targets = (to_numpy(model(x)).argmax(axis=1) + 1) % 3
    recorded = lambda x: model(x if isinstance(x, Tensor) else Tensor(x))  # noqa: E731  returns Tensors, as a network does
    distances, evaluations = benchmark.one_at_a_time(recorded, x, targets)
    ours = lbfgs(model, x, targets, targeted=True, searches=benchmark.SEARCHES, max_iterations=benchmark.MAX_ITERATIONS)
    np.testing.assert_allclose(distances, np.where(ours.success, ours.distance, np.nan), rtol=1e-9)
    assert abs(evaluations - ours.queries.sum()) <= 3 * (benchmark.SEARCHES + 1)  # it queries the classes separately


def test_the_benchmark_says_how_many_times_as_fast(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(benchmark, "CASES", (benchmark.Case("20-32-10", "float32", (1.0, 2.0), (3.0, 4.0)),))
    results = tmp_path / "attacks.json"
    arguments = ["attacks", "--only", "lbfgs", "--batch", "4", "--images", "2", "--output", str(results)]
    assert command_line.main(arguments) == 0
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 5
    assert "at least 3, aim 4" in said[4]
    (row,) = json.loads(results.read_text())["lbfgs"]
    for method in benchmark.METHODS:
        assert row[method]["found"] == 1
        assert row[method]["faster"] == pytest.approx(
            row["one at a time"]["seconds"] / row[method]["seconds"], rel=1e-3
        )
    alone = row["one at a time, one thread"]
    assert row["scipy"]["faster_than_one_thread"] == pytest.approx(alone["seconds"] / row["scipy"]["seconds"], rel=1e-3)
    assert alone["distance"] == row["one at a time"]["distance"]
    assert row["scipy"]["distance"] == pytest.approx(row["one at a time"]["distance"], rel=0.05)
    assert command_line.main(["attacks", "--batch", "0"]) == 2
