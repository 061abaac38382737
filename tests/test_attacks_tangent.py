"""Steepest ascent within a plane: in the plane, of the right length, and the best of all such steps."""

import numpy as np
import pytest
from attack_cases import linear, network
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from npadv.attacks import steepest_ascent, tangent
from npadv.functional import softmax


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@given(seed=seeds, m=st.integers(1, 4), targeted=st.booleans())
def test_the_step_is_the_projected_gradient_at_full_length(seed, m, targeted):
    w, _, model = linear(seed, 5, 3)
    rng = np.random.default_rng(seed)
    x, y, basis = rng.random((3, 5)), rng.integers(3, size=3), rng.normal(size=(3, m, 5))
    result = tangent(model, x, y, basis=basis, eps=0.3, targeted=targeted, bounds=(-9, 9))
    g = (softmax(model(x)) - np.eye(3)[y]) @ w.T
    for i in range(3):
        projected = basis[i].T @ np.linalg.lstsq(basis[i].T, g[i], rcond=None)[0]  # P g, by least squares
        length = np.linalg.norm(projected)
        expected = (-0.3 if targeted else 0.3) * projected / length
        np.testing.assert_allclose((result.x_adv - x)[i], expected, rtol=1e-6, atol=1e-9)
        assert result.share[i] == pytest.approx(length / np.linalg.norm(g[i]), rel=1e-6)
    assert not result.flags["left_plane"].any()


def test_no_other_step_in_the_plane_gains_more(rng):
    w, _, model = linear(3, 6, 2)
    x, basis = rng.random((1, 6)), rng.normal(size=(2, 6))
    result = tangent(model, x, np.array([0]), basis=basis, eps=0.2, bounds=(-9, 9))
    slope = w[:, 1] - w[:, 0]  # of class 0's loss, but for a factor
    angles = np.linspace(0, 2 * np.pi, 2000)
    others = np.stack([np.cos(angles), np.sin(angles)], axis=1) @ np.linalg.qr(basis.T)[0].T * 0.2
    assert slope @ (result.x_adv - x)[0] >= (others @ slope).max() * (1 - 1e-9)
    assert slope @ (result.x_adv - x)[0] <= (others @ slope).max() * (1 + 1e-5)


def test_only_the_span_of_the_basis_counts(rng):
    _, _, model = linear(1, 6, 3)
    x, basis = rng.random((4, 6)), rng.normal(size=(2, 6))
    same = np.stack([1e6 * basis[0], basis[0] - basis[1], basis[0] + basis[1], 0 * basis[0]])
    each = np.broadcast_to(basis, (4, 2, 6))
    a, b, c = (tangent(model, x, basis=v, eps=0.1) for v in (basis, same, each))
    np.testing.assert_allclose(b.x_adv, a.x_adv, rtol=1e-6)
    np.testing.assert_allclose(c.x_adv, a.x_adv, rtol=1e-12)


def test_with_a_basis_of_the_whole_space_it_is_steepest_ascent_in_l2(rng):
    _, _, model = linear(1, 4, 3)
    x = rng.uniform(0.4, 0.6, (4, 4))
    a = tangent(model, x, basis=np.eye(4), eps=0.1)
    np.testing.assert_allclose(a.x_adv, steepest_ascent(model, x, eps=0.1, norm="l2").x_adv, rtol=1e-9)
    np.testing.assert_allclose(a.share, 1)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_gradient_orthogonal_to_the_plane_moves_nothing(dtype):
    w = np.array([[1.0, -1.0], [1.0, -1.0], [0.0, 0.0]], dtype)
    x = np.array([[0.5, 0.5, 0.5]], dtype)
    for direction in ([1.0, -1.0, 0.0], [0.0, 0.0, 1.0], [0.3, -0.3, 0.1], [0.0, 0.0, 0.0]):
        result = tangent(lambda x: x @ w, x, basis=np.array([direction]), eps=0.2)
        assert result.flags["zero_gradient"][0]
        np.testing.assert_array_equal(result.x_adv, x)
        assert result.share[0] == 0


def test_a_clipped_step_is_flagged_as_having_left_the_plane():
    w = np.array([[-1.0, 1.0], [-1.0, 1.0]])
    x = np.array([[0.95, 0.5], [0.5, 0.5]])
    result = tangent(lambda x: x @ w, x, np.array([0, 0]), basis=np.ones((1, 2)), eps=0.2)
    np.testing.assert_array_equal(result.flags["left_plane"], [True, False])
    assert result.x_adv[0, 0] == 1


@pytest.mark.parametrize(
    ("basis", "message"),
    [
        ([[1.0, 0.0]], "basis: expected a NumPy or CuPy array, got list"),
        (
            np.ones((2, 3)),
            r"basis: expected directions of shape \(1, 2, 2\), \(m, \.\.\.\) or \(2, m, \.\.\.\), got shape \(2, 3\)",
        ),
        (np.ones((3, 5, 1, 2, 2)), r"basis: expected directions .*, got shape \(3, 5, 1, 2, 2\)"),
        (np.ones((0, 1, 2, 2)), r"basis: expected directions .*, got shape \(0, 1, 2, 2\)"),
        (np.full((1, 1, 2, 2), np.nan), "basis: expected finite values, got NaN or infinity"),
    ],
)
def test_bad_bases_are_refused(rng, basis, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        tangent(network(rng), rng.random((2, 1, 2, 2)), basis=basis, eps=0.1)
