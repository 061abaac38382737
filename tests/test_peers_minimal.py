"""npadv's attacks that minimise the perturbation, against the same libraries: see tests/test_peers.py.

None of the libraries has a box-constrained L-BFGS attack (foolbox removed its own in version 3); tests/test_lbfgs.py compares
npadv's with SciPy.
"""

import importlib

import numpy as np
import pytest
from peer_cases import AttackedModel

from npadv import attacks

TOLERANCE = 0.02  # of the rate of success
DEEPFOOL = {"steps": 50, "overshoot": 0.02}
JSMA = {"theta": 1.0, "pixels": 78, "targeted": True}
CARLINI_WAGNER = {"searches": 5, "steps": 60, "step": 0.05}

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


@pytest.fixture
def victim():
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    return AttackedModel()


def medians(victim, ours, theirs, norm, targeted=False):
    """Return the median distances of the examples on which both succeed."""
    both = victim.success(ours, targeted) & victim.success(theirs, targeted)
    assert both.mean() > 0.1
    return (float(np.median(victim.distance(x, norm)[both])) for x in (ours, theirs))


# DeepFool -----------------------------------------------------------------------------------------------------------------


def check_smaller_perturbations(victim, library, norm):
    result = attacks.linearized(victim.model, victim.x, victim.y, norm=norm, **DEEPFOOL)
    theirs = victim.run(library, "linearized", norm=norm, **DEEPFOOL)
    ours, other = medians(victim, result.x_adv, theirs, norm)
    assert ours <= other
    assert result.success.mean() >= victim.success(theirs).mean() - TOLERANCE
    both = victim.success(theirs) & result.success
    assert np.mean(victim.distance(result.x_adv, norm)[both] / victim.distance(theirs, norm)[both]) < 0.995


@pytest.mark.parametrize(("library", "norm"), [("foolbox", "l2"), ("foolbox", "linf"), ("art", "l2")])
def test_deepfool_finds_smaller_perturbations(library, norm, victim):
    """The libraries solve the linear problem without the box and then clip; none goes back to the boundary and along it."""
    check_smaller_perturbations(victim, library, norm)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_finds_smaller_perturbations_in_a_convnet(norm):
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    check_smaller_perturbations(AttackedModel("convnet", count=24), "foolbox", norm)


def test_torchattacks_deepfool_stops_short_of_the_boundary(victim):
    """torchattacks adds its 2% to each step, not to their sum, and clipping to the box removes more than 2%.

    Each step then leaves a share of the gap to the boundary, so after 50 steps many images lie on the boundary to within
    float32, and not beyond it.
    """
    theirs = victim.run("torchattacks", "linearized", norm="l2", **DEEPFOOL)
    z = victim.logits(theirs)
    rows = np.arange(len(z))
    own = z[rows, victim.y]
    z[rows, victim.y] = -np.inf
    gap, failed = own - z.max(axis=1), ~victim.success(theirs)
    assert 0.2 < failed.mean() < 0.9
    assert np.mean(np.abs(gap[failed]) < 1e-4) > 0.9
    result = attacks.linearized(victim.model, victim.x, victim.y, **DEEPFOOL)
    ours, other = medians(victim, result.x_adv, theirs, "l2")
    assert ours <= other
    assert result.success.all()


# Carlini and Wagner -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
def test_carlini_wagner_finds_no_larger_perturbations_than_foolbox(targeted):
    """Loss, search and Adam are the same. Foolbox measures the distance from tanh(arctanh(x)), npadv from x."""
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    victim = AttackedModel(count=40)
    y = victim.targets if targeted else victim.y
    result = attacks.carlini_wagner(victim.model, victim.x, y, targeted=targeted, **CARLINI_WAGNER)
    theirs = victim.run("foolbox", "carlini_wagner", targeted=targeted, **CARLINI_WAGNER)
    ours, other = medians(victim, result.x_adv, theirs, "l2", targeted)
    assert ours <= 1.002 * other
    assert result.success.mean() >= victim.success(theirs, targeted).mean() - TOLERANCE


def test_foolbox_returns_black_images_where_its_search_fails(victim):
    """Foolbox counts them as successes if black has another class; npadv returns the image and counts a failure.

    With too few steps to succeed everywhere, the two otherwise succeed on the same images.
    """
    few_steps = {"searches": 1, "steps": 20, "step": 0.05}
    result = attacks.carlini_wagner(victim.model, victim.x, victim.y, **few_steps)
    theirs = victim.run("foolbox", "carlini_wagner", **few_steps)
    black, hits = (theirs == 0).reshape(len(theirs), -1).all(axis=1), victim.success(theirs)
    assert (black & hits).any()
    np.testing.assert_array_equal(result.success, hits & ~black)
    failed = ~result.success
    np.testing.assert_array_equal(result.x_adv[failed], victim.x[failed])


@pytest.mark.parametrize(
    ("library", "otherwise"),
    [("torchattacks", {"searches": 1, "steps": 300}), ("art", {"steps": 20})],
)
def test_carlini_wagner_finds_smaller_perturbations_than_others(library, otherwise):
    """Torchattacks, with as many evaluations of the model, does not search for c; art has gradient steps instead of Adam."""
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    victim = AttackedModel(count=20)
    result = attacks.carlini_wagner(victim.model, victim.x, victim.y, **CARLINI_WAGNER)
    theirs = victim.run(library, "carlini_wagner", **CARLINI_WAGNER | otherwise)
    ours, other = medians(victim, result.x_adv, theirs, "l2")
    assert ours < other
    assert result.success.mean() >= victim.success(theirs).mean()


# Saliency maps ------------------------------------------------------------------------------------------------------------


def test_jsma_gives_torchattacks_pixels():
    """Torchattacks does not change pixels above 0.99, npadv and the paper those at 1; here no pixel lies between."""
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    victim = AttackedModel(count=24)
    victim.x[victim.x > 0.99] = 1
    ours = attacks.jsma(victim.model, victim.x, victim.targets, **JSMA)
    theirs = victim.run("torchattacks", "jsma", **JSMA)
    np.testing.assert_array_equal(theirs, ours.x_adv)
    assert (ours.distance[ours.success] > 4).any()


def test_arts_saliency_is_the_targets_derivative_alone(victim, monkeypatch):
    """Papernot et al.'s eq. 8 includes the derivatives of the other classes; art takes the two pixels with the largest a_p.

    With art's rule in place of ``best_pairs``, npadv finds art's examples exactly, so nothing else differs. Art's rule is the
    better one here and on MNIST: it succeeds as often with fewer pixels. npadv follows the paper.
    """
    theirs = victim.run("art", "jsma", **JSMA)
    paper = attacks.jsma(victim.model, victim.x, victim.targets, **JSMA)

    def largest_two(a, b, usable):
        return np.argsort(np.where(usable, a, -np.inf), axis=1)[:, -2:]

    monkeypatch.setattr(importlib.import_module("npadv.attacks.jsma"), "best_pairs", largest_two)
    same = attacks.jsma(victim.model, victim.x, victim.targets, **JSMA)
    np.testing.assert_array_equal(theirs, same.x_adv)
    assert (paper.x_adv != theirs).reshape(len(theirs), -1).any(axis=1).mean() > 0.9
    success = victim.success(theirs, targeted=True).mean()
    assert success - 0.05 < paper.success.mean() <= success
