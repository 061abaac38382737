"""The black-box attack: every label is the oracle's and queried once, no label is lost, and the points are the paper's."""

import signal
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds as numbers

from npadv import Tensor, ops
from npadv.attacks import fgsm, pgd, substitute, transfer_attack
from npadv.attacks.result import predict
from npadv.attacks.substitute import augment
from npadv.autodiff.derivatives import jacobian
from npadv.data import digits
from npadv.files import load_arrays, save_arrays
from npadv.functional import softmax
from npadv.nn import Dense, Dropout, Flatten, ReLU, Sequential, network
from npadv.optim import SGD, Adam
from npadv.train import classification_loss, evaluate, fit


@pytest.fixture(autouse=True)
def ctrl_c():
    """Let Ctrl-C interrupt, even where the tests run in the background of a shell, which ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


class Oracle:
    """Three classes, by the sum of all pixels and by the first; stores the points it is queried."""

    def __init__(self, before=lambda call: None):
        self.asked, self.calls, self.before = [], 0, before

    def __call__(self, x):
        self.calls += 1
        self.before(self.calls)
        assert type(x) is np.ndarray
        self.asked += [point.tobytes() for point in x]
        return self.labels(x)

    def labels(self, x):
        rows = x.reshape(len(x), -1)
        return np.where(rows.mean(axis=1) > 0.5, 2, (rows[:, 0] > 0.4).astype(int))


def student_of(seed, features, classes=3, units=12):
    rng = np.random.default_rng(seed)
    layers = (Dense(features, units, rng=rng), ReLU(), Dropout(0.2), Dense(units, classes, rng=rng))
    return Sequential(Flatten(), *layers)


def run(oracle, seed=0, n=6, shape=(1, 3, 3), dtype=np.float32, student=None, low=0.0, rate=0.3, **options):
    """Run the attack with everything made anew from one number."""
    rng = np.random.default_rng(seed)
    x = (low + (1 - low) * rng.random((n, *shape))).astype(dtype)
    student = student_of(seed, int(np.prod(shape))).astype(dtype) if student is None else student
    options = {"budget": 200, "rounds": 3, "epochs": 2, "batch_size": 5, **options}
    return substitute(oracle, student, x, optimizer=SGD(student.parameters(), rate, momentum=0.5), rng=rng, **options)


# The points -----------------------------------------------------------------------------------------------------------


@given(
    seed=numbers,
    step=st.sampled_from([0.1, -0.3]),
    classes=st.integers(2, 4),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_a_step_follows_the_sign_of_the_jacobian_of_the_probability_of_the_label(seed, step, classes, dtype):
    rng = np.random.default_rng(seed)
    student = student_of(seed, 4, classes).astype(dtype)
    x, labels = rng.random((5, 1, 2, 2)).astype(dtype), rng.integers(classes, size=5)
    inputs = Tensor(x, requires_grad=True)
    j = jacobian(softmax(student(inputs)), inputs)  # (N, K, N, 1, 2, 2)
    of_label = np.stack([j[i, labels[i], i] for i in range(5)])
    clear = np.abs(of_label) > 1e-5  # elsewhere rounding has the last word
    expected = np.clip(x + dtype(step) * np.sign(of_label), 0, 1)
    got = augment(student, x, labels, step)
    assert got.dtype == dtype
    np.testing.assert_array_equal(got[clear], expected[clear])
    assert got.min() >= 0
    assert got.max() <= 1


def test_a_student_that_is_sure_still_says_where_to_go():
    """F_k is 1 in float32, its gradient 0, and that of its logarithm all that is left of the other classes."""
    w = np.array([[30.0, 0.0, -5.0], [0.0, 10.0, 60.0]], np.float32)
    x = np.array([[1.0, 0.05]], np.float32)

    def student(x):
        return x @ w + np.array([20.0, 0.0, 0.0], np.float32)

    assert softmax(student(x))[0, 0] == 1
    inputs = Tensor(x, requires_grad=True)
    flat = jacobian(softmax(student(inputs)), inputs)[0, 0, 0]
    assert np.abs(flat).max() < 1e-9  # only rounding error is left
    np.testing.assert_allclose(augment(student, x, np.array([0]), -0.01), [[0.99, 0.06]], rtol=1e-6)


@pytest.mark.parametrize("period", [None, 1, 2])
def test_each_round_adds_a_step_from_every_point_by_the_student_of_that_round(period):
    before = run(Oracle(), rounds=0, period=period)
    np.testing.assert_array_equal(before.x, np.random.default_rng(0).random((6, 1, 3, 3)).astype(np.float32))
    for r in range(4):
        after = run(Oracle(), rounds=r + 1, period=period)
        step = 0.1 * (1 if period is None or r // period % 2 == 0 else -1)
        assert after.history[-1]["step"] == step
        both = np.concatenate([before.x, augment(before.student, before.x, before.labels, step)])
        _, first = np.unique(both.reshape(len(both), -1), axis=0, return_index=True)  # few pixels: some points meet
        np.testing.assert_array_equal(after.x, both[np.sort(first)])
        before = after
    assert len(before.x) > 6 * 2**3


def test_a_reservoir_keeps_the_rounds_from_doubling():
    result = run(Oracle(), n=10, shape=(1, 20, 20), rate=0.02, rounds=5, reservoir=7, reservoir_after=2)
    assert [row["queries"] for row in result.history] == [10, 20, 40, 47, 54, 61]  # n 2^sigma + kappa (rounds - sigma)


@pytest.mark.parametrize("limit", [{"reservoir": 7, "reservoir_after": 2}, {"budget": 47}])
def test_where_not_all_can_take_a_step_those_that_do_are_drawn(limit):
    options = {"n": 10, "shape": (1, 20, 20), "rate": 0.02}
    result, before = run(Oracle(), rounds=3, **options, **limit), run(Oracle(), rounds=2, **options)
    candidates = augment(before.student, before.x, before.labels, 0.1)
    assert len(candidates) == 40
    drawn = [(point == candidates).all(axis=(1, 2, 3)).nonzero()[0].tolist() for point in result.x[40:]]
    places = [place for found in drawn for place in found]
    assert len(places) == 7
    assert places == sorted(set(places))
    assert places != list(range(7))


def test_what_the_reservoir_takes_is_drawn_without_preference():
    counts = np.zeros(8)
    for seed in range(60):
        result = run(Oracle(), seed=seed, n=8, shape=(12,), rounds=1, reservoir=2, reservoir_after=0, epochs=1)
        for point in result.x[8:]:
            counts[np.abs(result.x[:8] - point).max(axis=1).argmin()] += 1
    assert counts.sum() == 120
    assert counts.min() > 4  # 15 on average, with a deviation of 3.4
    assert counts.max() < 29


# Queries --------------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    seed=st.integers(0, 1000),
    n=st.integers(1, 8),
    extra=st.integers(0, 40),
    shape=st.sampled_from([(2,), (9,), (1, 2, 2)]),
    rounds=st.integers(0, 5),
    reservoir=st.sampled_from([None, 1, 3, 100]),
    at_once=st.sampled_from([1, 3, 256]),
    dtype=st.sampled_from([np.float32, np.float64]),
)
def test_every_label_is_the_oracles_and_counted_once_and_the_budget_holds(
    seed, n, extra, shape, rounds, reservoir, at_once, dtype
):
    oracle = Oracle()
    options = {"rounds": rounds, "reservoir": reservoir, "reservoir_after": 1, "at_once": at_once, "epochs": 1}
    result = run(oracle, seed, n, shape, dtype, budget=n + extra, **options)
    assert result.queries == len(oracle.asked) == len(set(oracle.asked)) <= n + extra
    assert oracle.calls >= result.queries / at_once
    assert [point.tobytes() for point in result.x] == oracle.asked
    assert result.x.dtype == dtype
    assert result.x.shape[1:] == shape
    np.testing.assert_array_equal(result.labels, oracle.labels(result.x))
    queries = [row["queries"] for row in result.history]
    assert queries == sorted(queries)
    assert queries[-1] == result.queries
    assert [row["round"] for row in result.history] == list(range(len(queries)))


@pytest.mark.parametrize(
    ("budget", "queries"), [(6, [6]), (7, [6, 7]), (12, [6, 12]), (20, [6, 12, 20]), (48, [6, 12, 24, 48])]
)
def test_a_budget_is_used_up_and_ends_the_rounds(budget, queries):
    result = run(Oracle(), rounds=6, budget=budget, shape=(1, 20, 20), rate=0.02)
    assert [row["queries"] for row in result.history] == queries


def test_a_repeated_seed_is_queried_once():
    oracle, student = Oracle(), student_of(0, 4)
    x = np.random.default_rng(0).random((3, 4), np.float32)[[0, 1, 0, 2]]
    options = {"optimizer": SGD(student.parameters(), 0.1), "rng": np.random.default_rng(0), "budget": 3}
    result = substitute(oracle, student, x, **options)
    np.testing.assert_array_equal(result.x, x[[0, 1, 3]])
    assert result.queries == 3


def test_a_point_that_stays_where_it_is_costs_nothing():
    """Where the student's gradient is zero, the step leads to the point itself, whose label is known."""
    student = Sequential(Flatten(), Dense(9, 3, rng=np.random.default_rng(0)))
    student[1].weight.assign(np.zeros((9, 3), np.float32))
    result = run(Oracle(), student=student, rounds=4, loss=lambda model, x, y, *, rng: ops.sum(model(x) * 0))
    assert result.queries == 6
    assert len(result.history) == 5


def test_the_history_measures_agreement_with_the_oracle():
    oracle = Oracle()
    held = np.random.default_rng(9).random((50, 1, 3, 3), np.float32)
    result = run(oracle, rounds=2, held_out=(held, oracle.labels(held)), epochs=20)
    assert not {point.tobytes() for point in held} & set(oracle.asked)
    last = result.history[-1]
    assert last["agreement"] == (predict(result.student, result.x) == result.labels).mean()
    assert last["held_out_agreement"] == (predict(result.student, held) == oracle.labels(held)).mean()
    assert run(Oracle(), rounds=0).history[0]["held_out_agreement"] is None
    assert run(Oracle(), rounds=0).history[0]["step"] is None
    with pytest.raises(FrozenInstanceError):
        result.queries = 0


def test_the_same_seed_is_the_same_run_and_inputs_are_left_alone():
    first, second, other = run(Oracle()), run(Oracle()), run(Oracle(), seed=1)
    np.testing.assert_array_equal(first.x, second.x)
    np.testing.assert_equal(first.student.state(), second.student.state())
    assert [row["train_loss"] for row in first.history] == [row["train_loss"] for row in second.history]
    assert (first.x[:6] != other.x[:6]).all()
    student, x = student_of(0, 4), np.random.default_rng(0).random((4, 4), np.float32)
    kept = x.copy()
    substitute(Oracle(), student, x, optimizer=Adam(student.parameters()), rng=np.random.default_rng(0), budget=20)
    np.testing.assert_array_equal(x, kept)


def test_points_stay_in_another_box():
    result = run(Oracle(), low=-1.0, bounds=(-1.0, 1.0), step=0.8, rounds=4)
    assert result.x.min() == -1
    assert result.x.max() == 1


# The query log, Ctrl-C and resuming -----------------------------------------------------------------------------------


def pressed_at(when):
    def before(call):
        if call == when:
            signal.raise_signal(signal.SIGINT)

    return before


def same(a, b):
    np.testing.assert_array_equal(a.x, b.x)
    np.testing.assert_array_equal(a.labels, b.labels)
    np.testing.assert_equal(a.student.state(), b.student.state())
    assert a.history == b.history
    assert a.queries == b.queries


OPTIONS = {"at_once": 4, "rounds": 3, "budget": 40, "reservoir": 9, "reservoir_after": 2}


@pytest.mark.parametrize("call", range(1, 11))
def test_after_ctrl_c_in_the_oracle_its_labels_are_saved_and_the_run_can_resume(tmp_path, call):
    whole = Oracle()
    expected = run(whole, **OPTIONS)
    assert whole.calls == 10
    first, second, path = Oracle(pressed_at(call)), Oracle(), tmp_path / "asked.npz"
    with pytest.raises(KeyboardInterrupt):
        run(first, checkpoint=path, **OPTIONS)
    assert first.calls == call
    archive = load_arrays(path)
    assert [point.tobytes() for point in archive["x"]] == first.asked
    np.testing.assert_array_equal(archive["labels"], second.labels(archive["x"]))
    same(run(second, checkpoint=path, resume=True, **OPTIONS), expected)
    assert first.asked + second.asked == whole.asked
    third = Oracle()
    same(run(third, checkpoint=path, resume=True, **OPTIONS), expected)
    assert third.asked == []


def test_after_ctrl_c_in_training_the_run_goes_on(tmp_path):
    expected, path, steps = run(Oracle(), **OPTIONS), tmp_path / "asked.npz", []

    def loss(model, x, y, *, rng):
        steps.append(1)
        if len(steps) == 11:
            signal.raise_signal(signal.SIGINT)
        return classification_loss(model, x, y, rng=rng)

    first, second = Oracle(), Oracle()
    with pytest.raises(KeyboardInterrupt):
        run(first, loss=loss, checkpoint=path, **OPTIONS)
    assert 0 < len(first.asked) < expected.queries
    same(run(second, checkpoint=path, resume=True, **OPTIONS), expected)
    assert len(first.asked) + len(second.asked) == expected.queries


def test_an_oracle_that_fails_loses_no_earlier_label(tmp_path):
    def fails(call):
        if call == 5:
            raise ConnectionError("the service is down")

    first, second, path = Oracle(fails), Oracle(), tmp_path / "asked.npz"
    with pytest.raises(ConnectionError):
        run(first, checkpoint=path, **OPTIONS)
    assert len(load_arrays(path)["x"]) == len(first.asked) == 12  # 4 + 2 seeds, then 4 + 2 points
    same(run(second, checkpoint=path, resume=True, **OPTIONS), run(Oracle(), **OPTIONS))


def test_a_log_that_cannot_be_written_is_an_error_before_any_query(tmp_path):
    (tmp_path / "file").write_text("")
    oracle = Oracle()
    with pytest.raises(OSError, match="file"):
        run(oracle, checkpoint=tmp_path / "file" / "asked.npz", **OPTIONS)
    assert oracle.asked == []

    def fails(call):
        raise ConnectionError

    with pytest.raises(ConnectionError):
        run(Oracle(fails), checkpoint=tmp_path / "asked.npz", **OPTIONS)
    same(run(Oracle(), checkpoint=tmp_path / "asked.npz", resume=True, **OPTIONS), run(Oracle(), **OPTIONS))


def test_a_second_ctrl_c_does_not_wait_and_the_handler_is_given_back():
    handler = signal.getsignal(signal.SIGINT)

    def twice(call):
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)
        pytest.fail("it waited")

    with pytest.raises(KeyboardInterrupt):
        run(Oracle(twice))
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_run_that_goes_another_way_after_all_stays_within_its_budget(tmp_path):
    """Points of the log that the run does not use still count as queries."""
    path, first, second = tmp_path / "asked.npz", Oracle(), Oracle()
    run(first, checkpoint=path, **{**OPTIONS, "rounds": 2})
    result = run(second, checkpoint=path, resume=True, **{**OPTIONS, "epochs": 3})
    assert not set(first.asked) & set(second.asked)
    assert result.queries == len(first.asked) + len(second.asked) == OPTIONS["budget"]
    archive = load_arrays(path)
    assert [point.tobytes() for point in archive["x"]] == first.asked + second.asked
    np.testing.assert_array_equal(archive["labels"], first.labels(archive["x"]))


def test_the_log_of_another_run_is_refused(tmp_path):
    path = tmp_path / "asked.npz"
    run(Oracle(), checkpoint=path, **OPTIONS)
    with pytest.raises(
        FileExistsError, match=r"asked\.npz: exists; pass resume=True to continue that run, or remove it"
    ):
        run(Oracle(), checkpoint=path, **OPTIONS)
    for options, message in (
        ({"seed": 1}, r"asked\.npz: was written with other seeds"),
        ({"shape": (9,)}, r"asked\.npz: expected points of shape \(9,\) and float32, got \(1, 3, 3\) and float32"),
        ({"dtype": np.float64}, r"asked\.npz: expected points of shape .* and float64, got .* and float32"),
        ({"budget": 20}, r"budget: expected at least 32, as many as .*asked\.npz has labels, got 20"),
        ({"student": student_of(0, 9, 2)}, r"asked\.npz: labels: expected classes 0\.\.1, got values from 0 to 2"),
    ):
        oracle = Oracle()
        with pytest.raises(ValueError, match=message):
            run(oracle, checkpoint=path, resume=True, **{**OPTIONS, **options})
        assert oracle.asked == []
    save_arrays(path, {"y": np.zeros(3)})
    with pytest.raises(ValueError, match=r"asked\.npz: expected a query log of points and labels, got another"):
        run(Oracle(), checkpoint=path, resume=True, **OPTIONS)


# Transfer -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("given_labels", [False, True])
def test_success_is_the_oracles(targeted, given_labels):
    rng = np.random.default_rng(0)
    student, x = student_of(0, 9), rng.random((40, 1, 3, 3), np.float32)
    y = rng.integers(3, size=40) if given_labels or targeted else None
    oracle = Oracle()
    result = transfer_attack(student, oracle, pgd, x, y, targeted=targeted, eps=0.3, steps=3)
    before, after = oracle.labels(x), oracle.labels(result.x_adv)
    wanted = before if y is None else y
    crafted = pgd(student, x, wanted, targeted=targeted, eps=0.3, steps=3)
    np.testing.assert_array_equal(result.x_adv, crafted.x_adv)
    np.testing.assert_array_equal(result.prediction, after)
    np.testing.assert_array_equal(result.success, (after == wanted) == targeted)
    np.testing.assert_array_equal(result.flags["already_wrong"], (before == wanted) == targeted)
    np.testing.assert_array_equal(result.flags["student_deceived"], crafted.success)
    np.testing.assert_array_equal(result.distance, crafted.distance)
    np.testing.assert_array_equal(result.queries, 2)
    assert len(oracle.asked) == 80
    assert 0 < result.success.mean() < 1
    assert (result.success != crafted.success).any()


def test_a_substitute_deceives_a_network_of_which_only_labels_are_known():
    data, rng = digits(), np.random.default_rng(0)
    target = network("softmax_regression", rng=rng)
    fit(target, classification_loss, data.train, optimizer=SGD(target.parameters(), 0.1), epochs=20, rng=rng)
    oracle = lambda x: predict(target, x)  # noqa: E731
    held = data.test.images[100:]
    layers = (Dense(784, 50, rng=rng), ReLU(), Dense(50, 10, rng=rng))
    student = Sequential(Flatten(), *layers)
    result = substitute(
        oracle, student, data.test.images[:100], optimizer=Adam(student.parameters(), 3e-3), rng=rng, budget=800,
        rounds=3, period=1, held_out=(held, oracle(held)),
    )  # fmt: skip
    assert result.queries == 800
    assert result.history[-1]["held_out_agreement"] > result.history[0]["held_out_agreement"]
    assert result.history[-1]["held_out_agreement"] > 0.8
    attacked = transfer_attack(student, oracle, fgsm, held, data.test.labels[100:], eps=0.2)
    assert attacked.success.mean() > 0.7
    assert evaluate(target, data.test).error < 0.1


# Bad input ------------------------------------------------------------------------------------------------------------

X = np.full((3, 4), 0.5)
BAD = {
    "logits": ({"oracle": lambda x: np.zeros((len(x), 3))}, r"oracle: expected shape \(3,\), one class .*, got \(3, 3\)"),
    "probabilities": ({"oracle": lambda x: np.ones(len(x))}, r"oracle: expected integer classes 0\.\.2, got dtype float64"),
    "labels out of range": (
        {"oracle": lambda x: np.full(len(x), 3)},
        r"oracle: expected classes 0\.\.2, got values from 3 to 3",
    ),
    "labels missing": ({"oracle": lambda x: np.zeros(1, int)}, r"oracle: expected shape \(3,\), .* got \(1,\)"),
    "seeds outside": ({"seeds": X * 3}, r"seeds: expected values in the box"),
    "seeds nan": ({"seeds": X * np.nan}, r"seeds: expected finite values"),
    "a generator's seed": ({"rng": 0}, r"rng: expected a numpy\.random\.Generator, got int"),
    "a budget too small": ({"budget": 2}, r"budget: expected at least 3, a query for each seed, got 2"),
    "a budget of nothing": ({"budget": 0}, r"budget: expected an integer of at least 1, got 0"),
    "a budget of halves": ({"budget": 3.5}, r"budget: expected an integer of at least 1, got 3\.5"),
    "rounds": ({"rounds": -1}, r"rounds: expected an integer of at least 0, got -1"),
    "step": ({"step": 0}, r"step: expected a positive number, got 0"),
    "period": ({"period": 0}, r"period: expected an integer of at least 1, got 0"),
    "reservoir": ({"reservoir": 0}, r"reservoir: expected an integer of at least 1, got 0"),
    "reservoir_after": ({"reservoir_after": -1}, r"reservoir_after: expected an integer of at least 0, got -1"),
    "epochs": ({"epochs": 0}, r"epochs: expected an integer of at least 1, got 0"),
    "at_once": ({"at_once": 0}, r"at_once: expected an integer of at least 1, got 0"),
    "a student of probabilities": (
        {"student": lambda x: softmax(x @ np.ones((4, 3)))},
        r"model: expected logits, got probabilities",
    ),
    "held out alone": ({"held_out": X}, r"held_out: expected \(points, labels\), got ndarray"),
    "held out elsewhere": ({"held_out": (X * 3, [0, 1, 2])}, r"held_out: expected values in the box"),
    "held out of another shape": ({"held_out": (X[:, :2], [0, 1, 2])}, r"held_out: expected points of the seeds' shape \(4,\)"),
    "held out labels": ({"held_out": (X, [0, 1])}, r"held_out labels: expected shape \(3,\)"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_named_before_anything_is_paid_for(name):
    options, message = BAD[name]
    student, oracle = student_of(0, 4).astype(np.float64), Oracle()
    seeds = np.random.default_rng(0).random((3, 4))
    arguments = {"oracle": oracle, "student": student, "seeds": seeds, "budget": 10, "rng": np.random.default_rng(0)}
    arguments.update(optimizer=SGD(student.parameters(), 0.1), **options)
    first = [arguments.pop(name) for name in ("oracle", "student", "seeds")]
    with pytest.raises(ValueError, match=f"^{message}"):
        substitute(*first, **arguments)
    assert oracle.asked == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"targeted": True}, "y: a targeted attack needs the target classes, got None"),
        ({"y": np.array([0, 1, 3])}, r"y: expected classes 0\.\.2, got values from 0 to 3"),
        ({"oracle": lambda x: np.zeros((len(x), 3))}, r"oracle: expected shape \(3,\)"),
        ({"x": X * 3}, "x: expected values in the box"),
        ({"eps": -1.0}, "eps: expected a finite number of at least 0"),
    ],
)
def test_a_bad_transfer_is_refused(options, message):
    arguments = {"oracle": Oracle(), "x": X, "y": None, "eps": 0.1, **options}
    oracle, x, y = (arguments.pop(name) for name in ("oracle", "x", "y"))
    with pytest.raises(ValueError, match=f"^{message}"):
        transfer_attack(student_of(0, 4).astype(np.float64), oracle, fgsm, x, y, **arguments)
