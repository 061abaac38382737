"""``npadv attack``: one attack on one network from a file, in batches, into a folder.

The folder receives ``examples.npz`` (the clean and the adversarial examples, and the attack's results for each),
``examples.png`` and ``result.json`` (settings, error rates, versions, machine). Each finished batch is saved at once, so that
``--resume`` goes on after Ctrl-C, and after a killed run too. An example's result does not depend on its batch, except that
attacks which draw random numbers use one generator for each batch: so the size of the batch is one of the settings.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from npadv.commands.adapters import QUERIES, Adapter, BatchAttack, RunContext
from npadv.commands.attack_result import picture_of, result_of, sentence
from npadv.commands.folder import check_folder, open_folder
from npadv.commands.models import Model, open_data, open_model
from npadv.commands.options import keywords, named_by_flags
from npadv.commands.parser import DATA, Listing, Parser, add_common, positive
from npadv.commands.registry import ATTACKS, listing
from npadv.commands.results import EXAMPLES, PARTS, PICTURE, RESULT, Results, read_result
from npadv.commands.rubbish import RUBBISH, Rubbish
from npadv.commands.rubbish import run as run_rubbish
from npadv.commands.targets import choose_examples, read_target, target_classes
from npadv.progress import track
from npadv.report import check_installed


def add_options(parser: Parser) -> None:
    """Add a parser for each attack, with the attack's own options."""
    parser.add_argument("--list", action=Listing, lines=listing, help="describe every attack in a line, and exit")
    names = parser.add_subparsers(dest="attack", metavar="NAME", required=True, parser_class=Parser)
    for name, adapter in ATTACKS.items():
        own = _add_parser(names, name, adapter, adapter.examples)
        if adapter.has_targets:
            own.add_argument(
                "--target",
                metavar="CLASS",
                help="reach this class: a number, or next (after the true one), random, or least (the least likely before the "
                "attack); examples whose true class is this number are left out",
            )
        own.set_defaults(run=run)
    for name, rubbish in RUBBISH.items():
        _add_parser(names, name, rubbish, rubbish.examples).set_defaults(run=run_rubbish)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Attack, write the folder, print a line, and return the contents of ``result.json``."""
    adapter = ATTACKS[arguments.attack]
    if not arguments.no_picture:
        check_installed("matplotlib")  # before the work, not after
    model = open_model(arguments.model, network=arguments.network, device=arguments.device)
    dataset = open_data(arguments.data, model)
    target = read_target(getattr(arguments, "target", None), len(dataset.classes))
    options = keywords(adapter.options, arguments)
    with named_by_flags(adapter.options):
        test = adapter.available(dataset.test, options)
    index = choose_examples(test, target, arguments.examples, adapter.examples)
    out = arguments.out or Path("runs") / f"{arguments.attack}-{model.name}-{arguments.seed}"
    settings = {
        "attack": arguments.attack,
        **model.facts,
        "trained_on": model.data,
        "data": dataset.name,
        "examples": len(index),
        "batch": arguments.batch,
        "target": target,
        "seed": arguments.seed,
        "device": arguments.device,
        "attack_options": options,
    }
    results = Results(out, settings, dataset.test, index)
    progress = False if arguments.quiet else None
    context = RunContext(model, dataset, out, arguments.seed, arguments.device, arguments.resume, progress)

    with open_folder(out, EXAMPLES, PICTURE, RESULT, QUERIES):
        _prepare(results, resume=arguments.resume, overwrite=arguments.overwrite)
        if results.is_complete():
            print(f"{out} is complete: {len(results)} examples are attacked, nothing is left to do")
            return read_result(out / RESULT)
        facts: dict[str, Any] = {}
        try:
            with named_by_flags(adapter.options):
                attack, facts = adapter.begin(context, options)
                _attack_batches(attack, model, results, progress=progress)
            picture = None if arguments.no_picture else picture_of(results.arrays, dataset, model)
        except KeyboardInterrupt:
            if not len(results):
                kept = f"; the labels asked for so far are in {out / QUERIES}, for --resume"
                raise KeyboardInterrupt(f"no example is finished{kept if (out / QUERIES).exists() else ''}") from None
            results.commit({**result_of(results, adapter), **facts}, None)
            raise KeyboardInterrupt(
                f"{len(results)} of {len(index)} examples are in {out}; the same command with --resume goes on"
            ) from None
        result = {**result_of(results, adapter), **facts}
        results.commit(result, picture)
    print(sentence(result, out))
    return result


def _attack_batches(attack: BatchAttack, model: Model, results: Results, *, progress: bool | None) -> None:
    """Attack the test images that have no results yet, batch by batch."""
    index, size, seed = results.index, results.settings["batch"], results.settings["seed"]
    starts = range(len(results), len(index), size)
    total, done = -(-len(index) // size), len(results) // size
    for start in track(starts, total=total, initial=done, label=results.settings["attack"], show=progress):
        chosen = index[start : start + size]
        batch = results.test[chosen]
        # Each batch has its own generator, so that a resumed run draws the same numbers as an uninterrupted one.
        rng = np.random.default_rng([seed, start])
        logits = model.logits(batch.images)
        targets = target_classes(results.settings["target"], batch.labels, logits, rng)
        y = model.on_device(batch.labels if targets is None else targets)
        began = time.perf_counter()
        result = attack(model.on_device(batch.images), y, targeted=targets is not None, rng=rng)
        results.add(
            result,
            time.perf_counter() - began,
            index=chosen,
            x=batch.images,
            labels=batch.labels,
            prediction_before=logits.argmax(axis=1),
            **({} if targets is None else {"target": targets}),
        )


def _prepare(results: Results, *, resume: bool, overwrite: bool) -> None:
    """Check that no other run's results are lost, and load the results that the run continues."""
    if resume and overwrite:
        raise ValueError("--resume: expected without --overwrite, got both")
    keep = not (resume or overwrite)
    check_folder(
        results.out, EXAMPLES, RESULT, QUERIES, PARTS, overwrite=not keep, hint="--resume it if it is partial, "
    )
    if overwrite:
        (results.out / QUERIES).unlink(missing_ok=True)
    if resume:
        results.resume()


def _add_parser(names: Any, name: str, attack: Adapter | Rubbish, examples: int) -> Parser:
    """Return the parser of one attack, with the options that all attacks share and the attack's own."""
    parser: Parser = names.add_parser(
        name, help=attack.summary, description=f"{attack.summary}. {attack.paper}.", allow_abbrev=False
    )
    parser.complete = True
    parser.add_argument(
        "--model", type=Path, required=True, metavar="FILE", help="weights from npadv train or npadv demo"
    )
    parser.add_argument("--network", metavar="NAME", help="the network in FILE, if the file does not name it")
    parser.add_argument(
        "--data", choices=DATA, help="attack the test images of this data set (default: the one FILE was trained on)"
    )
    own = parser.add_argument_group(f"options of {name}")
    for option in attack.options:
        option.add_to(own)
    if examples:
        parser.add_argument("--examples", type=positive, metavar="N", help=f"number of examples (default: {examples})")
        parser.add_argument(
            "--batch", type=positive, default=100, metavar="N", help="examples attacked at once (default: 100)"
        )
        parser.add_argument("--resume", action="store_true", help="continue the stopped run in the folder")
    parser.add_argument("--no-picture", action="store_true", help="write no examples.png, which needs matplotlib")
    parser.add_argument("--overwrite", action="store_true", help="replace another run's results in the folder")
    add_common(
        parser, out=f"runs/{name}-NETWORK-SEED", out_help="folder for examples.npz, examples.png and result.json"
    )
    return parser
