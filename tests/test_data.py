"""Splits and batches by their laws; the digits, which need no file."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npadv.data import Dataset, Split, batches, digits


def split_of(n):
    images = np.broadcast_to(np.linspace(0, 1, n, dtype=np.float32)[:, None, None, None], (n, 1, 2, 2))
    return Split(images, np.arange(n))


# Split, Dataset, batches ----------------------------------------------------------------------------------------------


def test_split_takes_slices_indices_and_masks():
    split = split_of(6)
    assert len(split) == 6
    assert split[2:4].labels.tolist() == [2, 3]
    assert np.shares_memory(split[2:4].images, split.images)
    assert split[np.array([5, 0])].labels.tolist() == [5, 0]
    assert split[split.labels % 2 == 1].labels.tolist() == [1, 3, 5]
    assert len(split[[]]) == 0
    np.testing.assert_array_equal(split[[4]].images, split.images[4:5])


def test_labels_become_int64():
    assert Split(np.zeros((2, 1, 2, 2)), np.array([0, 1], np.uint8)).labels.dtype == np.int64


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((3, 4, 4)), np.zeros(3, int), r"images must have shape \(N, C, H, W\), got \(3, 4, 4\)"),
        (np.zeros((3, 1, 4, 4), np.uint8), np.zeros(3, int), r"images must be floating point .* got dtype uint8"),
        (np.zeros((3, 1, 4, 4)), np.zeros((3, 1), int), r"labels must have shape \(N,\), got \(3, 1\)"),
        (np.zeros((3, 1, 4, 4)), np.zeros(3), "labels must be integers, got dtype float64"),
        (np.zeros((3, 1, 4, 4)), np.zeros(2, int), "equally many, got 3 and 2"),
        (np.full((3, 1, 4, 4), 255.0), np.zeros(3, int), r"images must lie in \[0, 1\], got values in \[255"),
        (np.full((3, 1, 4, 4), np.nan), np.zeros(3, int), r"images must lie in \[0, 1\], got values in \[nan"),
        ([[[[0.0]]]], np.zeros(1, int), "images must be a NumPy array, got list"),
    ],
)
def test_split_refuses(images, labels, message):
    with pytest.raises(ValueError, match=message):
        Split(images, labels)


@pytest.mark.parametrize("index", [3, np.int64(3), [0.5], [[0, 1]], "a"])
def test_split_refuses_an_index_that_is_no_subset(index):
    with pytest.raises(TypeError, match="index must be"):
        split_of(6)[index]


def test_hold_out_takes_the_last():
    whole = Dataset("six", split_of(6), split_of(3), list("abcdef"))
    held = whole.hold_out(2)
    assert held.train.labels.tolist() == [0, 1, 2, 3]
    assert held.validation.labels.tolist() == [4, 5]
    assert held.test is whole.test
    assert whole.validation is None
    assert held.classes == tuple("abcdef")
    with pytest.raises(ValueError, match="has a validation split of 2 already"):
        held.hold_out(1)


@pytest.mark.parametrize("n", [0, 6, -1, 2.0])
def test_hold_out_refuses(n):
    with pytest.raises(ValueError, match=r"n must be an integer in 1\.\.5"):
        Dataset("six", split_of(6), split_of(3), "abcdef").hold_out(n)


def test_dataset_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match=r"test.labels must be in 0\.\.1, got 0\.\.2"):
        Dataset("x", split_of(2), split_of(3), "ab")
    with pytest.raises(ValueError, match=r"test\.images must have the training images' shape"):
        Dataset("x", split_of(2), Split(np.zeros((2, 1, 3, 3)), np.arange(2)), "ab")


@given(n=st.integers(1, 40), size=st.integers(1, 50), seed=st.none() | st.integers(0, 99), drop_last=st.booleans())
def test_batches_cover_each_example_once(n, size, seed, drop_last):
    if drop_last and n < size:
        return
    split = split_of(n)
    rng = None if seed is None else np.random.default_rng(seed)
    seen = list(batches(split, size, rng=rng, drop_last=drop_last))
    labels = np.concatenate([labels for _, labels in seen])
    np.testing.assert_array_equal(np.concatenate([images for images, _ in seen]), split.images[labels])
    assert all(len(labels) == size for _, labels in seen[:-1])
    if seed is None:
        assert (np.diff(labels) == 1).all()
    if drop_last:
        assert len(seen[-1][1]) == size
        assert len(labels) == n // size * size
        assert len(set(labels.tolist())) == len(labels)
    else:
        assert sorted(labels.tolist()) == list(range(n))


def test_batches_are_decided_by_the_generator():
    def epoch(**order):
        return [labels.tolist() for _, labels in batches(split_of(20), 6, **order)]

    assert epoch(rng=np.random.default_rng(3)) == epoch(rng=np.random.default_rng(3))
    assert epoch(rng=np.random.default_rng(3)) != epoch(rng=np.random.default_rng(4))
    rng = np.random.default_rng(3)
    assert epoch(rng=rng) != epoch(rng=rng)
    permutation = np.random.default_rng(3).permutation(20)
    assert epoch(order=permutation) == epoch(rng=np.random.default_rng(3))
    assert epoch(order=permutation[12:]) == epoch(rng=np.random.default_rng(3))[2:]
    assert epoch(order=[]) == []


def test_batches_draw_at_the_call_and_copy():
    split, rng = Split(np.zeros((4, 1, 2, 2)), np.arange(4)), np.random.default_rng(0)
    epoch = batches(split, 2, rng=rng)
    rng.random(100)  # what is drawn later does not change the epoch
    assert np.concatenate([labels for _, labels in epoch]).tolist() == np.random.default_rng(0).permutation(4).tolist()
    for images, _ in batches(split, 2):
        images += 1
    assert not split.images.any()


@pytest.mark.parametrize(
    ("size", "options", "message"),
    [
        (0, {}, "size must be a positive integer, got 0"),
        (2.5, {}, "size must be a positive integer, got 2.5"),
        (2, {"rng": 0}, "rng must be a numpy.random.Generator .* got 0"),
        (2, {"rng": np.random.default_rng(0), "order": [0]}, "rng and order were both given"),
        (2, {"order": [0, 6]}, r"order must hold indices in 0\.\.5, got 0\.\.6"),
        (2, {"order": [0, -1]}, r"order must hold indices in 0\.\.5, got -1\.\.0"),
        (2, {"order": [0, 1, 0]}, "order must hold each index at most once, got 1 repeats"),
        (2, {"order": [0.0, 1.0]}, r"order must be a 1-D array of indices, got shape \(2,\) of float64"),
        (7, {"drop_last": True}, "size must be at most the split's 6 examples when drop_last is set, got 7"),
    ],
)
def test_batches_refuse_at_the_call(size, options, message):
    with pytest.raises(ValueError, match=message):
        batches(split_of(6), size, **options)  # never iterated


def test_batches_refuse_an_empty_split():
    with pytest.raises(ValueError, match="split must hold at least one example"):
        batches(split_of(6)[:0], 2)


# Digits ---------------------------------------------------------------------------------------------------------------


def test_digits_look_like_mnist():
    pytest.importorskip("sklearn")
    found = digits()
    assert found.train.images.shape == (1500, 1, 28, 28)
    assert found.train.images.dtype == np.float32
    frame = np.ones((28, 28), bool)
    frame[4:-4, 4:-4] = False
    assert not found.train.images[:, 0, frame].any()
    assert found.train.images.max() == 1
    # Stratified: of 1,797 digits, 174 to 183 of each kind, a sixth is 28.8 to 30.2.
    assert set(np.bincount(found.test.labels)) <= {28, 29, 30, 31}


def test_digits_are_upright_and_split_by_the_seed():
    sklearn_datasets = pytest.importorskip("sklearn.datasets")
    one, same, other = digits(seed=1), digits(seed=1), digits(seed=2)
    np.testing.assert_array_equal(one.test.images, same.test.images)
    assert not np.array_equal(one.test.labels, other.test.labels)
    # Every original is there once: averaging 20 x 20 down to 4 x 4 gives what averaging 8 x 8 does, but for the spline.
    both = np.concatenate([one.train.images, one.test.images])[:, 0, 4:-4, 4:-4]
    small = both.reshape(-1, 4, 5, 4, 5).mean((2, 4)).reshape(-1, 16)
    raw = (sklearn_datasets.load_digits().images / 16).reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16)
    distances = ((raw[:, None] - small[None]) ** 2).sum(-1)
    assert distances.min(axis=1).max() < 0.1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"test_size": 0}, r"test_size must be an integer in 10\.\.1787, got 0"),
        ({"test_size": 0.2}, r"test_size must be an integer in 10\.\.1787, got 0.2"),
        ({"seed": -1}, "seed must be an integer .* got -1"),
        ({"seed": None}, "seed must be an integer .* got None"),
    ],
)
def test_digits_refuse(options, message):
    with pytest.raises(ValueError, match=message):
        digits(**options)


def test_digits_without_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImportError, match=r'^digits\(\) needs scikit-learn: pip install "npadv\[demo\]"$'):
        digits()


# Imports --------------------------------------------------------------------------------------------------------------


def test_import_is_light():
    code = (
        "import sys, npadv; before = set(sys.modules); import npadv.data; "
        "never = {'sklearn', 'pooch', 'tqdm', 'requests', 'matplotlib'} & set(sys.modules); "
        "here = {'scipy', 'scipy.ndimage'} & (set(sys.modules) - before); "
        "sys.exit(f'imported {never | here}' if never | here else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
