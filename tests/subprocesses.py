"""Python code in a process of its own: for what happens at import, with other settings of the environment."""

import os
import subprocess
import sys


def run_python(code, **environment):
    """Run some code, which must not fail, and return the text it printed."""
    settings = {"OPENBLAS_NUM_THREADS": "2", **environment}
    return subprocess.run(
        [sys.executable, "-c", code], env=os.environ | settings, capture_output=True, text=True, check=True, timeout=120
    ).stdout
