"""Every fault that the CPU runner is there to find, planted in planted.cu, is found and named; what is sound is passed."""

import re
from pathlib import Path

import numpy as np
import pytest
from kernel_cases import needs_compiler

from npadv.kernels import cpu

pytestmark = needs_compiler
every_build = pytest.mark.parametrize("build", cpu.BUILDS)
PLANTED = Path(__file__).with_name("planted.cu").read_text()


def run(kernel, *, blocks=1, elements=64, shared=0, build="fast", order="forward"):
    y = np.zeros(elements, np.float32)
    module = cpu.Module(code='#line 1 "planted.cu"\n' + PLANTED)
    with cpu.running(build=build, order=order):
        module.get_function(kernel)((blocks,), (64,), (y,), shared_mem=shared)
    return y


def pattern(kernel, message):
    """The message with `here`, `there` and `of_a_template` replaced by the places that planted.cu marks with them."""
    lines = PLANTED.splitlines()
    (start,) = (i for i, line in enumerate(lines) if f" {kernel}(" in line)
    end = next((i for i in range(start, len(lines)) if lines[i] == "}"), len(lines))
    marks = {lines[i].partition("  // ")[2]: i + 1 for i in range(start, end)}
    marks["of_a_template"] = next(i + 1 for i, line in enumerate(lines) if line.endswith("// of_a_template"))
    return re.sub(r"\b(here|there|of_a_template)\b", lambda found: rf"planted\.cu:{marks[found[1]]}", message)


RACES = {
    "barrier_forgotten": (
        r"block \(0, 0, 0\), thread \(32, 0, 0\): race on shared memory, byte \d+: this thread reads it at here, "
        r"and thread 31 of the same block writes it at there, with nothing to order the two$"
    ),
    "warp_barrier_forgotten": r"race on shared memory, byte \d+: .* at there, and thread [01] of the same block",
    "warp_barrier_between_warps": (
        r"thread \(0, 0, 0\): race on shared memory, .*: this thread reads it at here, and thread 32 .* writes it at there"
    ),
    "warp_barrier_without_lane_7": r"thread \([57], 0, 0\): race .* reads it at here, and thread [57] .* writes it at there",
    "warp_barrier_too_early": r"race on shared memory, .* this thread writes it at there, and thread 0 .* reads it at here",
    "shuffle_taken_for_a_barrier": r"race on shared memory, .* this thread reads it at here, and .* writes it at there",
    "two_threads_write_one_element": (
        r"thread \(1, 0, 0\): race on y, byte 0: this thread writes it at here, and thread 0 .* writes it at here"
    ),
    "two_blocks_add_to_one_element": (
        r"block \(1, 0, 0\), thread \(0, 0, 0\): race on y, byte 0: this thread reads it at here, "
        r"and thread 0 of the block run 1 blocks before writes it at here"
    ),
    "update_and_plain_write": (
        r"thread \(4, 0, 0\): race on y, byte 0: .* updates \(atomically\) it at here, and thread 3 .* writes it at there"
    ),
    "neighbour_read_while_overwritten": r"race on y, byte \d+: this thread writes it at here, and thread .* reads it at here",
    "one_element_never_written": (
        r"thread \(0, 0, 0\): uninitialised: reads shared memory, .* at here, which no thread of this block has written$"
    ),
    "written_by_the_block_before": r"block \(1, 0, 0\), thread \(0, 0, 0\): uninitialised: .* at here",
    "shared_memory_of_a_template": r"thread \(0, 0, 0\): uninitialised: reads shared memory, byte \d+, at of_a_template",
    "one_past_the_end": r"thread \(63, 0, 0\): out of bounds: .* at here, 0 bytes past the end of y, which has 256$",
    "number_half_past_the_end": r"out of bounds: reads 4 bytes at here, 0 bytes past the end of y, which has 256$",
    "one_before_the_beginning": r"thread \(0, 0, 0\): out of bounds: writes 4 bytes at here, 4 bytes before the begin of y",
    "past_dynamic_shared_memory": (
        r"thread \(63, 0, 0\): out of bounds: .* at here, 0 bytes past the end of dynamic shared memory, which has 256$"
    ),
}
MEMORY = {
    "one_past_the_end": r"thread \(63, 0, 0\): AddressSanitizer: heap-buffer-overflow .*here",
    "one_before_the_beginning": r"thread \(0, 0, 0\): AddressSanitizer: heap-buffer-overflow .*here",
    "past_a_shared_array": r"thread \(63, 0, 0\): AddressSanitizer: global-buffer-overflow .*here|thread \(63, 0, 0\): .*here:",
    "past_a_row_of_a_shared_array": (
        r"thread \(7, 0, 0\): here:\d+: runtime error: index 8 out of bounds for type 'float \[8\]'"
    ),
    "past_dynamic_shared_memory": r"thread \(63, 0, 0\): AddressSanitizer: use-after-poison .*here",
    "past_an_array_of_its_own": r"thread \(4, 0, 0\): here:\d+: runtime error: index 4 out of bounds for type 'float \[4\]'",
    "misaligned_vector": r"thread \(0, 0, 0\): here:\d+: runtime error: .* misaligned address .*float4",
    "overflowing_integer": (
        r"thread \(1, 0, 0\): here:\d+: runtime error: signed integer overflow: 1073741824 \+ 1073741824 cannot be represented"
    ),
}
DIVERGENT = {
    "barrier_that_some_have_left": (
        r"block \(0, 0, 0\): divergent barrier: 16 of 64 threads wait in __syncthreads\(\) at here, 48 have returned$"
    ),
    "two_barriers": (
        r"divergent barrier: 16 of 64 threads wait in __syncthreads\(\) at here, "
        r"48 of 64 threads wait in __syncthreads\(\) at there$"
    ),
    "half_a_warp_shuffles": (
        r"divergent barrier: 32 of 64 threads wait in __shfl_down_sync\(\) at here, "
        r"32 of 64 threads wait in __syncthreads\(\) at there$"
    ),
    "two_masks": (
        r"divergent barrier: 32 of 64 threads wait in __shfl_sync\(\) at here, "
        r"32 of 64 threads wait in __syncthreads\(\) at there$"
    ),
    "lane_outside_its_mask": r"thread \(1, 0, 0\): __shfl_sync\(\) at here: the thread's own lane is not in its mask 0x1$",
    "trap": r"thread \(9, 0, 0\): __trap\(\)$",
}


def found(kernel, message, **how):
    with pytest.raises(cpu.KernelFault, match=rf"^{kernel}: .*({pattern(kernel, message)})") as raised:
        run(kernel, **how)
    return raised.value


@pytest.mark.parametrize("kernel", RACES)
def test_the_watched_build_finds(kernel):
    blocks = 2 if "block" in kernel else 1
    found(
        kernel,
        RACES[kernel],
        blocks=blocks,
        elements=128 if kernel == "written_by_the_block_before" else 64,
        shared=256,
        build="races",
    )


@pytest.mark.parametrize("kernel", MEMORY)
def test_the_sanitizers_build_finds(kernel):
    fault = found(kernel, MEMORY[kernel], shared=256, build="memory")
    assert "planted.cu" in fault.report
    assert ("Shadow bytes around the buggy address" in fault.report) == ("AddressSanitizer" in str(fault))


@every_build
@pytest.mark.parametrize("kernel", DIVERGENT)
def test_every_build_reports_a_barrier_that_not_all_reach_and_does_not_hang(kernel, build):
    found(kernel, DIVERGENT[kernel], build=build)


@pytest.mark.parametrize("order", cpu.ORDERS)
@pytest.mark.parametrize("kernel", [kernel for kernel, message in RACES.items() if "race" in message])
def test_a_race_is_found_in_any_order_of_threads(kernel, order):
    found(kernel, "race on|uninitialised", blocks=2 if "block" in kernel else 1, build="races", order=order)


@pytest.mark.parametrize("order", cpu.ORDERS)
@pytest.mark.parametrize("kernel", re.findall(r"\b(sound_\w+)\(", PLANTED))
def test_what_is_ordered_is_no_race(kernel, order):
    blocks = 2 if kernel in ("sound_atomics", "sound_readers", "sound_constants") else 1
    results = [run(kernel, blocks=blocks, elements=192, build=build, order=order) for build in cpu.BUILDS]
    for result in results:
        np.testing.assert_array_equal(result, results[0])
    assert results[0].any() == (kernel != "sound_readers")


def test_every_planted_kernel_is_used():
    kernels = re.findall(r"__global__ void (\w+)\(", PLANTED)
    assert len(kernels) == len(set(kernels))
    assert {k for k in kernels if not k.startswith("sound_")} == {*RACES, *MEMORY, *DIVERGENT}


def test_after_a_fault_the_next_launch_is_right():
    for build in ("fast", "races"):
        with pytest.raises(cpu.KernelFault):
            run("two_barriers", build=build)
        assert run("sound_barrier", build=build).all()


@pytest.mark.parametrize("build", ["races", "memory"])
def test_reading_an_array_that_was_not_given_is_found(build):
    code = '#line 1 "k.cu"\nextern "C" __global__ void k(real* y, const real* x) { y[threadIdx.x] = x[threadIdx.x]; }'
    y = np.zeros(64, np.float32)
    message = r"thread \(0, 0, 0\): (out of bounds: reads 4 bytes at k\.cu:1|.*k\.cu:1:.* null pointer)"
    with cpu.running(build=build), pytest.raises(cpu.KernelFault, match=message):
        cpu.Module(code=code).get_function("k")((1,), (64,), (y, np.uintp(0)))
