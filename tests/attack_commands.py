"""What the tests of ``npadv attack`` share: a quick command for each attack, and how to read what it wrote."""

import json

from npadv.files import load_arrays

QUICK = {
    "fgsm": "--eps 0.1",
    "steepest_ascent": "--eps 1 --norm l2",
    "one_pixel": "",
    "pgd": "--eps 0.1 --steps 3 --random-start",
    "lbfgs": "--searches 2 --max-iterations 5 --no-squared --solver batched",
    "linearized": "--norm linf",
    "deepfool": "--overshoot 0.1",
    "virtual_adversarial": "--eps 1",
    "jsma": "--pixels 20 --no-pairs",
    "carlini_wagner": "--steps 5 --searches 2",
    "feature": "--layer 2 --eps 0.2 --max-iterations 5",
    "substitute": "--eps 0.2 --budget 50 --seeds 40 --rounds 1 --epochs 2 --student softmax_regression",
}
FEW = ["--examples", "12", "--batch", "5"]
PLAIN = "--no-picture"  # which takes longer than most attacks


def command(name, weights, out, *more):
    return ["attack", name, "--model", weights, *QUICK[name].split(), *FEW, "--out", out, *more]


def read(folder):
    """Return a run's arrays, its settings and its result."""
    arrays = load_arrays(folder / "examples.npz")
    settings = json.loads(str(arrays.pop("settings")))
    return arrays, settings, json.loads((folder / "result.json").read_text("utf-8"))
