"""The parser of every command: its errors are one line, and a command's options are added when they are needed."""

from __future__ import annotations

import argparse
import difflib
import shutil
import textwrap
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

DATA = ("digits", "mnist", "cifar10")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with a suggestion for a name that is nearly right.

    Attributes
    ----------
    fill : callable, optional
        Adds the options before the first parsing. Until then nothing that the command needs is imported.
    extend : callable, optional
        Adds the options that depend on other words of the command line, which it gets.
    complete : bool
        Whether this parser itself reports an unknown option, in an error that lists the options it has.
    """

    fill: Callable[[Parser], None] | None = None
    extend: Callable[[Parser, Sequence[str]], None] | None = None
    complete = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Add the options, then parse."""
        if self.fill is not None:
            fill, self.fill = self.fill, None
            fill(self)
        if self.extend is not None and args is not None:
            extend, self.extend = self.extend, None
            extend(self, args)
        namespace, rest = super().parse_known_args(args, namespace)
        if rest and self.complete:
            self.error(self._unknown(rest[0].partition("=")[0]))
        return namespace, rest

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and one line."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def _unknown(self, name: str) -> str:
        if not name.startswith("-"):
            return f"unexpected argument {name!r}"
        known = [option for option in self._option_string_actions if option.startswith("--") and option != "--help"]
        return f"no option {name}; there are {', '.join(known)}{suggestion(name, known)}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            raise argparse.ArgumentError(
                action, f"expected one of {', '.join(known)}, got {value!r}{suggestion(str(value), known)}"
            )


class Listing(argparse.Action):
    """``--list``: print the names and texts that ``lines()`` yields, as two columns, and exit."""

    def __init__(
        self,
        option_strings: Sequence[str],
        dest: str,
        *,
        lines: Callable[[], Iterable[tuple[str, str]]],
        **options: Any,
    ) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)
        self.lines = lines

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        """Print and exit."""
        print(two_columns(list(self.lines()), min(100, shutil.get_terminal_size((100, 24)).columns)))
        parser.exit()


def two_columns(rows: Sequence[tuple[str, str]], width: int) -> str:
    """Return names and texts as two columns of at most ``width`` characters a line.

    >>> print(two_columns([("fgsm", "One step along the sign."), ("pgd", "Many small steps.")], 24))
    fgsm  One step along the
          sign.
    pgd   Many small steps.
    """
    left = max(len(name) for name, _ in rows) + 2
    texts = [textwrap.wrap(text, max(width - left, 16), break_on_hyphens=False) for _, text in rows]
    filled = [(f"\n{'':{left}}").join(lines) for lines in texts]
    return "\n".join(f"{name:{left}}{text}" for (name, _), text in zip(rows, filled, strict=True))


def suggestion(name: str, known: Sequence[str]) -> str:
    """Return the end of an error message: the known name that the user probably meant, or nothing.

    >>> suggestion("mnits", ["digits", "mnist"])
    "; did you mean 'mnist'?"
    """
    close = difflib.get_close_matches(name, known, n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def add_common(parser: argparse.ArgumentParser, *, out: str, out_help: str) -> None:
    """Add the options that all commands share."""
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default: cpu)")
    parser.add_argument(
        "--seed", type=seed, default=0, metavar="N", help="seed of the random number generator (default: 0)"
    )
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"{out_help} (default: {out})")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


# Values ---------------------------------------------------------------------------------------------------------------


def positive(text: str) -> int:
    """Read an integer of at least 1."""
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return value


def seed(text: str) -> int:
    """Read an integer of at least 0."""
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected an integer of at least 0, got {text!r}")
    return int(text)


def real(text: str) -> float:
    """Read a finite number; a fraction, too.

    >>> real("0.5"), real("8/255") == 8 / 255
    (0.5, True)
    """
    value = _read(text)
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a finite number, got {text!r}")
    return value


def number(text: str) -> float:
    """Read a finite number of at least 0."""
    value = _read(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a finite number of at least 0, got {text!r}")
    return value


def above_zero(text: str) -> float:
    """Read a finite number above 0."""
    value = _read(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a finite number above 0, got {text!r}")
    return value


def _read(text: str) -> float:
    """Return the number or the fraction that a text holds, NaN if it holds none."""
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else float(text)
    except (ValueError, ZeroDivisionError):
        return float("nan")
