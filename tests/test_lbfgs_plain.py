"""The plain L-BFGS multiplies by the BFGS matrix, and the batched one computes what the plain one does."""

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import seeds

from npadv.attacks import lbfgs_batched
from npadv.attacks.box_optimization import BoxProblem, Evaluation, Solution
from npadv.attacks.lbfgs_directions import directions
from npadv.attacks.lbfgs_plain import MEMORY, direction, minimize, two_loops


def curved_pairs(rng, count, size):
    """Return pairs (s, y) of a quadratic function: y = A s, with A positive definite."""
    root = rng.normal(size=(size, size))
    hessian = root @ root.T + np.eye(size)
    steps = rng.normal(size=(count, size))
    return [(s, hessian @ s) for s in steps]


@given(seed=seeds, count=st.integers(0, MEMORY), size=st.integers(1, 6))
def test_the_two_loops_multiply_by_the_bfgs_matrix(seed, count, size):
    rng = np.random.default_rng(seed)
    pairs, g, gamma = curved_pairs(rng, count, size), rng.normal(size=size), float(rng.uniform(0.1, 2))
    h = gamma * np.eye(size)
    for s, y in pairs:  # H <- (I - rho s y^T) H (I - rho y s^T) + rho s s^T
        v = np.eye(size) - np.outer(y, s) / (s @ y)
        h = v.T @ h @ v + np.outer(s, s) / (s @ y)
    np.testing.assert_allclose(two_loops(g, pairs, gamma), h @ g, rtol=1e-6, atol=1e-8 * np.abs(h).max())


@given(seed=seeds, count=st.integers(0, 2 * MEMORY), size=st.integers(2, 6), negative=st.booleans())
def test_the_batched_direction_is_the_plain_one(seed, count, size, negative):
    """Also with pixels at the ends of the box, with pairs that were overwritten, and with pairs of negative curvature."""
    rng = np.random.default_rng(seed)
    n = 3
    x = np.clip(rng.uniform(-0.3, 1.3, (n, size)), 0, 1)
    g = rng.normal(size=(n, size))
    lists = [curved_pairs(rng, count, size) for _ in range(n)]
    if negative:
        lists = [[(s, y * (-1) ** k) for k, (s, y) in enumerate(pairs)] for pairs in lists]
    stored = np.zeros((n, 2 * MEMORY, size))
    for i, pairs in enumerate(lists):
        for k, (s, y) in enumerate(pairs):
            stored[i, k % MEMORY], stored[i, k % MEMORY + MEMORY] = s, y
    free = ~(((x <= 0) & (g > 0)) | ((x >= 1) & (g < 0)))
    free[:, 0] = True  # else there may be no direction at all
    x[:, 0] = 0.5
    found = directions(x, g, stored, np.full(n, count), free, (0.0, 1.0), lambda steepness: 1 / steepness)
    for i, pairs in enumerate(lists):
        expected = direction(x[i], g[i], pairs[-MEMORY:], 0.0, 1.0)
        np.testing.assert_allclose(found[i], expected, rtol=1e-6, atol=1e-7 * max(1, np.abs(expected).max()))


def test_a_direction_that_the_box_turns_uphill_gives_way_to_the_gradient():
    """-H g = (-10, 4) goes down, but the box cuts it to (-0.1, 0.9), which goes up."""
    h, g, x = np.array([[18.0, -8.0], [-8.0, 4.0]]), np.ones(2), np.full(2, 0.1)
    conjugate = np.array([[1.0, 0.0], [2.0, -1.0]])  # two conjugate steps determine the Hessian of two pixels
    pairs = [(s, np.linalg.solve(h, s)) for s in conjugate]
    stored = np.zeros((1, 2 * MEMORY, 2))
    stored[0, :2], stored[0, MEMORY : MEMORY + 2] = np.array(pairs).transpose(1, 0, 2)
    for box, expected in (((-99.0, 99.0), [-10, 4]), ((0.0, 1.0), -g / np.sqrt(2))):
        np.testing.assert_allclose(direction(x, g, pairs, *box), expected, rtol=1e-9)
        free, known = np.ones((1, 2), bool), np.array([2])
        found = directions(x[None], g[None], stored, known, free, box, lambda steepness: 1 / steepness)
        np.testing.assert_allclose(found[0], expected, rtol=1e-9)


def test_a_step_has_to_bring_a_share_of_the_predicted_decrease():
    """From just above 1/2, a step of length 1 lowers x^2 by 2e-6 where its slope predicts 1."""
    points = []

    def square(x):
        points.append(float(x[0]))
        return float(x @ x), 2 * x

    start = 0.5 + 1e-6
    minimize(square, np.array([start]), -9.0, 9.0)
    assert points[:3] == [start, start - 1, start - 0.5]


@dataclass
class One:
    example: int
    left: int = 1
    solution: Solution | None = None


class Quadratics(BoxProblem):
    """x^T A x / 2 - b^T x for each example, from the example, over the unit box."""

    def __init__(self, x, a, b):
        super().__init__(x, tolerance=1e-9, max_iterations=500)
        self.least_decrease = 0.0
        self.a, self.b = a, b

    def data(self, jobs):
        return (self.centres(jobs),)

    def box(self, data):
        return 0.0, 1.0

    def evaluate(self, points, jobs, data):
        f = [quadratic(self.a[job.example], self.b[job.example])(p) for job, p in zip(jobs, points, strict=True)]
        return Evaluation(np.array([v for v, _ in f]), np.array([g for _, g in f]), np.zeros(len(jobs), int))

    def finish(self, job, solution):
        job.solution, job.left = solution, 0


def quadratic(a, b):
    return lambda x: (float(x @ a @ x / 2 - b @ x), a @ x - b)


@settings(max_examples=30)
@given(seed=seeds, size=st.integers(1, 8))
def test_both_find_the_minimum_of_a_quadratic_in_a_box(seed, size):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(4, size, size))
    a, b = root @ root.transpose(0, 2, 1) + 0.3 * np.eye(size), rng.normal(0, 3, (4, size))
    start = np.clip(rng.uniform(-0.3, 1.3, (4, size)), 0, 1)
    jobs = [One(i) for i in range(4)]
    lbfgs_batched.solve(Quadratics(start, a, b), jobs, at_once=3)
    for i, job in enumerate(jobs):
        plain = minimize(quadratic(a[i], b[i]), start[i], 0.0, 1.0, tolerance=1e-9, max_iterations=500)
        batched = job.solution.point
        for point in (plain, batched):  # the Karush-Kuhn-Tucker conditions
            g = a[i] @ point - b[i]
            assert ((point >= 0) & (point <= 1)).all()
            assert np.abs(np.clip(point - g, 0, 1) - point).max() <= 1e-6
            inside = (point > 1e-4) & (point < 1 - 1e-4)
            assert np.abs(g[inside]).max(initial=0) <= 1e-6
            assert (g[point == 0] >= -1e-6).all()
            assert (g[point == 1] <= 1e-6).all()
        np.testing.assert_allclose(batched, plain, atol=1e-5)


def test_a_start_at_the_minimum_is_returned():
    calls = []

    def bowl(x):
        calls.append(x)
        return float(x @ x), 2 * x

    np.testing.assert_array_equal(minimize(bowl, np.zeros(3), -1.0, 1.0), np.zeros(3))
    assert len(calls) == 1


@pytest.mark.parametrize("limit", [0, 1, 5])
def test_max_iterations_ends_the_plain_form(limit):
    rosenbrock = lambda x: (  # noqa: E731
        float((1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2),
        np.array([-2 * (1 - x[0]) - 400 * x[0] * (x[1] - x[0] ** 2), 200 * (x[1] - x[0] ** 2)]),
    )
    start = np.array([-1.2, 1.0])
    found = minimize(rosenbrock, start, -5.0, 5.0, max_iterations=limit)
    assert (found == start).all() == (limit == 0)
    np.testing.assert_allclose(minimize(rosenbrock, start, -5.0, 5.0, tolerance=1e-8), [1, 1], atol=1e-6)
