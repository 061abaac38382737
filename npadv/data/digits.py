"""scikit-learn's 1,797 handwritten digits, enlarged to the format of MNIST: the dataset that needs no download."""

from __future__ import annotations

from numbers import Integral

import numpy as np

from npadv.data.dataset import Dataset, Split

__all__ = ["digits"]

COUNT = 1797
BOX, BORDER = 20, 4  # as in MNIST: digits of 20 x 20 pixels within a border of 4


def digits(*, test_size: int = 297, seed: int = 0) -> Dataset:
    """Load the digits as images (N, 1, 28, 28): 1797 - test_size for training, test_size for testing.

    The original pixels are 8 x 8 counts of ink in blocks of 4 x 4, from 0 to 16. They are divided by 16 and enlarged to 20 x 20
    by a cubic spline; where the spline overshoots, it is clipped to [0, 1].

    Parameters
    ----------
    test_size : int
        Number of test examples, 10 to 1787; each class has the same share in both splits.
    seed : int
        Determines the split and the order of the examples.

    Raises
    ------
    ImportError
        If scikit-learn is not installed.
    ValueError
        If ``test_size`` leaves a split without an example of each class, or ``seed`` is not an integer in 0..2**32-1.

    Examples
    --------
    >>> data = digits()
    >>> data.train.images.shape, data.test.images.shape
    ((1500, 1, 28, 28), (297, 1, 28, 28))
    """
    if not isinstance(test_size, Integral) or not 10 <= test_size <= COUNT - 10:
        raise ValueError(f"test_size must be an integer in 10..{COUNT - 10}, got {test_size!r}")
    if not isinstance(seed, Integral) or not 0 <= seed < 2**32:
        raise ValueError(f"seed must be an integer in 0..2**32-1, got {seed!r}")
    try:
        from sklearn.datasets import load_digits
        from sklearn.model_selection import train_test_split
    except ImportError as error:
        raise ImportError('digits() needs scikit-learn: pip install "npadv[demo]"') from error

    raw = load_digits()
    train, test = train_test_split(np.arange(COUNT), test_size=test_size, stratify=raw.target, random_state=seed)
    every = Split(_enlarge(raw.images / 16), raw.target)
    return Dataset("digits", every[train], every[test], tuple("0123456789"))


def _enlarge(images: np.ndarray) -> np.ndarray:
    """Return images (N, 8, 8) enlarged to (N, 1, 28, 28)."""
    from scipy.ndimage import zoom

    # Enlarging is linear, and the same for rows and columns: a product with one 20 x 8 matrix, the enlarged identity matrix.
    # In the grid modes, pixels are areas, not points: an edge pixel is enlarged like any other, with zeros beyond the edge.
    weights = zoom(np.eye(8), (BOX / 8, 1), order=3, mode="grid-constant", grid_mode=True)
    framed = np.pad(weights @ images @ weights.T, ((0, 0), (BORDER, BORDER), (BORDER, BORDER)))
    return framed[:, None].clip(0, 1).astype(np.float32)
