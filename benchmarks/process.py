"""Starts a worker process in a clean environment, sends it requests, and ends it."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

ROOT = Path(__file__).resolve().parents[1]

# Variables that tune one library would favour one contender, so workers start without them; the results list the removed ones.
# The number of threads is set in every variable that one of the libraries reads.
TUNING_PREFIXES = (
    "OPENBLAS_",
    "GOTO_",
    "MKL_",
    "OMP_",
    "GOMP_",
    "KMP_",
    "BLIS_",
    "DNNL_",
    "ONEDNN_",
    "ATEN_",
    "XLA_",
    "MALLOC_",
)
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class WorkerError(RuntimeError):
    """A request to a worker failed. The message names the worker, the request and the error."""


class MissingLibraryError(RuntimeError):
    """A contender's library is not installed."""


class UnsupportedError(RuntimeError):
    """A contender cannot run a task. The message gives the reason."""


def tuning(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that tune a numerical library; workers are started without them.

    >>> tuning({"OPENBLAS_CORETYPE": "Haswell", "PATH": "/bin"})
    {'OPENBLAS_CORETYPE': 'Haswell'}
    """
    return {name: value for name, value in sorted(environment.items()) if name.startswith(TUNING_PREFIXES)}


def worker_environment(threads: int, extra: Mapping[str, str] = {}, *, keep_tuning: bool = False) -> dict[str, str]:
    """Return a worker's environment: this process's without tuning variables, the number of threads, and ``extra``."""
    removed = {} if keep_tuning else tuning(os.environ)
    environment = {name: value for name, value in os.environ.items() if name not in removed}
    path = os.pathsep.join([str(ROOT), *filter(None, [environment.get("PYTHONPATH")])])
    return environment | dict.fromkeys(THREAD_VARIABLES, str(threads)) | {"PYTHONPATH": path} | dict(extra)


class Worker:
    """A process that runs one contender's tasks.

    Parameters
    ----------
    name : str
        Its name in messages.
    command : sequence of str
        The program. It reads requests and writes answers as ``benchmarks.worker`` does.
    environment : mapping
        All of its environment variables.
    limit : float
        Seconds within which it must answer.
    """

    extra = "bench"  # npadv's optional extra that installs the contender's library

    def __init__(
        self, name: str, command: Sequence[str], environment: Mapping[str, str], *, limit: float = 600.0
    ) -> None:
        self.name, self.limit = name, limit
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        # In a separate session, Ctrl-C reaches only the parent, which then ends its workers in close().
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=dict(environment),
            start_new_session=True,
        )
        self._unread = b""

    @classmethod
    def of(
        cls,
        name: str,
        module: str,
        *,
        threads: int,
        options: Mapping[str, Any] = {},
        environment: Mapping[str, str] = {},
        keep_tuning: bool = False,
    ) -> Self:
        """Start a contender of this package by its module."""
        command = [sys.executable, "-m", "benchmarks.worker", module, json.dumps({"threads": threads, **options})]
        return cls(name, command, worker_environment(threads, environment, keep_tuning=keep_tuning))

    @property
    def pid(self) -> int:
        """The process's number."""
        return self._process.pid

    def ask(self, do: str, **fields: Any) -> dict[str, Any]:
        """Send a request and return its answer.

        Raises
        ------
        MissingLibraryError
            If the contender's library is not installed.
        UnsupportedError
            If the contender does not support the task.
        WorkerError
            If the worker ended, answered too late, answered no JSON, or answered with an error.
        """
        about = f"{do} {fields['name']}" if "name" in fields else do
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"do": do, **fields}).encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise WorkerError(self._ended(about)) from None
        line = self._line(about)
        try:
            answer = json.loads(line)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise WorkerError(f"{self.name}, asked to {about}: expected a line of JSON, got {line[:80]!r}")
        if "missing" in answer:
            raise MissingLibraryError(
                f'{self.name} needs {answer["missing"]}, which is missing; run: pip install -e ".[{self.extra}]"'
            )
        if "skip" in answer:
            raise UnsupportedError(f"{self.name}: {answer['skip']}")
        if "error" in answer:
            raise WorkerError(f"{self.name}, asked to {about}: {answer['error']}")
        return answer

    def _line(self, about: str) -> bytes:
        assert self._process.stdout is not None
        deadline = time.monotonic() + self.limit
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise WorkerError(f"{self.name}, asked to {about}: no answer within {self.limit:g} s")
                chunk = os.read(self._process.stdout.fileno(), 65536)
                if not chunk:
                    raise WorkerError(self._ended(about))
                self._unread += chunk
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _ended(self, about: str) -> str:
        code = self._process.wait()
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").strip().splitlines()
        return (
            f"{self.name}, asked to {about}: ended with exit code {code}: {lines[-1] if lines else 'no error message'}"
        )

    def close(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):  # a request that it has not read
                    pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()
