"""The checks for masked gradients find networks that mask their gradients, and do not suspect one that does not."""

import shutil
from functools import partial

import fake_cupy
import numpy as np
import pytest

from npadv import ops
from npadv.attacks import AttackResult, fgsm, pgd
from npadv.autodiff import value_of
from npadv.backend import to_numpy
from npadv.data import Split
from npadv.evaluation import (
    Check,
    Interrupted,
    larger_budget_does_not_help,
    masking_checks,
    more_steps_do_not_help,
    noise_as_good,
    one_step_beats_many,
    transfer_beats_white_box,
    unbounded_falls_short,
    zero_gradients,
)
from npadv.functional import cross_entropy
from npadv.nn import Dense, Flatten, Sequential, Tanh
from npadv.optim import Adam
from npadv.train import classification_loss, fit

EPS = 0.1
ALL = {
    "zero_gradients",
    "more_steps_do_not_help",
    "one_step_beats_many",
    "transfer_beats_white_box",
    "unbounded_falls_short",
    "noise_as_good",
    "larger_budget_does_not_help",
}


def blobs(n, seed):
    """Return n images in the box, each a noisy one of three patterns."""
    rng = np.random.default_rng(seed)
    patterns = np.random.default_rng(9).choice([0.35, 0.65], (3, 16))
    labels = rng.integers(0, 3, n)
    x = np.clip(patterns[labels] + rng.normal(0, 0.15, (n, 16)), 0, 1).astype(np.float32)
    return x.reshape(n, 1, 4, 4), labels


def trained(seed, loss=classification_loss, step=0.01):
    rng = np.random.default_rng(seed)
    model = Sequential(Flatten(), Dense(16, 32, rng=rng), Tanh(), Dense(32, 3, rng=rng))
    optimizer = Adam(model.parameters(), step)
    fit(model, loss, Split(*blobs(600, 0)), optimizer=optimizer, epochs=10, batch_size=50, rng=rng, progress=False)
    return model


@pytest.fixture(scope="module")
def honest():
    return trained(0)


@pytest.fixture(scope="module")
def stranger():
    return trained(1)


@pytest.fixture(scope="module")
def data():
    return blobs(300, 1)


def saturated(model):
    """Return the model with logits so large that float32's softmax is exactly 0 and 1."""
    return lambda x: model(x) * np.float32(1000)


def rounded(model, levels=12):
    """Return the model behind pixels of few levels, whose derivative is zero, although the input is on the tape."""

    def quantised(x):
        return x * 0.0 + np.round(value_of(x) * levels) / np.float32(levels)

    return lambda x: model(quantised(x))


def shattered(model):
    """Return the model behind a sawtooth of height 0.01, whose slopes of 4 and -4 hide the slope of 1 beneath."""

    def ripple(x):
        place = x * np.float32(200) - np.floor(value_of(x) * np.float32(200))  # from 0 to 1 again and again
        return x + np.float32(0.02) * ops.abs(place - 0.5)

    return lambda x: model(ripple(x))


def distilled():
    """Return a network trained at temperature 50 and evaluated at temperature 1, without the distillation."""

    def hot(model, x, y, *, rng):
        return cross_entropy(model(x, train=True, rng=rng) * (1 / 50), y)

    return trained(0, hot, 0.2)


def suspicious(model, data, stranger=None, eps=EPS):
    sources = None if stranger is None else {"stranger": stranger}
    checks = masking_checks(model, *data, eps=eps, steps=20, sources=sources, rng=np.random.default_rng(2))
    assert all(isinstance(check, Check) and type(check.suspicious) is bool for check in checks)
    return {check.name for check in checks if check.suspicious}


def test_an_honest_network_is_not_suspected(honest, stranger, data):
    right = value_of(honest(data[0])).argmax(axis=1) == data[1]
    assert right.mean() > 0.9
    for eps in (0.01, 0.05, 0.1, 0.2, 0.6):
        assert suspicious(honest, data, stranger, eps) == set(), eps
    loud = lambda x: honest(x) * np.float32(4)  # noqa: E731
    assert suspicious(loud, data, stranger) == set()  # confident, but not saturated
    louder = lambda x: honest(x) * 40.0  # noqa: E731
    x = data[0].astype(np.float64)
    assert suspicious(louder, (x, data[1]), stranger) == set()  # in float64 the gradient is there, small as it is


def test_a_linear_network_on_which_one_step_is_all_there_is_is_not_suspected(data):
    w = np.random.default_rng(0).normal(0, 1, (16, 3)).astype(np.float32)
    linear = lambda x: ops.matmul(ops.reshape(x, shape=(len(x), 16)), w)  # noqa: E731
    y = value_of(linear(data[0])).argmax(axis=1)
    assert suspicious(linear, (data[0], y)) == set()


def test_a_saturated_softmax_is_found(honest, stranger, data):
    assert suspicious(saturated(honest), data, stranger) == ALL - {"one_step_beats_many"}


def test_rounded_pixels_are_found(honest, stranger, data):
    assert suspicious(rounded(honest), data, stranger) == ALL - {"one_step_beats_many"}


def test_shattered_gradients_are_found(honest, stranger, data):
    model = shattered(honest)
    assert (value_of(model(data[0])).argmax(axis=1) == data[1]).mean() > 0.9
    assert suspicious(model, data, stranger) == ALL - {"zero_gradients"}  # the gradient is there, and wrong


def test_a_network_trained_at_a_high_temperature_is_found(stranger, data):
    model = distilled()
    assert (value_of(model(data[0])).argmax(axis=1) == data[1]).mean() > 0.9
    assert suspicious(model, data, stranger) == ALL - {"one_step_beats_many"}


# Verdicts, from attacks whose results are prescribed ------------------------------------------------------------------

X = np.linspace(0.0, 1.0, 200, dtype=np.float64).reshape(100, 2)


def stripes(x):
    """Return logits that say 1 where the first pixel is above 2: within the box, all of class 0."""
    first = x[:, :1]
    return (first - 2.0) * np.array([[-1.0, 1.0]])


def breaking(share, first=0, **more):
    """Return an attack that moves this share of the examples, from the first one on, to class 1."""

    def attack(model, x, y, **options):
        chosen = (np.round(value_of(x)[:, 0] * 99.5) % 100 >= first) & (
            np.round(value_of(x)[:, 0] * 99.5) % 100 < first + round(100 * share)
        )
        x_adv = np.where(chosen[:, None], 3.0, x)
        prediction = value_of(model(x_adv)).argmax(axis=1)
        return AttackResult(x_adv, prediction != y, np.zeros(len(x)), np.zeros(len(x), int), prediction, {})

    return attack


Y = np.zeros(100, dtype=int)


@pytest.mark.parametrize(
    ("one", "many", "expected"),
    [((0.2, 0), (0.1, 0), True), ((0.1, 0), (0.2, 0), False), ((0.2, 0), (0.2, 0), False),
     ((0.06, 0), (0.0, 0), False), ((0.07, 0), (0.0, 0), True),  # six heads in a row are likely enough, seven are not
     ((0.3, 0), (0.3, 30), False), ((0.4, 0), (0.2, 40), True)],
)  # fmt: skip
def test_one_step_is_suspicious_if_it_is_clearly_better(one, many, expected):
    check = one_step_beats_many(stripes, X, Y, one_step=breaking(*one), many_steps=breaking(*many))
    assert check.suspicious is expected
    assert check.numbers["one_step"] == pytest.approx(one[0])
    assert check.numbers["many_steps"] == pytest.approx(many[0])
    both = 100 * min(one[0], many[0]) if one[1] == many[1] else 0
    assert check.numbers["only_one_step"] == round(100 * one[0] - both)
    assert check.numbers["only_many_steps"] == round(100 * many[0] - both)
    assert check.numbers["examples"] == 100


@pytest.mark.parametrize(("share", "expected"), [(1.0, False), (0.98, False), (0.97, True), (0.0, True)])
def test_an_attack_without_a_budget_has_to_break_all(share, expected):
    check = unbounded_falls_short(stripes, X, Y, attack=breaking(share))
    assert check.suspicious is expected
    assert check.numbers == {"examples": 100, "broken": pytest.approx(share)}


def test_transfer_counts_what_any_source_breaks(honest, stranger, data):
    sources = {"a": stranger, "b": honest}
    check = transfer_beats_white_box(honest, *data, sources=sources, attack=partial(fgsm, eps=EPS))
    assert not check.suspicious
    right = value_of(honest(data[0])).argmax(axis=1) == data[1]
    x, y = data[0][right], data[1][right]
    hits = [value_of(honest(fgsm(m, x, y, eps=EPS).x_adv)).argmax(axis=1) != y for m in (stranger, honest)]
    assert check.numbers["transfer"] == pytest.approx((hits[0] | hits[1]).mean())
    assert check.numbers["white_box"] == pytest.approx(hits[1].mean())
    assert check.numbers["examples"] == right.sum()
    alone = transfer_beats_white_box(honest, *data, sources={"a": stranger}, attack=partial(fgsm, eps=EPS))
    assert alone.numbers["transfer"] == pytest.approx(hits[0].mean())


def test_noise_that_finds_what_the_attack_misses_is_suspicious():
    model = lambda x: (x[:, :1] - 0.9) * np.array([[-1.0, 1.0]])  # noqa: E731
    x = np.full((100, 2), 0.85)
    options = {"eps": 0.1, "rng": np.random.default_rng(0)}
    x[:, 1] = np.arange(100) / 100

    def breaking_first(share):
        """Return an attack that breaks the first of the examples; those that noise breaks are anywhere."""

        def attack(model, x, y):
            x_adv = np.where(x[:, 1:] < share, np.array([0.95, 0.0]), np.array([0.0, 0.0])) + x * (x[:, 1:] >= share)
            prediction = value_of(model(x_adv)).argmax(axis=1)
            return AttackResult(x_adv, prediction != y, x[:, 0], np.zeros(len(x), int), prediction, {})

        return attack

    for share, expected in ((0.0, True), (0.5, True), (0.8, False), (1.0, False)):
        check = noise_as_good(model, x, Y, attack=breaking_first(share), draws=1, **options)
        assert check.numbers["attack"] == pytest.approx(share)
        assert 0.35 < check.numbers["noise"] < 0.65  # the sign of one pixel decides
        assert check.suspicious is expected
    assert noise_as_good(model, x, Y, attack=partial(fgsm, eps=0.1), draws=20, **options).numbers["noise"] == 1.0
    still = noise_as_good(model, x, Y, attack=partial(fgsm, eps=0.0), eps=0.0, rng=np.random.default_rng(0))
    assert not still.suspicious


def test_noise_stays_in_the_box_and_does_not_depend_on_the_batch(honest, data):
    seen = []

    def watched(x):
        seen.append(value_of(x))
        return honest(x)

    runs = [
        noise_as_good(
            watched,
            *data,
            attack=partial(fgsm, eps=EPS),
            eps=EPS,
            draws=2,
            rng=np.random.default_rng(0),
            batch_size=size,
        ).numbers
        for size in (500, 7, 1)
    ]
    assert runs[0] == runs[1] == runs[2]
    assert runs[0]["noise"] > 0
    assert min(x.min() for x in seen) >= 0
    assert max(x.max() for x in seen) <= 1
    assert {x.dtype for x in seen} == {np.dtype(np.float32)}


@pytest.mark.parametrize(
    ("shares", "expected"),
    [((0.1, 0.5, 1.0), False), ((0.1, 0.5, 0.5), False), ((0.5, 0.5, 0.5), True), ((0.0, 0.0, 0.0), True),
     ((0.2, 0.5, 0.3), True), ((0.2, 0.5, 0.44), False), ((1.0, 1.0, 1.0), False)],
)  # fmt: skip
def test_more_to_spend_has_to_help(shares, expected):
    budgets = [0.1, 0.2, 0.4]

    def attack(model, x, y, *, eps):
        return breaking(shares[budgets.index(eps)])(model, x, y)

    check = larger_budget_does_not_help(stripes, X, Y, attack=attack, eps=budgets)
    assert check.suspicious is expected
    assert [check.numbers[f"broken at {eps:g}"] for eps in budgets] == pytest.approx(list(shares))
    assert check.numbers["slipped"] == pytest.approx(max(0, max(shares[:2]) - shares[2]))


def test_zero_gradients_are_counted():
    def model(x):
        """Give no gradient to the half of the examples whose first pixel is small."""
        return ops.maximum(x, 0.5) @ np.array([[1.0, -1.0], [0.0, 0.0]])

    check = zero_gradients(model, X, Y)
    assert check.suspicious
    assert check.numbers == {"examples": 100, "zero": 0.5, "non_finite": 0.0}

    def cliff(x):
        """Give a gradient of infinity times zero to the examples whose first pixel is 0."""
        return ops.sqrt(x) @ np.array([[1.0, -1.0], [0.0, 0.0]])

    with np.errstate(divide="ignore", invalid="ignore"):
        check = zero_gradients(cliff, np.where(X < 0.3, 0.0, X), Y)
    assert check.suspicious
    assert check.numbers["zero"] == 0
    assert check.numbers["non_finite"] == pytest.approx(0.3, abs=0.01)


@pytest.mark.parametrize("bad", [0, 6, 15])
def test_more_steps_have_to_raise_the_loss(bad):
    def attack(model, x, y, *, steps):
        """Move examples up the loss, all but a few, which many steps bring back to the start or part of the way to it."""
        place = np.round(x[:, 0] * 99.5)
        way = np.where(place < bad, 0.3 if steps == 1 else np.where(place % 2, 0.0, 0.2), 0.3)
        x_adv = x + way[:, None]
        prediction = value_of(model(x_adv)).argmax(axis=1)
        return AttackResult(x_adv, prediction != y, way, np.full(len(x), 0), prediction, {})

    check = more_steps_do_not_help(stripes, X, Y, attack=attack, steps=(1, 5))
    assert check.suspicious is (bad == 15)
    assert check.numbers["stuck"] == pytest.approx((bad // 2) / 100)
    assert check.numbers["slipped"] == pytest.approx(bad / 100)
    losses = [check.numbers[key] for key in ("loss", "loss after 1", "loss after 5")]
    assert losses[0] < losses[1]
    clean = value_of(cross_entropy(stripes(X), Y))
    assert losses[0] == pytest.approx(float(clean))


def test_only_what_was_right_is_counted(honest, data):
    x, y = data
    wrong = np.where(np.arange(len(x)) % 3 == 0, (y + 1) % 3, y)
    right = value_of(honest(x)).argmax(axis=1) == wrong
    attack = partial(pgd, eps=EPS, steps=3)
    check = one_step_beats_many(honest, x, wrong, one_step=partial(fgsm, eps=EPS), many_steps=attack)
    alone = one_step_beats_many(honest, x[right], wrong[right], one_step=partial(fgsm, eps=EPS), many_steps=attack)
    assert check == alone
    steps = more_steps_do_not_help(honest, x, wrong, attack=partial(pgd, eps=EPS), steps=(1, 3))
    again = more_steps_do_not_help(honest, x[right], wrong[right], attack=partial(pgd, eps=EPS), steps=(1, 3))
    assert steps.numbers == pytest.approx(again.numbers, rel=1e-5)


def test_without_an_example_that_is_right_nothing_is_claimed(honest, data):
    x = data[0][:10]
    y = (value_of(honest(x)).argmax(axis=1) + 1) % 3
    checks = masking_checks(honest, x, y, eps=EPS, steps=2, sources={"m": honest}, rng=np.random.default_rng(0))
    assert not any(check.suspicious for check in checks)
    assert [check.numbers["examples"] for check in checks] == [10, 0, 0, 0, 0, 0, 0]


def test_all_checks_and_their_order(honest, data):
    names = ["zero_gradients", "more_steps_do_not_help", "one_step_beats_many", "transfer_beats_white_box"]
    names += ["unbounded_falls_short", "noise_as_good", "larger_budget_does_not_help"]
    run = partial(masking_checks, honest, *data, eps=EPS, steps=2, rng=np.random.default_rng(0))
    assert [check.name for check in run(sources={"m": honest})] == names
    names.remove("transfer_beats_white_box")
    checks = run()
    assert [check.name for check in checks] == names
    assert {f"broken at {eps:g}" for eps in (0.1, 0.2, 1)} <= set(checks[-1].numbers)
    assert checks[-1].numbers["broken at 1"] == checks[-3].numbers["broken"]


def test_checks_do_not_depend_on_the_batch(honest, stranger, data):
    x, y = data[0][:40].astype(np.float64), data[1][:40]

    def run(size):
        rng = np.random.default_rng(0)
        return masking_checks(
            honest, x, y, eps=EPS, steps=4, sources={"m": stranger}, rng=rng, batch_size=size, progress=False
        )

    whole = run(500)
    for size in (1, 7):
        for check, expected in zip(run(size), whole, strict=True):
            assert (check.name, check.suspicious) == (expected.name, expected.suspicious)
            assert check.numbers == pytest.approx(expected.numbers, rel=1e-5)


def test_ctrl_c_keeps_the_checks_that_are_done(honest, data):
    x, y = data
    whole = masking_checks(honest, x[:10], y[:10], eps=EPS, steps=2, rng=np.random.default_rng(0), batch_size=5)
    looks = []

    def impatient(model, until):
        def look(x):
            looks.append(1)
            if len(looks) > until:
                raise KeyboardInterrupt
            return model(x)

        return look

    counts = []
    for until in (0, 2, 20, 40):
        looks.clear()
        with pytest.raises(KeyboardInterrupt) as stop:
            masking_checks(
                impatient(honest, until), x[:10], y[:10], eps=EPS, steps=2, rng=np.random.default_rng(0), batch_size=5
            )
        result = stop.value.result if isinstance(stop.value, Interrupted) else ()
        counts.append(len(result))
        for check, expected in zip(result[:-1], whole, strict=False):
            assert check == expected
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert 0 < counts[1] < counts[-1] < 6


@pytest.mark.skipif(shutil.which("g++") is None, reason="g++, which runs the kernels here, is not installed")
def test_checks_on_the_device(honest, stranger, data):
    x, y = data[0][:30], data[1][:30]

    def run(model, other, x, y):
        return masking_checks(
            model, x, y, eps=EPS, steps=4, draws=2, sources={"m": other}, rng=np.random.default_rng(0)
        )

    host = run(honest, stranger, x, y)
    with fake_cupy.installed():
        import cupy

        model, other = (trained(seed).to("cuda") for seed in (0, 1))
        device = run(model, other, cupy.asarray(x), cupy.asarray(y))
        assert to_numpy(cupy.asarray(x)).shape == x.shape
    for check, expected in zip(device, host, strict=True):
        assert (check.name, check.suspicious) == (expected.name, expected.suspicious)
        assert check.numbers == pytest.approx(expected.numbers, rel=1e-3)


LINEAR = lambda x: x @ np.array([[1.0, -1.0], [2.0, -3.0]])  # noqa: E731
HALF = np.full((4, 2), 0.5)
OF = np.array([0, 1, 0, 1])


def noise(**changes):
    arguments = {"attack": partial(fgsm, eps=0.1), "eps": 0.1, "rng": np.random.default_rng(0)} | changes
    return noise_as_good(LINEAR, HALF, OF, **arguments)


def everything(**changes):
    return masking_checks(
        **({"model": LINEAR, "x": HALF, "y": OF, "eps": 0.1, "rng": np.random.default_rng(0)} | changes)
    )


WRONG = {
    "draws": (lambda: noise(draws=0), r"^draws: expected an integer of at least 1, got 0"),
    "noise eps": (lambda: noise(eps=-1.0), r"^eps: expected a finite number of at least 0, got -1\.0"),
    "noise rng": (lambda: noise(rng=3), r"^rng: expected a numpy\.random\.Generator, got int"),
    "noise bounds": (lambda: noise(bounds=(0.0, 0.4)), r"^x: expected values in the box \[0\.0, 0\.4\]"),
    "sources": (
        lambda: transfer_beats_white_box(LINEAR, HALF, OF, sources={}, attack=fgsm),
        r"^sources: expected at least one model by its name",
    ),
    "one budget": (
        lambda: larger_budget_does_not_help(LINEAR, HALF, OF, attack=fgsm, eps=[0.1]),
        r"^eps: expected at least 2 budgets to compare, got \[0\.1\]",
    ),
    "one count": (
        lambda: more_steps_do_not_help(LINEAR, HALF, OF, attack=pgd, steps=[1]),
        r"^steps: expected at least 2 increasing integers, got \[1\]",
    ),
    "falling": (
        lambda: more_steps_do_not_help(LINEAR, HALF, OF, attack=pgd, steps=[4, 1]),
        r"^steps: expected at least 2 increasing integers",
    ),
    "no count": (
        lambda: more_steps_do_not_help(LINEAR, HALF, OF, attack=pgd, steps=[0, 1]),
        r"^steps: expected an integer of at least 1, got 0",
    ),
    "eps": (lambda: everything(eps=0.0), r"^eps: expected a positive number, got 0\.0"),
    "whole": (lambda: everything(eps=1.0), r"^eps: expected less than the width 1 of the box, got 1\.0"),
    "steps": (lambda: everything(steps=1), r"^steps: expected an integer of at least 2, got 1"),
    "bounds": (lambda: everything(bounds=(0.0, float("inf"))), r"^bounds: expected a finite box"),
    "labels": (lambda: everything(y=OF + 1), r"^y: expected classes 0\.\.1, got values from 1 to 2"),
    "tape": (lambda: zero_gradients(lambda x: 2 * value_of(x) + 1, HALF, OF), r"^model: expected logits computed from"),
    "probabilities": (lambda: zero_gradients(lambda x: x, HALF, OF), r"^model: expected logits, got probabilities"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_input_is_named(name):
    call, message = WRONG[name]
    with pytest.raises(ValueError, match=message):
        call()
