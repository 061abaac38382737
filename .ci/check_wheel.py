"""Install the built wheel into an environment of its own and see that it has all its parts and nothing it should not need.

Usage: check_wheel.py DIST
"""

import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

PROBE = """
import sys
import npadv, npadv.nn, npadv.train, npadv.attacks, npadv.kernels
assert "__global__" in npadv.kernels.source("conv2d_1_direct"), "the wheel carries no kernels"
assert (npadv.kernels.sources.folder() / "cpu" / "cuda.h").is_file(), "the wheel carries no way to run kernels on a CPU"
for name in npadv.kernels.sources.names():
    npadv.kernels.sources.kernels_in(npadv.kernels.sources.translation_unit(name))
for module in ("matplotlib", "sklearn", "cupy", "jinja2", "tqdm", "pooch"):
    assert module not in sys.modules, f"importing npadv imported {module}"
print("wheel: npadv", npadv.__version__, "imports with numpy and scipy alone")
"""


def main(dist: Path) -> None:
    """Check the wheel and the sdist in a folder."""
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    inside = set(zipfile.ZipFile(wheel).namelist())
    for name in (
        "npadv/py.typed",
        "npadv/_kernels/conv2d_1_direct.cu",
        "npadv/_kernels/conv2d.cuh",
        "npadv/_kernels/cpu/cuda.h",
        "npadv/_kernels/sign_step.cu",
        "npadv/report/page.html.j2",
    ):
        assert name in inside, f"{wheel.name} has no {name}"
    with tarfile.open(sdist) as archive:
        members = {name.partition("/")[2] for name in archive.getnames()}
    for name in (
        "LICENSE",
        "README.md",
        "kernels/conv2d_1_direct.cu",
        "tests/conftest.py",
        "npadv/autodiff/gradient.py",
    ):
        assert name in members, f"{sdist.name} has no {name}"
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python = Path(folder) / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
        subprocess.run([python, "-c", PROBE], check=True, cwd=folder)
        subprocess.run([python, "-m", "npadv", "--version"], check=True, cwd=folder)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    main(Path(sys.argv[1]))
