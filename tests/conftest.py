"""What all tests share: how many examples Hypothesis draws, and where the data sets lie."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Small matrices gain nothing from OpenBLAS's threads, and on a busy machine they wait for each other. Read when NumPy is
# first imported, which is after this line.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmark_cases import fake_worker as fake_worker  # a fixture
from kernel_cases import xp as xp  # a fixture; it imports NumPy

settings.register_profile(
    "default",
    deadline=None,
    max_examples=100,
    derandomize="CI" in os.environ,  # a continuous build fails for what was changed, not for what was drawn
    suppress_health_check=[HealthCheck.too_slow],  # a busy machine is not a fault
)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
if "NPADV_DATA" not in os.environ and DATA.is_dir():
    os.environ["NPADV_DATA"] = str(DATA)


@pytest.fixture
def run(capsys):
    """Return a function that runs a command line and returns its exit code, stdout and stderr."""
    from npadv.cli import main

    def run(*argv):
        try:
            code = main([str(argument) for argument in argv])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def weights(tmp_path_factory):
    """Return a file of softmax regression's weights, trained on the digits by the command line."""
    from npadv.cli import main

    out = tmp_path_factory.mktemp("trained") / "digits"
    assert main(["train", "softmax_regression", "--data", "digits", "--quiet", "--out", str(out)]) == 0
    return out / "weights.npz"
