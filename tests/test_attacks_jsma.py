"""The saliency-map attack: its choice of pixels against brute force, its budget and its memory."""

import itertools
import resource
import subprocess
import sys

import numpy as np
import pytest
from attack_cases import linear, network
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from npadv import ops
from npadv.attacks import JSMAResult, jsma
from npadv.attacks.jsma import best_pairs, best_pixels, compare_all_pairs


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def values(seed, n, d, kind):
    """Return a and b: independent, nearly opposite (a wide front), or of few values (many ties)."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(n, d))
    if kind == "opposite":
        return a, 0.1 * rng.normal(size=(n, d)) - a
    b = rng.normal(size=(n, d))
    return (a.round(), b.round()) if kind == "ties" else (a, b)


def brute_force(a, b, usable):
    """Return the largest score over all usable pairs, and None where no pair has both sums positive."""
    pairs = [
        (p, q) for p, q in itertools.combinations(np.flatnonzero(usable), 2) if a[p] + a[q] > 0 and b[p] + b[q] > 0
    ]
    return max(((a[p] + a[q]) * (b[p] + b[q]) for p, q in pairs), default=None)


@given(seed=seeds, d=st.integers(1, 14), kind=st.sampled_from(["independent", "opposite", "ties"]))
def test_the_pair_is_that_of_brute_force(seed, d, kind):
    a, b = values(seed, 4, d, kind)
    usable = np.random.default_rng(seed).random((4, d)) < 0.8
    plain = compare_all_pairs(np.where(usable, a, -np.inf), np.where(usable, b, -np.inf)) if d > 1 else []
    for i, (p, q) in [*enumerate(best_pairs(a, b, usable)), *enumerate(plain)]:
        best = brute_force(a[i], b[i], usable[i])
        if best is None:
            assert (p, q) == (-1, -1)
        else:
            assert p != q
            assert usable[i, [p, q]].all()
            assert a[i, p] + a[i, q] > 0
            assert (a[i, p] + a[i, q]) * (b[i, p] + b[i, q]) == pytest.approx(best, rel=1e-12)


@given(seed=seeds, d=st.integers(2, 40), kind=st.sampled_from(["independent", "opposite", "ties"]))
def test_leaving_out_dominated_pixels_scores_as_much_as_all_pairs(seed, d, kind):
    a, b = values(seed, 6, d, kind)
    usable = np.random.default_rng(seed).random((6, d)) < 0.8
    plain = compare_all_pairs(np.where(usable, a, -np.inf), np.where(usable, b, -np.inf))
    rows = np.arange(6)
    scores = [
        np.where(p >= 0, (a[rows, p] + a[rows, q]) * (b[rows, p] + b[rows, q]), 0)
        for p, q in (plain.T, best_pairs(a, b, usable).T)
    ]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-12)


@given(seed=seeds, d=st.integers(1, 8))
def test_the_single_pixel_is_that_of_brute_force(seed, d):
    a, b = values(seed, 4, d, "ties")
    usable = np.random.default_rng(seed).random((4, d)) < 0.8
    for i, p in enumerate(best_pixels(a, b, usable)):
        scores = [a[i, k] * b[i, k] for k in range(d) if usable[i, k] and a[i, k] > 0 and b[i, k] > 0]
        assert (p == -1) if not scores else (usable[i, p] and a[i, p] > 0 and a[i, p] * b[i, p] == max(scores))


def by_hand(w, b, x, target, increase, pairs, theta, pixels):
    """Run algorithm 3 on a linear model by brute force, for one example; return where it ends."""
    x, start, sign = x.copy(), x.copy(), 1 if increase else -1
    up, down = sign * w[:, target], -sign * (w.sum(axis=1) - w[:, target])
    while (x @ w + b).argmax() != target:
        usable = np.flatnonzero(x < 1 if increase else x > 0)
        choices = []
        for some in itertools.combinations(usable, 2 if pairs else 1):
            some = list(some)
            if (
                up[some].sum() > 0
                and down[some].sum() > 0
                and (np.union1d(np.flatnonzero(x != start), some).size <= pixels)
            ):
                choices.append((up[some].sum() * down[some].sum(), some))
        if not choices:
            break
        some = max(choices)[1]
        x[some] = np.clip(x[some] + sign * theta, 0, 1)
    return x


@pytest.mark.parametrize("increase", [True, False])
@pytest.mark.parametrize("pairs", [True, False])
def test_it_is_the_papers_algorithm(rng, increase, pairs):
    reached = 0
    for seed in range(12):
        w, b, model = linear(seed, 7, 3)
        x, target = rng.random((1, 7)), seed % 3
        result = jsma(model, x, np.array([target]), targeted=True, increase=increase, pairs=pairs, theta=0.4, pixels=7)
        expected = by_hand(w, b, x[0], target, increase, pairs, 0.4, 7)
        np.testing.assert_allclose(result.x_adv[0], expected, rtol=1e-12)
        assert result.distance[0] == (expected != x[0]).sum()
        assert result.success[0] == (not result.flags["not_converged"][0])
        reached += (result.success & ~result.flags["already_wrong"]).sum()
    assert reached > 0


def test_the_budget_of_pixels_is_kept_and_the_direction_too(rng):
    model, x = network(rng), rng.random((20, 1, 2, 2), np.float32)
    own = model(x).data.argmax(axis=1)
    for pixels, increase, pairs in itertools.product((1, 2, 3), (True, False), (True, False)):
        options = {"pixels": pixels, "increase": increase, "pairs": pairs, "theta": 0.3}
        for targeted, y in ((False, own), (True, (own + 1) % 3)):
            result = jsma(model, x, y, targeted=targeted, **options)
            assert isinstance(result, JSMAResult)
            assert (result.distance <= pixels).all()
            np.testing.assert_array_equal(result.distance, (result.x_adv != x).sum(axis=(1, 2, 3)))
            assert ((result.x_adv >= x) if increase else (result.x_adv <= x)).all()
            assert result.x_adv.dtype == np.float32
            assert result.x_adv.min() >= 0
            assert result.x_adv.max() <= 1


def test_a_pixel_can_be_moved_again_when_the_budget_is_spent():
    w = np.array([[-1.0, 1.0], [-2.0, 2.0]])
    x = np.array([[0.1, 0.1]])
    for pairs in (True, False):
        result = jsma(lambda x: x @ w + [2.5, 0], x, np.array([1]), targeted=True, pixels=1, pairs=pairs, theta=0.2)
        np.testing.assert_allclose(result.x_adv, [[0.1, 0.7]])
        assert result.success[0]


def test_untargeted_the_predicted_class_is_left(rng):
    _, _, model = linear(4, 8, 3)
    x = rng.random((20, 8))
    result = jsma(model, x, pixels=8)
    assert result.success.mean() > 0.5
    assert (result.distance[result.success] > 0).all()


def test_examples_that_arrive_early_do_not_change_the_others():
    rng = np.random.default_rng(1)
    w, v = rng.normal(size=(12, 16)), rng.normal(size=(16, 3))

    def bent(x):
        return ops.maximum(x @ w, 0.0) @ v  # another gradient for each example

    x, y = rng.random((12, 12)), rng.integers(0, 3, 12)
    together = jsma(bent, x, y, theta=0.2, pixels=12, targeted=True)
    arrived = together.success & ~together.flags["already_wrong"]
    assert len(set(together.queries[arrived])) > 2
    first = np.where(arrived, together.queries, 99).argmin()
    assert together.queries[first + 1 :].max() > together.queries[first]  # later examples in the batch continue
    for i in range(12):
        alone = jsma(bent, x[i : i + 1], y[i : i + 1], theta=0.2, pixels=12, targeted=True)
        np.testing.assert_allclose(together.x_adv[i], alone.x_adv[0], rtol=0, atol=1e-12)
        assert together.queries[i] == alone.queries[0]


def test_queries_are_counted_as_they_are_made(rng):
    model, x, seen = network(rng), rng.random((6, 1, 2, 2)), []

    def counted(x):
        seen.append(len(x))
        return model(x)

    assert jsma(counted, x, theta=0.2, pixels=4).queries.sum() == sum(seen)


MEMORY = """
import resource
import numpy as np
from npadv.attacks import jsma
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
rng = np.random.default_rng(0)
w = rng.normal(size=(784, 10)).astype(np.float32)
jsma(lambda x: x @ w, rng.random((256, 784), np.float32), rng.integers(10, size=256), targeted=True, pixels=20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_memory_stays_below_a_gibibyte_for_256_pictures_of_784_pixels():
    done = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True)
    unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
    assert int(done.stdout) * unit < 2**30


def test_memory_stays_bounded_where_every_pixel_is_on_the_front():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    a = np.tile(np.linspace(1, 2, 784), (64, 1))
    pairs = best_pairs(a, 3 - a, np.ones(a.shape, bool))
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * (1 if sys.platform == "darwin" else 1024)
    assert grown < 2**29
    p, q = pairs[0]
    assert a[0, p] + a[0, q] == pytest.approx(3, abs=1e-2)  # s (6 - s) is largest at 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"theta": 0}, "theta: expected a positive number, got 0"),
        ({"theta": -1}, "theta: expected a positive number, got -1"),
        ({"pixels": 0}, "pixels: expected an integer of at least 1, got 0"),
        ({"pixels": 1.5}, "pixels: expected an integer of at least 1, got 1.5"),
    ],
)
def test_bad_settings_are_refused(rng, options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        jsma(network(rng), rng.random((2, 1, 2, 2)), **options)
