"""The command line: ``npadv demo``, ``train``, ``attack`` and ``evaluate``.

Each command imports what it needs when it runs, so that ``npadv --help`` answers at once. A wrong argument ends with exit
code 2 and one line that names it; Ctrl-C ends with 130 and leaves no half-written file.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from npadv import __version__
from npadv.commands.parser import DATA, Listing, Parser, add_common, number, positive


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
    add_common(demo, out="npadv-demo", out_help="folder for index.html, results.json and the networks' weights")
    demo.set_defaults(run=_demo)

    train = commands.add_parser(
        "train",
        help="train one of the papers' networks by its recipe",
        description="Train one of the papers' networks by its published recipe and write its weights, its history and its "
        "test error. Ctrl-C writes a checkpoint; the same command with --resume continues from it, to the bit.",
    )
    train.add_argument("network", metavar="NETWORK", help="a network by name; see --list")
    train.add_argument("--list", action=Listing, lines=_networks, help="list the networks and exit")
    train.add_argument("--data", choices=DATA, help="data set (default: the recipe's)")
    train.add_argument("--epochs", type=positive, metavar="N", help="passes over the data (default: the recipe's)")
    train.add_argument(
        "--step-size", type=number, metavar="S", help="a constant step size in place of the recipe's schedule"
    )
    train.add_argument("--adversarial", type=number, metavar="EPS", help="train adversarially, with FGSM at this eps")
    train.add_argument(
        "--alpha", type=number, metavar="A", help="with --adversarial, the weight of the clean examples (default: 0.5)"
    )
    train.add_argument(
        "--capture",
        action="store_true",
        help="with --device cuda, record the training step as a CUDA graph and replay it",
    )
    train.add_argument("--resume", action="store_true", help="continue from the checkpoint in the folder")
    add_common(train, out="runs/NETWORK-SEED", out_help="folder for weights.npz, result.json and checkpoint.npz")
    train.set_defaults(run=_train)

    attack = commands.add_parser(
        "attack",
        help="attack a trained network by one of the attacks",
        description="Attack the network in a file of weights, and write the adversarial examples, a picture of some and what "
        "came out. Ctrl-C writes what is finished; the same command with --resume continues.",
        epilog="npadv attack NAME --help lists an attack's own options.",
    )
    attack.fill = _attack_options

    evaluate = commands.add_parser(
        "evaluate",
        help="measure how robust trained networks are, and write a page",
        description="Attack the networks in files of weights in many ways, and write a page of curves, tables and pictures and "
        "the numbers behind it. Ctrl-C writes what was measured until then.",
    )
    evaluate.fill = _evaluate_options
    return parser


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


def _networks() -> Iterator[str]:
    """Yield a line for each network, its name and its docstring's first sentence."""
    from npadv.nn import NETWORKS

    width = max(map(len, NETWORKS))
    for name, build in NETWORKS.items():
        summary = (build.__doc__ or "").partition("\n")[0].removeprefix("Return ").rstrip(".")
        yield f"{name:{width}}  {summary}"


def _attack_options(parser: Parser) -> None:
    from npadv.commands.attack import add_options

    add_options(parser)


def _evaluate_options(parser: Parser) -> None:
    from npadv.commands.evaluate import add_options

    add_options(parser)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    arguments = build_parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except KeyboardInterrupt as interrupt:
        print("; ".join(["npadv: interrupted", *map(str, interrupt.args)]), file=sys.stderr)
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
