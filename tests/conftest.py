"""Settings and fixtures of all tests: Hypothesis's profiles, the folder of data sets, command lines, trained weights."""

import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

# Small matrices gain nothing from several threads of OpenBLAS, and on a busy machine the threads wait for each other. OpenBLAS
# reads the variable when NumPy is first imported, which is below.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

from benchmark_cases import fake_worker as fake_worker  # fixtures of several files
from kernel_cases import xp as xp

settings.register_profile(
    "default",
    deadline=None,
    max_examples=100,
    derandomize="CI" in os.environ,  # in CI, only a change of the code makes a test fail
    suppress_health_check=[HealthCheck.too_slow],  # of a busy machine
)
settings.register_profile("thorough", settings.get_profile("default"), max_examples=1000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
if "NPADV_DATA" not in os.environ and DATA.is_dir():
    os.environ["NPADV_DATA"] = str(DATA)


@pytest.fixture
def run(capsys):
    """Return a function that runs npadv's command line and returns its exit code, stdout and stderr."""
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
    """Return a file with the weights of a softmax regression that the command line has trained on digits."""
    from npadv.cli import main

    out = tmp_path_factory.mktemp("trained") / "digits"
    assert main(["train", "softmax_regression", "--data", "digits", "--quiet", "--out", str(out)]) == 0
    return out / "weights.npz"
