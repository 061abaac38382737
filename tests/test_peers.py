"""npadv's attacks within a radius against those of foolbox, torchattacks and the Adversarial Robustness Toolbox (art).

The same trained network in npadv and in PyTorch, the same images, the same settings. Where all follow the same equation the
examples must be the same, element by element. Where the libraries differ, the tests show from what it comes. A box so wide
that nothing meets its walls (WIDE) tells two causes of a difference apart: the steps, and what is done at the walls.

Run them with ``pip install -e ".[peers]" && pytest tests/test_peers*.py``.
"""

import numpy as np
import pytest
from peer_cases import Target, differing

from npadv import attacks
from npadv.norms import norm, project

WIDE = (-50.0, 50.0)
POINTS = 0.02  # success may differ by this without a reason
LIBRARIES = ("foolbox", "torchattacks", "art")
NETWORKS = ("784-100-100-10", "convnet")
LINF = {"eps": 0.1, "step": 0.02, "steps": 20}
L2 = {"eps": 1.0, "step": 0.2, "steps": 20, "norm": "l2"}
L1 = {"eps": 6.0, "step": 0.5, "steps": 40, "norm": "l1"}

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


@pytest.fixture
def target():
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    return Target()


@pytest.fixture(params=NETWORKS)
def any_target(request):
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    return Target(request.param, count=100 if request.param == NETWORKS[0] else 24)


def test_the_two_networks_are_one(any_target):
    import torch

    theirs = any_target.twin(torch.from_numpy(any_target.x)).numpy()
    np.testing.assert_allclose(theirs, any_target.logits(any_target.x), rtol=0, atol=1e-5 * np.abs(theirs).max())
    assert not any_target.hits(any_target.x).any()
    assert len(any_target.x) >= 24


# The fast gradient sign ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_fgsm_is_the_same_to_the_pixel(library, targeted, any_target):
    y = any_target.targets if targeted else any_target.y
    ours = attacks.fgsm(any_target.model, any_target.x, y, eps=0.1, targeted=targeted)
    theirs = any_target.ask(library, "fgsm", eps=0.1, targeted=targeted)
    # Gradients that differ by rounding could have another sign where they are zero within it: none of these here.
    assert np.abs(theirs - ours.x_adv).max() <= np.spacing(np.float32(1))
    assert 0.05 < ours.success.mean() < 1


# Projected gradient descent in linf ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("library", ["foolbox", "torchattacks"])
def test_pgd_is_the_same_in_float64(library, targeted):
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    target = Target(dtype="float64")
    y = target.targets if targeted else target.y
    ours = attacks.pgd(target.model, target.x, y, targeted=targeted, **LINF)
    theirs = target.ask(library, "pgd", targeted=targeted, **LINF)
    assert theirs.dtype == np.float64
    np.testing.assert_allclose(theirs, ours.x_adv, rtol=0, atol=1e-12)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_pgd_is_the_same_in_float32_but_for_kinks(library, targeted, any_target):
    y = any_target.targets if targeted else any_target.y
    ours = attacks.pgd(any_target.model, any_target.x, y, targeted=targeted, **LINF)
    theirs = any_target.ask(library, "pgd", targeted=targeted, **LINF)
    # A ReLU whose input is zero within rounding is on for one and off for the other; from there the ways part. In float64,
    # above, none does.
    assert differing(ours.x_adv, theirs, 1e-6).mean() <= 0.05
    assert abs(any_target.hits(theirs, targeted).mean() - ours.success.mean()) <= POINTS


@pytest.mark.parametrize("library", LIBRARIES)
def test_pgd_from_random_starts_is_as_successful(library, target):
    ours = attacks.pgd(
        target.model, target.x, target.y, random_start=True, rng=np.random.default_rng(0), **LINF | {"eps": 0.06}
    )
    theirs = target.ask(library, "pgd", random_start=True, **LINF | {"eps": 0.06})
    assert 0.5 < ours.success.mean() < 1
    assert ours.success.mean() >= target.hits(theirs).mean() - POINTS
    assert target.losses(ours.x_adv).mean() == pytest.approx(target.losses(theirs).mean(), rel=0.02)


@pytest.mark.parametrize("library", ["torchattacks", "art"])
def test_momentum_is_the_same(library, target):
    ours = attacks.pgd(target.model, target.x, target.y, momentum=1.0, **LINF)
    theirs = target.ask(library, "pgd", momentum=1.0, **LINF)
    assert differing(ours.x_adv, theirs, 1e-6).mean() <= 0.05
    assert abs(target.hits(theirs).mean() - ours.success.mean()) <= POINTS


def test_foolboxs_momentum_sums_signs_where_the_paper_sums_scaled_gradients(target):
    """Dong et al. 2018, eq. 6 divides each gradient by its l1 norm; foolbox takes the sign first and sums that."""
    x, past = target.x, np.zeros_like(target.x)
    for _ in range(LINF["steps"]):
        past = past + np.sign(target.gradient(x))
        x = np.clip(
            x + np.float32(LINF["step"]) * np.sign(past), target.x - np.float32(0.1), target.x + np.float32(0.1)
        )
        x = np.clip(x, 0, 1)
    theirs = target.ask("foolbox", "pgd", momentum=1.0, **LINF)
    assert differing(theirs, x, 1e-6).mean() <= 0.05
    ours = attacks.pgd(target.model, target.x, target.y, momentum=1.0, **LINF)
    assert differing(theirs, ours.x_adv, 1e-6).mean() > 0.9
    assert ours.success.mean() >= target.hits(theirs).mean() - POINTS


# Projected gradient descent in l2 and l1 ----------------------------------------------------------------------------------


def test_without_walls_pgd_in_l2_is_foolboxs():
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    target = Target(dtype="float64")
    ours = attacks.pgd(target.model, target.x, target.y, bounds=WIDE, **L2)
    theirs = target.ask("foolbox", "pgd", bounds=WIDE, **L2)
    np.testing.assert_allclose(theirs, ours.x_adv, rtol=0, atol=1e-9)
    assert 0.3 < ours.success.mean() < 1


def test_without_walls_pgd_in_l1_is_foolboxs_once_that_projects_exactly(monkeypatch):
    """Foolbox's projection counts one coordinate too many among those that stay, and ends outside of the ball.

    It is scaled into it at the very end. In a third of the images a step turns back, and there it shows.
    """
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    target = Target(dtype="float64")
    ours = attacks.pgd(target.model, target.x, target.y, bounds=WIDE, **L1)
    theirs = target.ask("foolbox", "pgd", bounds=WIDE, **L1)
    assert 0.1 < differing(theirs, ours.x_adv, 1e-9).mean() < 0.9
    assert abs(ours.success.mean() - target.hits(theirs).mean()) <= POINTS

    import eagerpy
    import foolbox

    def exactly(self, x, center, epsilon):
        return eagerpy.astensor(x.raw.new_tensor(project(x.numpy(), center.numpy(), epsilon, "l1")))

    monkeypatch.setattr(foolbox.attacks.SparseL1DescentAttack, "project", exactly)
    np.testing.assert_allclose(target.ask("foolbox", "pgd", bounds=WIDE, **L1), ours.x_adv, rtol=0, atol=1e-9)


def test_without_walls_pgd_in_l2_is_arts(target):
    ours = attacks.pgd(target.model, target.x, target.y, bounds=WIDE, **L2)
    theirs = target.ask("art", "pgd", bounds=WIDE, **L2)
    np.testing.assert_allclose(theirs, ours.x_adv, rtol=0, atol=1e-4)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("random_start", [False, True])
def test_at_the_walls_pgd_in_l2_uses_all_of_its_radius(library, random_start, target):
    """The others scale into the ball, then clip to the box, or in the other order: neither is a projection onto both.

    What is clipped last (foolbox, torchattacks) ends within the ball; what is scaled last (art) leaves to others nothing of
    what the walls took.
    """
    rng = np.random.default_rng(0)
    ours = attacks.pgd(target.model, target.x, target.y, random_start=random_start, rng=rng, **L2)
    theirs = target.ask(library, "pgd", random_start=random_start, **L2)
    assert ours.success.mean() >= target.hits(theirs).mean() - POINTS
    if not random_start:
        assert target.losses(ours.x_adv).mean() > target.losses(theirs).mean()
        if library != "art":
            assert np.median(target.size(theirs, "l2")) < 0.999 < np.median(ours.distance)


@pytest.mark.parametrize("library", ["foolbox", "art"])
def test_at_the_walls_pgd_in_l1_succeeds_more_often(library, target):
    ours = attacks.pgd(target.model, target.x, target.y, **L1)
    theirs = target.ask(library, "pgd", **L1)
    assert ours.success.mean() > target.hits(theirs).mean()
    if library == "art":  # the pixel with the largest derivative is chosen again when it is at its end: nothing moves
        assert np.median(target.size(theirs, "l1")) < 0.5 * L1["eps"] < np.median(ours.distance)


# One step -----------------------------------------------------------------------------------------------------------------

STEPS = {"l1": 4.0, "l2": 1.0, "linf": 0.1}


@pytest.mark.parametrize(
    ("library", "kind"), [("foolbox", "l2"), ("foolbox", "linf"), ("art", "l1"), ("art", "l2"), ("art", "linf")]
)
def test_without_walls_the_steepest_step_is_the_same(library, kind, target):
    settings = {"eps": STEPS[kind], "norm": kind, "bounds": WIDE}
    ours = attacks.steepest_ascent(target.model, target.x, target.y, **settings)
    theirs = target.ask(library, "steepest_ascent", **settings)
    # Where the loss is nearly zero, so is its gradient, and float32 has few of its digits: 1 - p, computed in two ways.
    np.testing.assert_allclose(theirs, ours.x_adv, rtol=0, atol=1e-3 if kind == "l2" else 1e-6)


def test_foolboxs_step_in_l1_is_not_the_steepest(target):
    """It follows the gradient scaled to l1 norm 1, which gains less than the same distance along the largest derivative."""
    settings = {"eps": STEPS["l1"], "norm": "l1", "bounds": WIDE}
    ours = attacks.steepest_ascent(target.model, target.x, target.y, **settings)
    theirs = target.ask("foolbox", "steepest_ascent", **settings)
    g = target.gradient(target.x)
    gains = [(g * (x - target.x)).reshape(len(g), -1).sum(axis=1) for x in (theirs, ours.x_adv)]
    assert (gains[0] < 0.5 * gains[1]).all()
    assert target.hits(theirs).mean() < 0.5 * ours.success.mean()


@pytest.mark.parametrize("library", ["foolbox", "art"])
@pytest.mark.parametrize("kind", list(STEPS))
def test_at_the_walls_a_step_gains_no_less(library, kind, target):
    """Ours solves the linear problem within the ball and the box; the others clip the solution for the ball alone."""
    settings = {"eps": STEPS[kind], "norm": kind}
    ours = attacks.steepest_ascent(target.model, target.x, target.y, **settings)
    theirs = target.ask(library, "steepest_ascent", **settings)
    g = target.gradient(target.x).astype(np.float64)
    gained, gains = ((g * (x - target.x)).reshape(len(g), -1).sum(axis=1) for x in (theirs, ours.x_adv))
    assert (gains >= gained - 1e-5 * np.asarray(norm(g, "l1"))).all()
    assert ours.success.mean() >= target.hits(theirs).mean() - POINTS
    if kind != "linf":
        assert ours.success.mean() > target.hits(theirs).mean()


# Virtual adversarial examples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "count", "xi"), [("foolbox", 100, 1e-2), ("foolbox", 100, 1e-6), ("art", 16, 1e-2)]
)
def test_virtual_adversarial_examples_change_more(library, count, xi, target):
    """Three reasons: exact products instead of differences; both signs of the direction are tried; and art differs.

    To second order +d and -d do the same, and foolbox and art keep whichever they end with. art takes its differences at a
    distance of 1 from x and not near it, so that it climbs the divergence from there; and one forward pass a pixel.
    """
    from npadv.functional import kl_divergence

    x, settings = target.x[:count], {"eps": 1.5, "iterations": 2}
    ours = attacks.virtual_adversarial(target.model, x, rng=np.random.default_rng(0), **settings)
    theirs = target.ask(library, "virtual_adversarial", x=x, y=target.y[:count], xi=xi, **settings)
    divergence = kl_divergence(target.logits(x), target.logits(theirs), reduction="none")
    assert ours.divergence.mean() > np.mean(divergence)
    assert np.median(ours.divergence) > np.median(divergence)
    assert ours.success.mean() >= target.hits(theirs).mean() - POINTS


def test_a_difference_over_1e_6_is_lost_in_rounding_in_art(target):
    """1e-6 is art's default: of float32, at a divergence of about 1e-2, one digit is left of such a difference."""
    x, y = target.x[:20], target.y[:20]
    from npadv.functional import kl_divergence

    found = []
    for xi in (1e-6, 1e-2):
        z = target.ask("art", "virtual_adversarial", x=x, y=y, xi=xi, eps=1.5, iterations=1)
        found.append(np.mean(kl_divergence(target.logits(x), target.logits(z), reduction="none")))
    assert found[0] < 0.5 * found[1]
