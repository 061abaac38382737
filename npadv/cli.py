"""The command line: ``npadv demo`` and ``npadv train``.

Each command imports what it needs when it runs, so that ``npadv --help`` answers at once. A wrong argument ends with exit
code 2 and one line that names it; Ctrl-C ends with 130 and leaves no half-written file.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from npadv import __version__

DATA = ("digits", "mnist", "cifar10")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line, with a suggestion where a name was nearly right."""

    def error(self, message: str) -> NoReturn:
        """Exit with code 2 and one line."""
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            known = [str(choice) for choice in action.choices]
            close = difflib.get_close_matches(str(value), known, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise argparse.ArgumentError(action, f"expected one of {', '.join(known)}, got {value!r}{hint}")


def build_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="npadv",
        description="Adversarial machine learning from scratch: train networks, attack them, defend them.",
        epilog="npadv COMMAND --help says more of each.",
    )
    parser.add_argument("--version", action="version", version=f"npadv {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True, parser_class=Parser)

    demo = commands.add_parser(
        "demo",
        help="train two networks on handwritten digits, attack them, defend them, and write a page",
        description="Train a maxout network and a convnet on real handwritten digits, attack both with the fast gradient "
        "sign method, train them again adversarially, and write a page with pictures, curves and a table.",
    )
    demo.add_argument(
        "--data", choices=DATA[:2], default="digits", help="digits (scikit-learn's 1,797; no download) or mnist"
    )
    _common(demo, out="npadv-demo", out_help="folder for index.html, results.json and the networks' weights")
    demo.set_defaults(run=_demo)

    train = commands.add_parser(
        "train",
        help="train one of the papers' networks by its recipe",
        description="Train one of the papers' networks by its published recipe and write its weights, its history and its "
        "test error. Ctrl-C writes a checkpoint; the same command with --resume continues from it, to the bit.",
    )
    train.add_argument("network", metavar="NETWORK", help="a network by name; see --list")
    train.add_argument("--list", action=_ListNetworks, help="list the networks and exit")
    train.add_argument("--data", choices=DATA, help="data set (default: the recipe's)")
    train.add_argument("--epochs", type=_positive, metavar="N", help="passes over the data (default: the recipe's)")
    train.add_argument(
        "--step-size", type=_number, metavar="S", help="a constant step size in place of the recipe's schedule"
    )
    train.add_argument("--adversarial", type=_number, metavar="EPS", help="train adversarially, with FGSM at this eps")
    train.add_argument(
        "--alpha", type=_number, metavar="A", help="with --adversarial, the weight of the clean examples (default: 0.5)"
    )
    train.add_argument(
        "--capture",
        action="store_true",
        help="with --device cuda, record the training step as a CUDA graph and replay it",
    )
    train.add_argument("--resume", action="store_true", help="continue from the checkpoint in the folder")
    _common(train, out="runs/NETWORK-SEED", out_help="folder for weights.npz, result.json and checkpoint.npz")
    train.set_defaults(run=_train)
    return parser


def _common(parser: argparse.ArgumentParser, *, out: str, out_help: str) -> None:
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default: cpu)")
    parser.add_argument("--seed", type=_seed, default=0, metavar="N", help="of all random numbers (default: 0)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help=f"{out_help} (default: {out})")
    parser.add_argument("--quiet", action="store_true", help="no progress bars")


def _positive(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected an integer of at least 1, got {text!r}")
    return value


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected an integer of at least 0, got {text!r}")
    return int(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a finite number of at least 0, got {text!r}")
    return value


class _ListNetworks(argparse.Action):
    """``--list``: print the networks with their first sentences."""

    def __init__(self, option_strings: Sequence[str], dest: str, **options: Any) -> None:
        super().__init__(option_strings, dest, nargs=0, **options)

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        from npadv.nn import NETWORKS

        width = max(map(len, NETWORKS))
        for name, build in NETWORKS.items():
            summary = (build.__doc__ or "").partition("\n")[0].removeprefix("Return ").rstrip(".")
            print(f"{name:{width}}  {summary}")
        parser.exit()


# Commands -------------------------------------------------------------------------------------------------------------


def _demo(arguments: argparse.Namespace) -> None:
    from npadv.demo import demo

    demo(
        data=arguments.data,
        device=arguments.device,
        seed=arguments.seed,
        out=arguments.out or Path("npadv-demo"),
        progress=False if arguments.quiet else None,
    )


def _train(arguments: argparse.Namespace) -> None:
    if arguments.alpha is not None and arguments.adversarial is None:
        raise ValueError("--alpha: expected together with --adversarial EPS")
    if arguments.capture and arguments.device != "cuda":
        raise ValueError("--capture: expected together with --device cuda")
    from npadv.experiment import train_network

    train_network(
        arguments.network,
        data=arguments.data,
        epochs=arguments.epochs,
        step_size=arguments.step_size,
        adversarial=arguments.adversarial,
        alpha=0.5 if arguments.alpha is None else arguments.alpha,
        device=arguments.device,
        capture=arguments.capture,
        seed=arguments.seed,
        out=arguments.out or Path("runs") / f"{arguments.network}-{arguments.seed}",
        resume=arguments.resume,
        progress=False if arguments.quiet else None,
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt:
        print("npadv: interrupted", file=sys.stderr)
        return 130
    except (NotImplementedError, RecursionError):  # RuntimeErrors too, but ours
        raise
    except (ValueError, RuntimeError, OSError, ImportError, FloatingPointError) as error:
        # What a user can get wrong is raised as one of these, with a sentence that says what; the rest is our fault and
        # keeps its traceback.
        print(f"npadv {arguments.command}: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
