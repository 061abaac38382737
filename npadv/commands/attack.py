"""``npadv attack``: one attack on one network from a file, in batches, into a folder.

The folder receives ``examples.npz`` (what was attacked, and what became of it), ``examples.png`` and ``result.json``
(settings, error rates, versions, machine). Ctrl-C writes what is finished, marked as partial; ``--resume`` goes on from there.
What an example becomes does not depend on its batch, but for attacks that draw random numbers, one generator a batch: so
the size of the batch is one of the settings.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from npadv.commands.catalogue import ATTACKS, listing
from npadv.commands.entries import QUERIES, Entry, OneBatch, Work
from npadv.commands.folder import check_folder
from npadv.commands.gathered import Gathered
from npadv.commands.models import Model, open_data, open_model
from npadv.commands.options import keywords, named_by_flags
from npadv.commands.parser import DATA, Listing, Parser, add_common, positive, suggestion
from npadv.commands.rubbish import RUBBISH, Rubbish
from npadv.commands.rubbish import run as run_rubbish
from npadv.data import Dataset, Split
from npadv.environment import environment
from npadv.files import atomic_write, write_json
from npadv.progress import spent, track
from npadv.report import check_installed, png
from npadv.report import examples as draw_examples

TARGETS = ("next", "random", "least")
FILES = ("examples.npz", "result.json")
SHOWN = 10  # examples in the picture


def add_options(parser: Parser) -> None:
    """Add a parser for each attack, with the attack's own options."""
    parser.add_argument("--list", action=Listing, lines=listing, help="explain every attack in a line, and exit")
    names = parser.add_subparsers(dest="attack", metavar="NAME", required=True, parser_class=Parser)
    for name, entry in ATTACKS.items():
        one = _parser(names, name, entry, entry.examples)
        if entry.has_targets:
            one.add_argument(
                "--target",
                metavar="CLASS",
                help="reach this class: a number, or next (after the true one), random, or least (likely at first); examples "
                "that are of the class already are left out",
            )
        one.add_argument("--resume", action="store_true", help="continue what Ctrl-C stopped in the folder")
        one.set_defaults(run=run)
    for name, rubbish in RUBBISH.items():
        _parser(names, name, rubbish, rubbish.examples).set_defaults(run=run_rubbish)


def _parser(names: Any, name: str, entry: Entry | Rubbish, examples: int) -> Parser:
    """Return the parser of one attack, with what all have and with the attack's own options."""
    one: Parser = names.add_parser(
        name, help=entry.summary, description=f"{entry.summary}. {entry.paper}.", allow_abbrev=False
    )
    one.complete = True
    one.add_argument("--model", type=Path, required=True, metavar="FILE", help="weights of npadv train or npadv demo")
    one.add_argument("--network", metavar="NAME", help="the network in FILE, where the file itself does not say")
    one.add_argument("--data", choices=DATA, help="whose test images to take (default: what FILE was trained on)")
    own = one.add_argument_group(f"options of {name}")
    for option in entry.options:
        option.add_to(own)
    if examples:
        one.add_argument("--examples", type=positive, metavar="N", help=f"how many (default: {examples})")
        one.add_argument("--batch", type=positive, default=100, metavar="N", help="how many at once (default: 100)")
    one.add_argument("--no-picture", action="store_true", help="no examples.png, which needs matplotlib")
    one.add_argument("--overwrite", action="store_true", help="replace another run's results in the folder")
    add_common(one, out=f"runs/{name}-NETWORK-SEED", out_help="folder for examples.npz, examples.png and result.json")
    return one


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """Attack, write the folder, print a line, and return what ``result.json`` holds."""
    entry = ATTACKS[arguments.attack]
    if not arguments.no_picture:
        check_installed("matplotlib")  # asked before the work, not after
    model = open_model(arguments.model, network=arguments.network, device=arguments.device)
    dataset = open_data(arguments.data, model)
    target = _target(getattr(arguments, "target", None), len(dataset.classes))
    options = keywords(entry.options, arguments)
    with named_by_flags(entry.options):
        index = _chosen(entry.available(dataset.test, options), target, arguments.examples, entry.examples)
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
    out = arguments.out or Path("runs") / f"{arguments.attack}-{model.name}-{arguments.seed}"
    gathered = Gathered(settings)
    _open_folder(out, gathered, resume=arguments.resume, overwrite=arguments.overwrite)
    progress = False if arguments.quiet else None
    work = Work(model, dataset, out, arguments.seed, arguments.device, arguments.resume, progress)
    facts: dict[str, Any] = {}
    try:
        with named_by_flags(entry.options):
            attack, facts = entry.begin(work, options)
            _attack_all(attack, model, dataset.test, index, target, gathered, progress=progress)
        picture = None if arguments.no_picture else _picture(gathered.arrays, dataset, model)
    except KeyboardInterrupt:
        if not len(gathered):
            kept = f"; what was asked for is in {out / QUERIES}, for --resume" if (out / QUERIES).exists() else ""
            raise KeyboardInterrupt(f"no example is finished{kept}") from None
        _write(out, gathered, entry, facts)
        raise KeyboardInterrupt(
            f"{len(gathered)} of {len(index)} examples are in {out}; the same command with --resume goes on"
        ) from None
    result = _write(out, gathered, entry, facts, picture)
    print(sentence(result, out))
    return result


def _attack_all(
    attack: OneBatch,
    model: Model,
    test: Split,
    index: np.ndarray,
    target: int | str | None,
    gathered: Gathered,
    *,
    progress: bool | None,
) -> None:
    """Attack, batch by batch, those of the test images at ``index`` that are not gathered yet."""
    size = gathered.settings["batch"]
    starts = range(len(gathered), len(index), size)
    total, done = -(-len(index) // size), len(gathered) // size
    for start in track(starts, total=total, initial=done, label=gathered.settings["attack"], show=progress):
        some = test[index[start : start + size]]
        # A generator of its own for each batch: a run that was resumed draws what the whole one would have drawn.
        rng = np.random.default_rng([gathered.settings["seed"], start])
        before = model.logits(some.images)
        goals = _goals(target, some.labels, before, rng)
        y = model.on_device(some.labels if goals is None else goals)
        began = time.perf_counter()
        result = attack(model.on_device(some.images), y, targeted=goals is not None, rng=rng)
        gathered.add(
            result,
            time.perf_counter() - began,
            index=index[start : start + size],
            x=some.images,
            labels=some.labels,
            prediction_before=before.argmax(axis=1),
            **({} if goals is None else {"target": goals}),
        )


# What to attack -------------------------------------------------------------------------------------------------------


def _target(text: str | None, classes: int) -> int | str | None:
    """Return the class that ``--target`` names, or the rule by which each example has its own."""
    if text is None or text in TARGETS:
        return text
    if text.isdecimal() and int(text) < classes:
        return int(text)
    raise ValueError(
        f"--target: expected a class, 0 to {classes - 1}, or one of {', '.join(TARGETS)}, got {text!r}"
        f"{suggestion(text, TARGETS)}"
    )


def _chosen(test: Split, target: int | str | None, asked: int | None, default: int) -> np.ndarray:
    """Return the places of the examples to attack: the first test images, but for those of the class to be reached."""
    index = np.flatnonzero(test.labels != target) if isinstance(target, int) else np.arange(len(test))
    if asked is not None and asked > len(index):
        raise ValueError(f"--examples: expected at most {len(index)}, got {asked}")
    return index[: asked or default]


def _goals(
    target: int | str | None, labels: np.ndarray, before: np.ndarray, rng: np.random.Generator
) -> np.ndarray | None:
    """Return the class that each example is to reach, never its own; None if it is to leave its own."""
    classes = before.shape[1]
    if target is None:
        return None
    if target == "random":
        return np.asarray((labels + rng.integers(1, classes, len(labels))) % classes)
    if target == "least":
        others = before.astype(np.float64)
        others[np.arange(len(labels)), labels] = np.inf
        return np.asarray(others.argmin(axis=1))
    return (labels + 1) % classes if target == "next" else np.full_like(labels, target)


# The folder -----------------------------------------------------------------------------------------------------------


def _open_folder(out: Path, gathered: Gathered, *, resume: bool, overwrite: bool) -> None:
    """See that nobody's results are lost, and take up what is to be continued."""
    if resume and overwrite:
        raise ValueError("--resume: expected without --overwrite, got both")
    check_folder(out, *FILES, QUERIES, overwrite=overwrite or resume, hint="--resume it if it is partial, ")
    if overwrite:
        (out / QUERIES).unlink(missing_ok=True)
    if resume and (out / FILES[0]).exists():
        gathered.resume(out / FILES[0])
        if len(gathered) == gathered.settings["examples"]:
            raise ValueError(f"--resume: {out} is complete")


def _write(
    out: Path, gathered: Gathered, entry: Entry, facts: Mapping[str, Any], picture: bytes | None = None
) -> dict[str, Any]:
    """Write the folder's files, the result last, and return it."""
    result = {**result_of(gathered, entry), **facts}
    drawing = out / "examples.png"
    if picture is not None:
        atomic_write(drawing, picture)
    else:
        drawing.unlink(missing_ok=True)  # of another run, or of another time
    gathered.save(out / FILES[0])
    write_json(out / FILES[1], result)
    return result


def result_of(gathered: Gathered, entry: Entry) -> dict[str, Any]:
    """Return what ``result.json`` holds: the settings, what came out, and where it was computed."""
    arrays, settings = gathered.arrays, dict(gathered.settings)
    moved = arrays["success"] & ~arrays["flags/already_wrong"]
    right = arrays["prediction_before"] == arrays["labels"]
    return {
        **settings,
        "complete": len(gathered) == settings["examples"],
        "attacked": len(gathered),
        "clean_error": float((arrays["prediction_before"] != arrays["labels"]).mean()),
        "error": float((arrays["prediction"] != arrays["labels"]).mean()),
        "turned": int((right & (arrays["prediction"] != arrays["labels"])).sum()),  # right before, wrong after
        "success_rate": float(arrays["success"].mean()),
        "median_distance": float(np.median(arrays["distance"][moved])) if moved.any() else None,
        "distance": entry.measure(settings["attack_options"]),
        "queries_per_example": float(arrays["queries"].mean()),
        "flags": {name.removeprefix("flags/"): int(a.sum()) for name, a in arrays.items() if name.startswith("flags/")},
        "seconds": gathered.seconds,
        **environment(settings["device"]),
    }


def sentence(result: dict[str, Any], out: Path) -> str:
    """Return a result in one line."""
    success = ATTACKS[result["attack"]].success if result["target"] is None else "target reached"
    reached = f", {success} {result['success_rate']:.2%}" if success else ""
    median, unit = result["median_distance"], result["distance"]
    distance = "no example was moved across" if median is None else f"median distance {median:.4g} ({unit})"
    trained = result["trained_on"]
    origin = "" if trained in (None, result["data"]) else f", trained on {trained},"
    return (
        f"{result['attack']} on {result['network']}{origin} with {result['attacked']:,} images of {result['data']}: "
        f"error {result['clean_error']:.2%}, under attack {result['error']:.2%}{reached}; {distance}; "
        f"{result['queries_per_example']:,.4g} queries an example; {spent(result['seconds'])}; results in {out}"
    )


def _picture(arrays: dict[str, np.ndarray], dataset: Dataset, model: Model) -> bytes:
    """Return a PNG of ten examples, of those that the network had right and the attack turned, if there are as many."""
    turned = arrays["success"] & (arrays["prediction_before"] == arrays["labels"])
    picked = np.sort(np.argsort(~turned, kind="stable")[:SHOWN])
    chosen = {name: array[picked] for name, array in arrays.items()}
    names = np.array(dataset.classes)
    before, after = (model.probabilities(chosen[key]) for key in ("x", "x_adv"))
    titles = None
    if "target" in chosen:
        titles = [f"{names[y]}, target {names[t]}" for y, t in zip(chosen["labels"], chosen["target"], strict=True)]
    figure = draw_examples(
        chosen["x"],
        chosen["x_adv"] - chosen["x"],
        chosen["x_adv"],
        true=names[chosen["labels"]],
        before=names[before.argmax(axis=1)],
        after=names[after.argmax(axis=1)],
        confidence_before=before.max(axis=1),
        confidence_after=after.max(axis=1),
        titles=titles,
    )
    return png(figure)
