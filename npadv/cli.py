"""The command line: ``npadv demo``, ``train``, ``attack`` and ``evaluate``.

Each command is a file of ``npadv/commands``, imported when its options are parsed, so that ``npadv --help`` answers at once.
A wrong argument ends with exit code 2 and one line that names it. Ctrl-C, and the signals TERM and HUP, end with exit code 130
and leave no half-written file.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from importlib import import_module
from typing import Any

from npadv import __version__
from npadv.commands.parser import Parser
from npadv.progress import stopped_by_signals

# For each command, its line in `npadv --help` and the texts of its own --help.
COMMANDS: dict[str, dict[str, Any]] = {
    "demo": {
        "help": "train two networks on handwritten digits, attack them, defend them, and write a page",
        "description": "Train a maxout network and a convnet on real handwritten digits, attack both with the fast gradient "
        "sign method, train them again adversarially, and write a page with pictures, curves and a table.",
    },
    "train": {
        "help": "train one of the papers' networks by its recipe",
        "description": "Train one of the papers' networks by its published recipe and write its weights, its history and its "
        "test error. Ctrl-C writes a checkpoint; the same command with --resume continues from it, to the bit.",
        "epilog": "npadv train --defense NAME --help lists a defense's own options.",
    },
    "attack": {
        "help": "attack a trained network by one of the attacks",
        "description": "Attack the network in a file of weights. Write the adversarial examples, a picture of some of them, "
        "and the error rates. Ctrl-C writes the finished examples; the same command with --resume continues.",
        "epilog": "npadv attack NAME --help lists an attack's own options.",
    },
    "evaluate": {
        "help": "measure how robust trained networks are, and write a page",
        "description": "Attack the networks in files of weights in many ways. Write a page of curves, tables and pictures, and "
        "the numbers behind it. Ctrl-C writes the finished measurements.",
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        with stopped_by_signals():
            arguments.run(arguments)
    except KeyboardInterrupt as interrupt:
        print("; ".join(["npadv: interrupted", *map(str, interrupt.args)]), file=sys.stderr)
        return 130
    except (NotImplementedError, RecursionError):  # subclasses of RuntimeError, but errors of npadv itself
        raise
    except MemoryError as error:
        print(f"npadv {arguments.command}: not enough memory: {error}", file=sys.stderr)
        return 2
    except (ValueError, RuntimeError, OSError, ImportError, FloatingPointError) as error:
        # A mistake of the user raises one of these, with a sentence that explains it. Any other error is a bug of npadv
        # and keeps its traceback.
        print(f"npadv {arguments.command}: {_sentence(error)}", file=sys.stderr)
        return 2
    return 0


def _sentence(error: Exception) -> str:
    """Return the text of an error; one of the operating system names the file first.

    >>> _sentence(OSError(28, "No space left on device", "runs/a/examples.npz"))
    'runs/a/examples.npz: No space left on device'
    """
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def build_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="npadv",
        description="Adversarial machine learning from scratch: train networks, attack them, defend them.",
        epilog="npadv COMMAND --help lists a command's options.",
    )
    parser.add_argument("--version", action="version", version=f"npadv {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)
    for name, texts in COMMANDS.items():
        commands.add_parser(name, **texts).fill = partial(_add_options, name)
    return parser


def _add_options(name: str, parser: Parser) -> None:
    """Add the options of a command, which its own file defines."""
    command: Any = import_module(f"npadv.commands.{name}")
    command.add_options(parser)


if __name__ == "__main__":
    sys.exit(main())
