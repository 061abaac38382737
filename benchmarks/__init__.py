"""The speed of npadv, measured against PyTorch on the same processor, in one run.

    pip install -e ".[bench]"
    python -m benchmarks cpu                    # all workloads, about 15 minutes; writes benchmarks/speed/cpu.json
    python -m benchmarks cpu --only c1 f        # some workloads; prints, writes nothing
    python -m benchmarks cpu --check            # three runs; fails where a ratio exceeds its bar in two of them
    python -m benchmarks attacks --only lbfgs   # npadv's L-BFGS attack against SciPy's solver; prints, writes nothing
    python -m benchmarks attacks --only jsma    # npadv's attack against other libraries' (pip install -e ".[peers]")
    python -m benchmarks gpu --out FOLDER       # on a machine with a GPU: is everything correct, and how fast? (benchmarks/gpu)
    python -m benchmarks draw                   # redraws benchmarks/speed/cpu.png from the JSON

**Reading the figures.** A ratio is npadv's time divided by PyTorch's, so below 1 npadv is faster. Both run eagerly, in
float32, with the same number of threads. Beside each ratio stand its quartiles over the rounds. If the quartiles lie on both
sides of the bar, the measurement was too noisy to say whether the bar holds. "at most" is the bar, which no change may
exceed; "aim" is the goal.

Convolutional networks have two baselines, because PyTorch's time depends on two settings. ``torch`` uses PyTorch's defaults.
``torch tuned`` stores images and filters in the channels_last order and starts the process with settings that make glibc keep
freed memory (``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_TRIM_THRESHOLD_``); without them, every step maps its large activations anew.

**What makes the comparison fair.**

- Each contender is a separate process. It sleeps, blocked on a pipe, while another one runs. Contenders take turns (see
  ``timing.py``), ratios are taken within a round, and samples that other processes disturbed are repeated.
- All contenders start without the environment variables that tune a library (``OPENBLAS_*``, ``MKL_*``, ``MALLOC_*`` ...: see
  ``process.py``), because these would speed up or slow down one contender alone. The results list the removed variables.
  ``--keep-tuning`` keeps them.
- All contenders compute the same function from the same weights: the tests compare their losses and gradients, and their
  losses along training steps.
- Each contender is written as a user of its library would write it. Where PyTorch has several spellings, the fastest is
  used. PyTorch's attacks run the same forward passes and return the same report as npadv's, but do not check their input.
- A single convolution gets its images in the memory order in which its own library would store them.

**The files.** ``workloads.py`` is the table of all comparisons and ``problems.py`` has the weights and batches they start
from. ``contenders/NAME_tasks.py`` implements the tasks in each library. ``worker.py`` runs a contender's tasks in its own
process and ``process.py`` starts such a process and talks to it. ``timing.py`` takes turns and computes ratios.
``compare.py`` runs the workloads, ``figures.py`` measures memory, whole commands and scaling. ``table.py`` and ``draw.py``
present the results. ``attacks.py``, with ``attacks_lbfgs.py``, ``attacks_peers.py``, ``contenders/NAME_attacks.py`` and
``contenders/victims.py``, is the command ``attacks``. ``results/`` holds training runs; they do not measure speed.
"""
