"""Options of the command line from a function: names, types and defaults from its signature, help texts from its docstring.

So nothing is written twice: a new parameter of an attack, or a changed default, is on the command line too.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import re
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, get_args

from npadv.commands.parser import real, seed


class Option(NamedTuple):
    """One keyword of a function, as an option.

    ``kind`` is ``float``, ``int``, ``str`` or ``bool``; ``default`` is ``inspect.Parameter.empty`` if the option is required.
    """

    name: str
    kind: type
    default: Any
    choices: tuple[str, ...]
    help: str

    @property
    def flag(self) -> str:
        """The option as it is typed; for a keyword that is true by default, the option that turns it off."""
        return ("--no-" if self.default is True else "--") + self.name.replace("_", "-")

    def add_to(self, parser: Any) -> None:
        """Add the option to an argparse parser (or group), under its keyword's name."""
        if self.kind is bool:
            action = "store_false" if self.default else "store_true"
            text = f"Not: {self.help}" if self.default else self.help
            parser.add_argument(self.flag, dest=self.name, action=action, help=_escaped(text))
            return
        required = self.default is inspect.Parameter.empty
        shown = "" if required or self.default is None else f" (default: {self.default})"
        parser.add_argument(
            self.flag,
            dest=self.name,
            type={float: real, int: seed}.get(self.kind, str),
            choices=self.choices or None,
            metavar=None if self.choices else {float: "X", int: "N"}.get(self.kind, "TEXT"),
            required=required,
            default=None if required else self.default,
            help=_escaped(self.help + shown),
        )


def options_of(
    function: Callable[..., Any], *, without: Collection[str] = (), preset: Mapping[str, Any] | None = None
) -> list[Option]:
    """Return a function's keyword-only parameters as options, except those in ``without``.

    Parameters
    ----------
    function
        The annotations of its parameters are ``float``, ``int``, ``str`` or ``bool``, alone or ``| None``.
    without
        Parameters to leave out.
    preset
        Defaults that replace the function's own.

    Raises
    ------
    TypeError
        A parameter has another annotation: leave it out, or change its annotation.

    Examples
    --------
    >>> from npadv.attacks import fgsm
    >>> [(option.flag, option.kind.__name__) for option in options_of(fgsm, without=("bounds", "loss"))]
    [('--eps', 'float'), ('--targeted', 'bool')]
    """
    documented, options = described(function), []
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        if parameter.kind is not inspect.Parameter.KEYWORD_ONLY or name in without:
            continue
        kinds = [
            kind for kind in get_args(parameter.annotation) or (parameter.annotation,) if kind not in (type(None), Any)
        ]
        if len(kinds) != 1 or kinds[0] not in (float, int, str, bool):
            raise TypeError(
                f"{function.__name__}: {name}: expected a number, a text or a bool, got {parameter.annotation}"
            )
        declared, text = documented.get(name, ("", ""))
        default = parameter.default if preset is None else preset.get(name, parameter.default)
        options.append(Option(name, kinds[0], default, _choices(declared), text))
    return options


def described(function: Callable[..., Any]) -> dict[str, tuple[str, str]]:
    """Return the docstring's section "Parameters": for each name its type, and its description as one line.

    >>> from npadv.attacks import fgsm
    >>> described(fgsm)["eps"]
    ('float, or (N,) array', 'Size of the step in the maximum norm, in units of x.')
    """
    lines = (inspect.getdoc(function) or "").splitlines()
    found: dict[str, tuple[str, list[str]]] = {}
    inside, names = False, list[str]()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if following.startswith("---"):
            inside, names = line == "Parameters", []
        elif inside and line and not line.startswith((" ", "-")):
            left, _, declared = line.partition(" : ")
            names = left.split(", ")
            found.update({name: (declared, []) for name in names})
        elif inside and line.strip():
            for name in names:
                found[name][1].append(line.strip())
    return {name: (declared, _followed(function, name, " ".join(text))) for name, (declared, text) in found.items()}


def _followed(function: Callable[..., Any], name: str, text: str) -> str:
    """Return a parameter's description; "As for ``other``" is replaced by the description there."""
    if match := re.match(r"As for ``(\w+)``", text):
        package = sys.modules[function.__module__.rpartition(".")[0]]
        text = described(getattr(package, match[1]))[name][1]
    return text.replace("``", "")


def summary(function: Callable[..., Any]) -> str:
    """Return the first sentence of a docstring, without its full stop."""
    return (inspect.getdoc(function) or "").partition("\n")[0].rstrip(".")


def _choices(declared: str) -> tuple[str, ...]:
    """Return the values that a type of the form ``{"a", "b"}`` allows.

    >>> _choices('{"linf", "l2"}'), _choices("float")
    (('linf', 'l2'), ())
    """
    match = re.match(r"\{(.*)\}", declared)
    return tuple(ast.literal_eval(f"({match[1]},)")) if match else ()


def _escaped(text: str) -> str:
    """Return a help text without format characters for argparse."""
    return text.replace("%", "%%")


@contextmanager
def named_by_flags(options: Iterable[Option]) -> Iterator[None]:
    """Replace the keyword that a ValueError names by the option that sets it.

    >>> with named_by_flags([Option("steps", int, 40, (), "")]):
    ...     raise ValueError("steps: expected an integer of at least 1, got 0")
    Traceback (most recent call last):
    ValueError: --steps: expected an integer of at least 1, got 0
    """
    try:
        yield
    except ValueError as error:
        name, colon, rest = str(error).partition(":")
        flags = {option.name: option.flag for option in options}
        if name not in flags:
            raise
        raise ValueError(f"{flags[name]}{colon}{rest}") from error


def keywords(options: list[Option], arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the options' values as keyword arguments of their function."""
    return {option.name: getattr(arguments, option.name) for option in options}
