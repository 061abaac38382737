"""help() of each attack describes every parameter, including those that are described once for all attacks."""

import inspect

import pytest

from npadv import attacks
from npadv.attacks.docstrings import complete_docstring
from npadv.commands.options import described

FUNCTIONS = [name for name in attacks.__all__ if inspect.isfunction(getattr(attacks, name))]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_help_describes_every_parameter_and_the_errors(name):
    function = getattr(attacks, name)
    texts = described(function)
    assert {name.lstrip("*") for name in texts} == set(inspect.signature(function).parameters)
    assert all(text for _, text in texts.values())
    help_text = inspect.getdoc(function)
    assert "see npadv.attacks" not in help_text
    assert "\nRaises\n------\n" in help_text


def test_shared_parameters_are_shown_in_the_words_of_the_package():
    declared, text = described(attacks.pgd)["model"]
    assert declared == "callable"
    assert text.startswith("Maps a batch (N, ...) to logits (N, K)")


def test_a_reference_is_replaced_and_the_errors_stand_before_the_examples():
    def attack(model, x, eps):
        """Do nothing.

        Parameters
        ----------
        x, model : see npadv.attacks
        eps : float
            The radius.

        Examples
        --------
        >>> 1
        1
        """

    package = (
        "Attacks.\n\nmodel : callable\n    A model.\nx : array\n    Some\n    examples.\n\nValueError\n    A bad x.\n"
    )
    complete_docstring(attack, package)
    expected = """Do nothing.

Parameters
----------
x : array
    Some
    examples.
model : callable
    A model.
eps : float
    The radius.

Raises
------
ValueError
    A bad x.

Examples
--------
>>> 1
1
"""
    assert attack.__doc__ == expected


def test_a_docstring_without_a_reference_is_left_as_it_is():
    def attack():
        """Do nothing."""

    complete_docstring(attack, attacks.__doc__)
    assert attack.__doc__ == "Do nothing."
    attack.__doc__ = None  # as under python -OO
    complete_docstring(attack, None)
    assert attack.__doc__ is None
