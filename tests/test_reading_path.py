"""How many files a reader has to open to follow one step of PGD down to the gradient."""

import json
import os
import subprocess
import sys

import pytest

from npadv.ops import softmax_cross_entropy

MOST = {"linf": 9, "l2": 12, "l1": 12}
"""Files a step. In l2 and l1 a direction and a projection are more than a sign and a clip."""

TRACED = """
import json, sys
from pathlib import Path

import numpy as np

import npadv
from npadv.attacks import pgd

ROOT = Path(npadv.__file__).parent
x, y, w = np.full((2, 3), 0.5), np.array([0, 1]), np.arange(6.0).reshape(3, 2) - 2


def calls(function):
    # Return how often each file of npadv is entered.
    counts = {}

    def count(frame, event, argument):
        path = Path(frame.f_code.co_filename)
        if event == "call" and ROOT in path.parents:
            name = path.relative_to(ROOT).as_posix()
            counts[name] = counts.get(name, 0) + 1

    sys.setprofile(count)
    try:
        function()
    finally:
        sys.setprofile(None)
    return counts


def attack(steps):
    return lambda: pgd(lambda x: x @ w, x, y, eps=0.1, step=0.01, steps=steps, norm=sys.argv[1])


def model_alone():
    inputs = npadv.Tensor(x, requires_grad=True)
    npadv.grad(inputs @ w, inputs, np.ones((2, 2)))


attack(1)()  # whatever is done once, is done
one, two = calls(attack(1)), calls(attack(2))
step = {name for name in two if two[name] > one[name]}
print(json.dumps([sorted(step), sorted(name for name in calls(model_alone) if name.startswith("ops/"))]))
"""


@pytest.mark.parametrize("norm", MOST)
def test_one_more_step_of_pgd_enters_few_files(norm):
    """Without the fast versions, and without the operations that only the model uses."""
    environment = {**os.environ, "NPADV_FAST": "off"}
    done = subprocess.run(
        [sys.executable, "-c", TRACED, norm], capture_output=True, text=True, check=True, env=environment
    )
    step, of_the_model = map(set, json.loads(done.stdout))
    loss = f"{softmax_cross_entropy.__module__.removeprefix('npadv.').replace('.', '/')}.py"
    files = step - (of_the_model - {loss})
    assert {"attacks/pgd.py", "attacks/result.py", "norms.py", loss} <= files
    assert len(files) <= MOST[norm], sorted(files)
