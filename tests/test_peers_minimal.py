"""npadv's attacks that look for the smallest perturbation, against the same libraries: see tests/test_peers.py.

None of them has a box-constrained L-BFGS attack on classes (foolbox dropped its own in version 3); npadv's is measured
against SciPy in tests/test_lbfgs.py.
"""

import importlib

import numpy as np
import pytest
from peer_cases import Target

from npadv import attacks

POINTS = 0.02
DEEPFOOL = {"steps": 50, "overshoot": 0.02}
JSMA = {"theta": 1.0, "pixels": 78, "targeted": True}
CARLINI_WAGNER = {"searches": 5, "steps": 60, "step": 0.05}

pytestmark = pytest.mark.filterwarnings("ignore")  # the libraries' own


@pytest.fixture
def target():
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    return Target()


def medians(target, ours, theirs, norm, targeted=False):
    """Return the median distances of the examples on which both succeed."""
    both = target.hits(ours, targeted) & target.hits(theirs, targeted)
    assert both.mean() > 0.1
    return (float(np.median(target.size(x, norm)[both])) for x in (ours, theirs))


# DeepFool -----------------------------------------------------------------------------------------------------------------


def finds_less(target, library, norm):
    result = attacks.linearized(target.model, target.x, target.y, norm=norm, **DEEPFOOL)
    theirs = target.ask(library, "linearized", norm=norm, **DEEPFOOL)
    ours, other = medians(target, result.x_adv, theirs, norm)
    assert ours <= other
    assert result.success.mean() >= target.hits(theirs).mean() - POINTS
    both = target.hits(theirs) & result.success
    assert np.mean(target.size(result.x_adv, norm)[both] / target.size(theirs, norm)[both]) < 0.995


@pytest.mark.parametrize(("library", "norm"), [("foolbox", "l2"), ("foolbox", "linf"), ("art", "l2")])
def test_deepfool_finds_less(library, norm, target):
    """The libraries clip to the box what was solved without it, and none goes back to the boundary and along it."""
    finds_less(target, library, norm)


@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_deepfool_finds_less_in_a_convnet(norm):
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    finds_less(Target("convnet", count=24), "foolbox", norm)


def test_torchattacks_deepfool_stops_short_of_the_boundary(target):
    """It adds its 2% to each step and not to their sum, and the box takes off more than that.

    Each step then ends within the class by a share of the gap before, so that many images are, after 50 of them, on the
    boundary to within float32 and no further.
    """
    theirs = target.ask("torchattacks", "linearized", norm="l2", **DEEPFOOL)
    z = target.logits(theirs)
    rows = np.arange(len(z))
    own = z[rows, target.y]
    z[rows, target.y] = -np.inf
    gap, failed = own - z.max(axis=1), ~target.hits(theirs)
    assert 0.2 < failed.mean() < 0.9
    assert np.mean(np.abs(gap[failed]) < 1e-4) > 0.9
    result = attacks.linearized(target.model, target.x, target.y, **DEEPFOOL)
    ours, other = medians(target, result.x_adv, theirs, "l2")
    assert ours <= other
    assert result.success.all()


# Carlini and Wagner -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targeted", [False, True])
def test_carlini_wagner_is_as_near_as_foolboxs(targeted):
    """The same loss, search and Adam. Foolbox measures the distance from tanh(arctanh(x)), npadv from x."""
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    target = Target(count=40)
    y = target.targets if targeted else target.y
    result = attacks.carlini_wagner(target.model, target.x, y, targeted=targeted, **CARLINI_WAGNER)
    theirs = target.ask("foolbox", "carlini_wagner", targeted=targeted, **CARLINI_WAGNER)
    ours, other = medians(target, result.x_adv, theirs, "l2", targeted)
    assert ours <= 1.002 * other
    assert result.success.mean() >= target.hits(theirs, targeted).mean() - POINTS


def test_foolbox_returns_black_images_where_its_search_finds_nothing(target):
    """And counts them, since they have another class than most digits; npadv returns the example, as a failure.

    On a budget too small to succeed everywhere, the two otherwise succeed on the same images.
    """
    little = {"searches": 1, "steps": 20, "step": 0.05}
    result = attacks.carlini_wagner(target.model, target.x, target.y, **little)
    theirs = target.ask("foolbox", "carlini_wagner", **little)
    black, hits = (theirs == 0).reshape(len(theirs), -1).all(axis=1), target.hits(theirs)
    assert (black & hits).any()
    np.testing.assert_array_equal(result.success, hits & ~black)
    failed = ~result.success
    np.testing.assert_array_equal(result.x_adv[failed], target.x[failed])


@pytest.mark.parametrize(
    ("library", "otherwise"),
    [("torchattacks", {"searches": 1, "steps": 300}), ("art", {"steps": 20})],
)
def test_carlini_wagner_is_nearer_than_the_others(library, otherwise):
    """Torchattacks has no search for c, at as many looks at the model; art takes gradient steps where others have Adam."""
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    target = Target(count=20)
    result = attacks.carlini_wagner(target.model, target.x, target.y, **CARLINI_WAGNER)
    theirs = target.ask(library, "carlini_wagner", **CARLINI_WAGNER | otherwise)
    ours, other = medians(target, result.x_adv, theirs, "l2")
    assert ours < other
    assert result.success.mean() >= target.hits(theirs).mean()


# Saliency maps ------------------------------------------------------------------------------------------------------------


def test_jsma_is_torchattacks_to_the_pixel():
    """Which leaves pixels above 0.99 alone, where npadv and the paper stop at 1: there are none such here."""
    pytest.importorskip("torch", reason='torch is not installed: pip install -e ".[peers]"')
    target = Target(count=24)
    target.x[target.x > 0.99] = 1
    ours = attacks.jsma(target.model, target.x, target.targets, **JSMA)
    theirs = target.ask("torchattacks", "jsma", **JSMA)
    np.testing.assert_array_equal(theirs, ours.x_adv)
    assert (ours.distance[ours.success] > 4).any()


def test_arts_saliency_is_the_targets_derivative_alone(target, monkeypatch):
    """Papernot et al.'s eq. 8 asks what a pixel does for the other classes, too; art takes the two largest a_p.

    With that rule in the place of ``best_pairs`` npadv finds art's examples to the pixel, so that the rule is all that
    differs. It is the better one, here and on MNIST: it succeeds no less often, with fewer pixels. npadv keeps to the paper.
    """
    theirs = target.ask("art", "jsma", **JSMA)
    paper = attacks.jsma(target.model, target.x, target.targets, **JSMA)

    def largest_two(a, b, usable):
        return np.argsort(np.where(usable, a, -np.inf), axis=1)[:, -2:]

    monkeypatch.setattr(importlib.import_module("npadv.attacks.jsma"), "best_pairs", largest_two)
    same = attacks.jsma(target.model, target.x, target.targets, **JSMA)
    np.testing.assert_array_equal(theirs, same.x_adv)
    assert (paper.x_adv != theirs).reshape(len(theirs), -1).any(axis=1).mean() > 0.9
    success = target.hits(theirs, targeted=True).mean()
    assert success - 0.05 < paper.success.mean() <= success
