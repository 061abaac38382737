"""Einstein's notation: products summed over named axes.

Give each axis a letter. ``einsum("ij,jk->ik", a, b)`` multiplies where letters agree and sums over those that the output
lacks: sum_j a_ij b_jk. The gradient in one operand is an einsum again, of the cotangent and the other operands, with that
operand's letters as the output:

    y = einsum("ij,jk->ik", a, b)        da = einsum("ik,jk->ij", g, b)        db = einsum("ik,ij->jk", g, a)

This holds if every letter of an operand occurs in the output or in another operand, and only once in its own. ``einsum``
prepares operands for which it does not: a letter that occurs twice is a diagonal, one that occurs nowhere else is a sum.
"""

from __future__ import annotations

import string
from collections import Counter
from typing import Any

from npadv.autodiff import defvjp, primitive, value_of
from npadv.backend import xp_of
from npadv.ops.reduce import sum
from npadv.ops.shape import broadcast_to, getitem, sum_to, transpose


@primitive
def einsum_args(*operands: Any, letters: tuple[str, ...], output: str) -> Any:
    """Return the product of the operands, each with its letters, summed over the letters that the output lacks."""
    return xp_of(*operands).einsum(",".join(letters) + "->" + output, *operands, optimize=True)


def _einsum_rule(argnum: int, g: Any, y: Any, *operands: Any, letters: tuple[str, ...], output: str) -> Any:
    others = [k for k in range(len(operands)) if k != argnum]
    contribution = einsum_args(
        g,
        *(operands[k] for k in others),
        letters=(output, *(letters[k] for k in others)),
        output=letters[argnum],
    )
    return _fit(contribution, operands[argnum].shape)


defvjp(einsum_args, _einsum_rule, variadic=True)


def _fit(g: Any, shape: tuple[int, ...]) -> Any:
    """Return a cotangent in its operand's shape: an axis of length one was broadcast to a longer one of the same letter."""
    if g.shape == shape:
        return g
    g = sum_to(g, shape=tuple(1 if n == 1 else m for n, m in zip(shape, g.shape, strict=True)))
    return broadcast_to(g, shape=shape)


def einsum(subscripts: str, *operands: Any) -> Any:
    """Return the product of arrays or Tensors summed over named axes, as ``numpy.einsum`` does.

    Parameters
    ----------
    subscripts : str
        The letters of each operand's axes, separated by commas; then, after ``->``, those of the output. Without ``->``
        the output has the letters that occur once, in alphabetical order. ``...`` stands for any further axes, which are
        broadcast.
    *operands : arrays or Tensors
        As many as there are lists of letters.

    Raises
    ------
    TypeError
        The first argument is not a string. NumPy's form with lists of integers is not supported.
    ValueError
        The letters do not fit the operands, or each other.

    Examples
    --------
    >>> import numpy as np
    >>> a = np.arange(4.0).reshape(2, 2)
    >>> einsum("ij,j->i", a, a[1]).tolist(), float(einsum("ii", a))
    ([3.0, 13.0], 3.0)
    """
    if not isinstance(subscripts, str):
        raise TypeError(f"einsum: expected subscripts such as 'ij,jk->ik' first, got {type(subscripts).__name__}")
    if not operands:
        raise ValueError("einsum: expected at least one operand")
    letters, output = _parsed(subscripts, [value_of(x).ndim for x in operands])
    prepared = [_diagonal(x, own, subscripts) for x, own in zip(operands, letters, strict=True)]
    summed = [
        _summed(x, own, output + "".join(o for m, (_, o) in enumerate(prepared) if m != k))
        for k, (x, own) in enumerate(prepared)
    ]
    _check_lengths(summed, subscripts)
    return einsum_args(*(x for x, _ in summed), letters=tuple(own for _, own in summed), output=output)


def _diagonal(x: Any, letters: str, subscripts: str) -> tuple[Any, str]:
    """Return x and its letters without repetitions: the axes of a repeated letter are replaced by their diagonal."""
    for letter in [c for c, n in Counter(letters).items() if n > 1]:
        places = [a for a, c in enumerate(letters) if c == letter]
        lengths = {x.shape[a] for a in places}
        if len(lengths) > 1:
            raise ValueError(
                f"einsum({subscripts!r}): the axes {letter!r} of one operand have lengths {sorted(lengths)}"
            )
        rest = [a for a in range(x.ndim) if a not in places]
        x = transpose(x, axes=(*places, *rest))
        i = xp_of(value_of(x)).arange(lengths.pop())
        x = getitem(x, index=(i,) * len(places))
        letters = letter + "".join(letters[a] for a in rest)
    return x, letters


def _summed(x: Any, letters: str, elsewhere: str) -> tuple[Any, str]:
    """Return x and its letters, summed over those that occur nowhere else."""
    alone = tuple(a for a, c in enumerate(letters) if c not in elsewhere)
    return (sum(x, axis=alone) if alone else x), "".join(c for c in letters if c in elsewhere)


def _parsed(subscripts: str, ndims: list[int]) -> tuple[list[str], str]:
    """Return the letters of each operand and of the output, with unused letters for ``...``."""
    text = subscripts.replace(" ", "")
    left, arrow, right = text.partition("->")
    inputs = left.split(",")
    named = set(text) & set(string.ascii_letters)
    if set(text.replace("...", "").replace("->", "").replace(",", "")) - named or "," in right:
        raise ValueError(f"einsum({subscripts!r}): expected letters, ',', '...' and '->' only")
    if len(inputs) != len(ndims):
        raise ValueError(f"einsum({subscripts!r}): expected {len(inputs)} operand(s), got {len(ndims)}")
    free = [c for c in string.ascii_letters if c not in named]

    letters, longest = [], ""
    for k, (own, ndim) in enumerate(zip(inputs, ndims, strict=True)):
        further = ndim - len(own.replace("...", ""))
        if own.count("...") > 1 or further < 0 or (further > 0 and "..." not in own):
            raise ValueError(f"einsum({subscripts!r}): operand {k} has {ndim} axes, its letters are {own!r}")
        if further > len(free):
            raise ValueError(f"einsum({subscripts!r}): too many axes to name")
        hidden = "".join(free[:further][::-1])  # aligned at the right, as in broadcasting
        longest = max(longest, hidden, key=len)
        letters.append(own.replace("...", hidden))

    if not arrow:
        counts = Counter("".join(inputs).replace(".", ""))
        right = "..." * bool(longest) + "".join(sorted(c for c, n in counts.items() if n == 1))
    elif longest and "..." not in right:
        raise ValueError(f"einsum({subscripts!r}): the output lacks the '...' of an operand")
    output = right.replace("...", longest)
    missing = set(output) - set("".join(letters))
    if missing or len(set(output)) < len(output) or right.count("...") > 1:
        raise ValueError(
            f"einsum({subscripts!r}): the output must name letters of the operands, each once, got {right!r}"
        )
    return letters, output


def _check_lengths(operands: list[tuple[Any, str]], subscripts: str) -> None:
    """Raise a ValueError if the axes of a letter differ in length; length one is broadcast."""
    lengths: dict[str, int] = {}
    for x, letters in operands:
        for letter, n in zip(letters, x.shape, strict=True):
            known = lengths.setdefault(letter, n)
            if known != n and 1 not in (known, n):
                raise ValueError(
                    f"einsum({subscripts!r}): axis {letter!r} has length {known} in one operand, {n} in another"
                )
            if known == 1:
                lengths[letter] = n
