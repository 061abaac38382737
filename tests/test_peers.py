"""npadv's attacks within a radius against those of foolbox, torchattacks and the Adversarial Robustness Toolbox (art).

All attack the same trained network (in npadv and in PyTorch), with the same images and settings. Where the libraries follow
the same equation, the examples must be equal, element by element. Where they differ, the tests show the cause. A difference
may come from the steps or from the treatment of the box; with a box so wide that no pixel reaches its bounds (WIDE), only
the steps are left.

Run them with ``pip install -e ".[peers]" && pytest tests/test_peers*.py``.
"""

import numpy as np
import pytest
from peer_cases import AttackedModel, differing

from npadv import attacks
from npadv.norms import norm, project

WIDE = (-50.0, 50.0)
TOLERANCE = 0.02  # of the rate of success
LIBRARIES = ("foolbox", "torchattacks", "art")
NETWORKS = ("784-100-100-10", "convnet")
LINF = {"eps": 0.1, "step": 0.02, "steps": 20}
L2 = {"eps": 1.0, "step": 0.2, "steps": 20, "norm": "l2"}
L1 = {"eps": 6.0, "step": 0.5, "steps": 40, "norm": "l1"}

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


@pytest.fixture
def victim():
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    return AttackedModel()


@pytest.fixture(params=NETWORKS)
def any_victim(request):
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    return AttackedModel(request.param, count=100 if request.param == NETWORKS[0] else 24)


def test_the_torch_model_computes_the_same_logits(any_victim):
    import torch

    theirs = any_victim.torch_model(torch.from_numpy(any_victim.x)).numpy()
    np.testing.assert_allclose(theirs, any_victim.logits(any_victim.x), rtol=0, atol=1e-5 * np.abs(theirs).max())
    assert not any_victim.success(any_victim.x).any()
    assert len(any_victim.x) >= 24


# The fast gradient sign ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_fgsm_gives_the_same_pixels(library, targeted, any_victim):
    y = any_victim.targets if targeted else any_victim.y
    ours = attacks.fgsm(any_victim.model, any_victim.x, y, eps=0.1, targeted=targeted)
    theirs = any_victim.run(library, "fgsm", eps=0.1, targeted=targeted)
    # Rounding may change the sign of a derivative that is zero up to the rounding of float32, and of no other.
    g = np.abs(any_victim.gradient(any_victim.x, y, np.float64))
    differs = np.abs(theirs - ours.x_adv) > np.spacing(np.float32(1))
    assert not (differs & (g > 1e-6 * g.max())).any()
    assert differs.mean() < 1e-3
    assert 0.05 < ours.success.mean() < 1


# Projected gradient descent in linf ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("library", ["foolbox", "torchattacks"])
def test_pgd_is_the_same_in_float64(library, targeted):
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    victim = AttackedModel(dtype="float64")
    y = victim.targets if targeted else victim.y
    ours = attacks.pgd(victim.model, victim.x, y, targeted=targeted, **LINF)
    theirs = victim.run(library, "pgd", targeted=targeted, **LINF)
    assert theirs.dtype == np.float64
    np.testing.assert_allclose(theirs, ours.x_adv, rtol=0, atol=1e-12)


@pytest.mark.parametrize("targeted", [False, True])
@pytest.mark.parametrize("library", LIBRARIES)
def test_pgd_is_the_same_in_float32_except_at_kinks(library, targeted, any_victim):
    y = any_victim.targets if targeted else any_victim.y
    ours = attacks.pgd(any_victim.model, any_victim.x, y, targeted=targeted, **LINF)
    theirs = any_victim.run(library, "pgd", targeted=targeted, **LINF)
    # A ReLU whose input is zero within rounding can be on in one library and off in the other; from there on the examples
    # differ. In float64, above, none differs.
    assert differing(ours.x_adv, theirs, 1e-6).mean() <= 0.05
    assert abs(any_victim.success(theirs, targeted).mean() - ours.success.mean()) <= TOLERANCE


@pytest.mark.parametrize("library", LIBRARIES)
def test_pgd_from_random_starts_is_as_successful(library, victim):
    ours = attacks.pgd(
        victim.model, victim.x, victim.y, random_start=True, rng=np.random.default_rng(0), **LINF | {"eps": 0.06}
    )
    theirs = victim.run(library, "pgd", random_start=True, **LINF | {"eps": 0.06})
    assert 0.5 < ours.success.mean() < 1
    assert ours.success.mean() >= victim.success(theirs).mean() - TOLERANCE
    assert victim.losses(ours.x_adv).mean() == pytest.approx(victim.losses(theirs).mean(), rel=0.02)


@pytest.mark.parametrize("library", ["torchattacks", "art"])
def test_momentum_is_the_same(library, victim):
    ours = attacks.pgd(victim.model, victim.x, victim.y, momentum=1.0, **LINF)
    theirs = victim.run(library, "pgd", momentum=1.0, **LINF)
    assert differing(ours.x_adv, theirs, 1e-6).mean() <= 0.05
    assert abs(victim.success(theirs).mean() - ours.success.mean()) <= TOLERANCE


def test_foolboxs_momentum_sums_signs(victim):
    """Dong et al. 2018, eq. 6 sums gradients divided by their l1 norm; foolbox sums the signs of the gradients."""
    x, past = victim.x, np.zeros_like(victim.x)
    for _ in range(LINF["steps"]):
        past = past + np.sign(victim.gradient(x))
        x = np.clip(
            x + np.float32(LINF["step"]) * np.sign(past), victim.x - np.float32(0.1), victim.x + np.float32(0.1)
        )
        x = np.clip(x, 0, 1)
    theirs = victim.run("foolbox", "pgd", momentum=1.0, **LINF)
    assert differing(theirs, x, 1e-6).mean() <= 0.05
    ours = attacks.pgd(victim.model, victim.x, victim.y, momentum=1.0, **LINF)
    assert differing(theirs, ours.x_adv, 1e-6).mean() > 0.9
    assert ours.success.mean() >= victim.success(theirs).mean() - TOLERANCE


# Projected gradient descent in l2 and l1 ----------------------------------------------------------------------------------


def test_pgd_in_l2_without_bounds_equals_foolboxs():
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    victim = AttackedModel(dtype="float64")
    ours = attacks.pgd(victim.model, victim.x, victim.y, bounds=WIDE, **L2)
    theirs = victim.run("foolbox", "pgd", bounds=WIDE, **L2)
    np.testing.assert_allclose(theirs, ours.x_adv, rtol=0, atol=1e-9)
    assert 0.3 < ours.success.mean() < 1


def test_pgd_in_l1_without_bounds_equals_foolboxs_with_an_exact_projection(monkeypatch):
    """Foolbox's projection keeps one coordinate too many, so its result lies outside the ball; it is rescaled at the end.

    The difference shows in the third of the images in which a step moves a pixel back.
    """
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    victim = AttackedModel(dtype="float64")
    ours = attacks.pgd(victim.model, victim.x, victim.y, bounds=WIDE, **L1)
    theirs = victim.run("foolbox", "pgd", bounds=WIDE, **L1)
    assert 0.1 < differing(theirs, ours.x_adv, 1e-9).mean() < 0.9
    assert abs(ours.success.mean() - victim.success(theirs).mean()) <= TOLERANCE

    import eagerpy
    import foolbox

    def exactly(self, x, center, epsilon):
        return eagerpy.astensor(x.raw.new_tensor(project(x.numpy(), center.numpy(), epsilon, "l1")))

    monkeypatch.setattr(foolbox.attacks.SparseL1DescentAttack, "project", exactly)
    np.testing.assert_allclose(victim.run("foolbox", "pgd", bounds=WIDE, **L1), ours.x_adv, rtol=0, atol=1e-9)


def test_pgd_in_l2_without_bounds_equals_arts(victim):
    ours = attacks.pgd(victim.model, victim.x, victim.y, bounds=WIDE, **L2)
    theirs = victim.run("art", "pgd", bounds=WIDE, **L2)
    assert differing(theirs, ours.x_adv, 1e-4).mean() <= 0.02  # at a kink, rounding decides which way an example goes
    np.testing.assert_allclose(theirs, ours.x_adv, rtol=0, atol=1e-3)


@pytest.mark.parametrize("library", LIBRARIES)
@pytest.mark.parametrize("random_start", [False, True])
def test_pgd_in_l2_with_bounds_uses_the_whole_radius(library, random_start, victim):
    """The others scale into the ball and clip to the box, one after the other, which is not the projection onto both.

    Clipping last (foolbox, torchattacks) ends inside the ball. Scaling last (art) does not give the distance lost by clipping
    to other pixels.
    """
    rng = np.random.default_rng(0)
    ours = attacks.pgd(victim.model, victim.x, victim.y, random_start=random_start, rng=rng, **L2)
    theirs = victim.run(library, "pgd", random_start=random_start, **L2)
    assert ours.success.mean() >= victim.success(theirs).mean() - TOLERANCE
    if not random_start:
        assert victim.losses(ours.x_adv).mean() > victim.losses(theirs).mean()
        if library != "art":
            assert np.median(victim.distance(theirs, "l2")) < 0.999 < np.median(ours.distance)


@pytest.mark.parametrize("library", ["foolbox", "art"])
def test_pgd_in_l1_with_bounds_succeeds_more_often(library, victim):
    ours = attacks.pgd(victim.model, victim.x, victim.y, **L1)
    theirs = victim.run(library, "pgd", **L1)
    assert ours.success.mean() > victim.success(theirs).mean()
    if (
        library == "art"
    ):  # it chooses the pixel with the largest derivative even if that is at its bound and cannot move
        assert np.median(victim.distance(theirs, "l1")) < 0.5 * L1["eps"] < np.median(ours.distance)


# One step -----------------------------------------------------------------------------------------------------------------

STEPS = {"l1": 4.0, "l2": 1.0, "linf": 0.1}


@pytest.mark.parametrize(
    ("library", "kind"), [("foolbox", "l2"), ("foolbox", "linf"), ("art", "l1"), ("art", "l2"), ("art", "linf")]
)
def test_the_steepest_step_without_bounds_is_the_same(library, kind, victim):
    settings = {"eps": STEPS[kind], "norm": kind, "bounds": WIDE}
    ours = attacks.steepest_ascent(victim.model, victim.x, victim.y, **settings)
    theirs = victim.run(library, "steepest_ascent", **settings)
    # Where the loss is nearly zero, so is its gradient 1 - p; two float32 computations of it share only a few digits.
    np.testing.assert_allclose(theirs, ours.x_adv, rtol=0, atol=1e-3 if kind == "l2" else 1e-6)


def test_foolboxs_step_in_l1_is_not_the_steepest(victim):
    """Foolbox follows the gradient scaled to l1 norm 1; a step of that length along the largest derivative gains more."""
    settings = {"eps": STEPS["l1"], "norm": "l1", "bounds": WIDE}
    ours = attacks.steepest_ascent(victim.model, victim.x, victim.y, **settings)
    theirs = victim.run("foolbox", "steepest_ascent", **settings)
    g = victim.gradient(victim.x)
    gains = [(g * (x - victim.x)).reshape(len(g), -1).sum(axis=1) for x in (theirs, ours.x_adv)]
    assert (gains[0] < 0.5 * gains[1]).all()
    assert victim.success(theirs).mean() < 0.5 * ours.success.mean()


@pytest.mark.parametrize("library", ["foolbox", "art"])
@pytest.mark.parametrize("kind", list(STEPS))
def test_a_step_with_bounds_gains_no_less(library, kind, victim):
    """npadv solves the linear problem in the ball and the box; the others clip the solution for the ball alone."""
    settings = {"eps": STEPS[kind], "norm": kind}
    ours = attacks.steepest_ascent(victim.model, victim.x, victim.y, **settings)
    theirs = victim.run(library, "steepest_ascent", **settings)
    g = victim.gradient(victim.x).astype(np.float64)
    their_gain, our_gain = ((g * (x - victim.x)).reshape(len(g), -1).sum(axis=1) for x in (theirs, ours.x_adv))
    assert (our_gain >= their_gain - 1e-5 * np.asarray(norm(g, "l1"))).all()
    assert ours.success.mean() >= victim.success(theirs).mean() - TOLERANCE
    if kind != "linf":
        assert ours.success.mean() > victim.success(theirs).mean()


# Virtual adversarial examples ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("library", "count", "xi"), [("foolbox", 100, 1e-2), ("foolbox", 100, 1e-6), ("art", 16, 1e-2)]
)
def test_virtual_adversarial_examples_have_a_larger_divergence(library, count, xi, victim):
    """npadv computes exact Hessian products, not differences, and tries both +d and -d, which are equal to second order.

    Foolbox and art try one of the two. Art also takes its differences (one forward pass a pixel) at a distance of 1 from x,
    so it ascends the divergence from a point that is not near x.
    """
    from npadv.functional import kl_divergence

    x, settings = victim.x[:count], {"eps": 1.5, "iterations": 2}
    ours = attacks.virtual_adversarial(victim.model, x, rng=np.random.default_rng(0), **settings)
    theirs = victim.run(library, "virtual_adversarial", x=x, y=victim.y[:count], xi=xi, **settings)
    divergence = kl_divergence(victim.logits(x), victim.logits(theirs), reduction="none")
    assert ours.divergence.mean() > np.mean(divergence)
    assert np.median(ours.divergence) > np.median(divergence)
    assert ours.success.mean() >= victim.success(theirs).mean() - TOLERANCE


def test_arts_default_step_of_1e_6_is_lost_in_rounding(victim):
    """In float32, at a divergence of about 1e-2, a difference over 1e-6 has one correct digit."""
    x, y = victim.x[:20], victim.y[:20]
    from npadv.functional import kl_divergence

    found = []
    for xi in (1e-6, 1e-2):
        z = victim.run("art", "virtual_adversarial", x=x, y=y, xi=xi, eps=1.5, iterations=1)
        found.append(np.mean(kl_divergence(victim.logits(x), victim.logits(z), reduction="none")))
    assert found[0] < 0.5 * found[1]
