"""Compile every kernel for every GPU generation that CI answers for, on a machine that has no GPU.

NVRTC, NVIDIA's compiler as a library, needs no driver: ``pip install nvidia-cuda-nvrtc cuda-bindings``. A compile
error, a warning or a register spill fails the run; the number of registers is printed and left free.

    python .ci/compile_kernels.py [FILE.cu ...]        without files: all of kernels/*.cu
"""

import re
import sys
from pathlib import Path
from typing import NamedTuple

from cuda.bindings import nvrtc

from npadv.kernels.sources import expand

KERNELS = Path(__file__).resolve().parents[1] / "kernels"
ARCHITECTURES = ("sm_75", "sm_80", "sm_90")  # Turing, Ampere, Hopper
REALS = ("float", "double")


class Compiled(NamedTuple):
    """What the compiler made of one file, and what it had to say."""

    log: str
    cubin_bytes: int  # 0: it did not compile

    @property
    def registers(self) -> dict[str, int]:
        """Registers a thread, for each kernel."""
        used = re.findall(r"Function properties for (\w+)\n.*\n.*Used (\d+) registers", self.log)
        return {kernel: int(n) for kernel, n in used}

    @property
    def complaint(self) -> str:
        """Why this fails the run; empty when it does not."""
        if not self.cubin_bytes:
            return "does not compile"
        if "warning" in self.log:
            return "compiles with warnings"
        if not self.registers:
            return "has no kernel, or ptxas reports in a form this script does not know"
        spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill", self.log))
        return f"spills registers to memory ({spilled} bytes)" if spilled else ""


def compile_kernel(code: str, name: str, architecture: str, real: str) -> Compiled:
    """Compile ``code`` down to machine code, so that ptxas runs and reports what it used."""

    def call(function, *args):
        status, *result = function(*args)
        if status != nvrtc.nvrtcResult.NVRTC_SUCCESS:
            raise RuntimeError(f"{function.__name__}: {status.name}")
        return result[0] if result else None

    options = [f"--gpu-architecture={architecture}", "-std=c++17", f"-Dreal={real}", "--ptxas-options=-v"]
    program = call(nvrtc.nvrtcCreateProgram, code.encode(), name.encode(), 0, [], [])
    (status,) = nvrtc.nvrtcCompileProgram(program, len(options), [option.encode() for option in options])
    log = bytearray(call(nvrtc.nvrtcGetProgramLogSize, program))
    call(nvrtc.nvrtcGetProgramLog, program, log)
    compiled = status == nvrtc.nvrtcResult.NVRTC_SUCCESS
    size = call(nvrtc.nvrtcGetCUBINSize, program) if compiled else 0
    call(nvrtc.nvrtcDestroyProgram, program)
    return Compiled(log.decode().rstrip("\0\n"), size)


def main(files: list[str]) -> int:
    """Compile ``files`` and print a line for each, architecture and precision; 1 if any fails, or if there are none."""
    paths = [Path(f) for f in files] or sorted(KERNELS.glob("*.cu"))
    failed = not paths
    for path in paths:
        code = expand(path.read_text(encoding="utf-8"), path.name, path.parent)
        for architecture in ARCHITECTURES:
            for real in REALS:
                result = compile_kernel(code, path.name, architecture, real)
                registers = ", ".join(f"{kernel} {n}" for kernel, n in result.registers.items())
                what = f"{path.name} {architecture} {real:6}"
                if result.complaint:
                    failed = True
                    print(f"{what} FAILED: {result.complaint}\n{result.log}", file=sys.stderr)
                else:
                    print(f"{what} registers: {registers}; cubin {result.cubin_bytes} bytes")
    if not paths:
        print(f"no kernels found in {KERNELS}", file=sys.stderr)
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
