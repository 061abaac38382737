"""Properties of every attack within a radius: budget, box, dtype, eps = 0, and success that grows with the radius."""

import numpy as np
import pytest
from attack_cases import BUDGETED as LABELLED
from attack_cases import CASES, MINIMAL, UNLABELLED, excess, linear, network
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

BUDGETED = LABELLED | UNLABELLED


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.mark.parametrize("name", BUDGETED)
@given(
    seed=seeds,
    eps=st.floats(0, 2),
    dtype=st.sampled_from([np.float32, np.float64]),
    bounds=st.sampled_from([(0.0, 1.0), (-1.0, 3.0), (0.1, 0.3), (-0.7, 0.7)]),
)
def test_budget_and_box_are_kept_and_x_adv_can_be_attacked_again(name, seed, eps, dtype, bounds):
    attack, norm = BUDGETED[name]
    _, _, model = linear(seed, 5, 3)
    low, high = map(dtype, bounds)
    rng = np.random.default_rng(seed)
    x = np.clip(rng.uniform(*bounds, (3, 5)).astype(dtype) + rng.integers(-1, 2, (3, 5)).astype(dtype), low, high)
    result = attack(model, x, eps=eps, bounds=bounds)
    assert result.x_adv.dtype == dtype
    assert result.x_adv.min() >= low
    assert result.x_adv.max() <= high
    assert (excess(result.x_adv, x, eps, norm) <= 0).all()
    attack(model, result.x_adv, eps=eps, bounds=bounds)


@pytest.mark.parametrize("name", BUDGETED)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_eps_0_is_the_identity(rng, name, dtype):
    x = rng.random((4, 1, 2, 2)).astype(dtype)
    result = BUDGETED[name][0](network(rng), x, eps=0)
    np.testing.assert_array_equal(result.x_adv, x)
    np.testing.assert_array_equal(result.distance, 0)
    np.testing.assert_array_equal(result.success, result.flags["already_wrong"])  # which a guide's class may be
    assert name.startswith("feature") or not result.success.any()


@pytest.mark.parametrize("name", LABELLED)
def test_on_a_linear_model_success_never_falls_as_eps_grows(name):
    """With two classes: the direction of the step is then the same for every eps, and leads towards the other class.

    The virtual attack is left out: it may move further into the predicted class.
    """
    fallen = gained = 0
    for seed in range(10):
        _, _, model = linear(seed, 6, 2)
        x = np.random.default_rng(seed).random((8, 6))
        before = np.zeros(8, bool)
        for eps in (0.02, 0.1, 0.3, 0.6, 1.2):
            success = LABELLED[name][0](model, x, eps=eps).success
            fallen += (before & ~success).sum()
            gained += (success & ~before).sum()
            before = success
    assert fallen == 0
    assert gained > 20


@pytest.mark.parametrize("name", BUDGETED)
@pytest.mark.parametrize("eps", [-0.1, float("nan"), float("inf")])
def test_a_bad_eps_is_refused(rng, name, eps):
    with pytest.raises(ValueError, match=f"^eps: expected a finite number of at least 0, got {eps}"):
        BUDGETED[name][0](network(rng), rng.random((1, 1, 2, 2)), eps=eps)


@pytest.mark.parametrize("name", CASES)
def test_a_targeted_success_is_the_target(rng, name):
    centres = np.array([[0.2, 0.2], [0.8, 0.3], [0.4, 0.9]])
    # The class of the nearest centre. The mean is subtracted so that each pixel raises some logits and lowers others.
    model = lambda x: 20 * (x @ (centres - centres.mean(axis=0)).T - (centres**2).sum(axis=1) / 2)  # noqa: E731
    x = rng.random((12, 2))
    options = {} if name in MINIMAL else {"eps": 0.8}
    reached = 0
    for target in range(3):
        result = CASES[name](model, x, np.full(12, target), targeted=True, **options)
        np.testing.assert_array_equal(model(result.x_adv).argmax(axis=1) == target, result.success)
        reached += (result.success & ~result.flags["already_wrong"]).sum()
    assert reached > 2


@pytest.mark.parametrize("name", CASES)
def test_the_same_attack_twice_gives_the_same(rng, name):
    model, x = network(rng), rng.random((4, 1, 2, 2), np.float32)
    np.testing.assert_array_equal(CASES[name](model, x).x_adv, CASES[name](model, x).x_adv)


@pytest.mark.parametrize("name", CASES)
def test_a_constant_model_moves_nothing_and_is_flagged(name):
    constant, x = lambda x: 0 * x @ np.ones((2, 3)) + np.array([2.0, 0.0, 1.0]), np.array([[0.9, 0.2], [0.5, 0.1]])
    result = CASES[name](constant, x)
    np.testing.assert_array_equal(result.x_adv, x)
    flag = "not_converged" if name in MINIMAL else "zero_gradient"
    assert result.flags[flag].all()
    assert not result.success.any()
