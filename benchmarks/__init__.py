"""How fast npadv is, measured against PyTorch on the same processor, in one run.

    pip install -e ".[bench]"
    python -m benchmarks cpu                    # everything, about a quarter of an hour; writes benchmarks/speed/cpu.json
    python -m benchmarks cpu --only c1 f        # some rows, printed only
    python -m benchmarks cpu --check            # three runs; fails where a ratio exceeds its bar in two of them
    python -m benchmarks attacks --only lbfgs   # the attacks beside the way they are usually computed; printed only
    python -m benchmarks attacks --only jsma    # and beside other libraries' (pip install -e ".[peers]")
    python -m benchmarks draw                   # redraws benchmarks/speed/cpu.png from the JSON

**Reading the figures.** A ratio is npadv's time over PyTorch's: below 1 npadv is faster. Both are eager float32 with the same
number of threads. Beside each ratio stand its quartiles over the rounds: a ratio whose quartiles straddle its bar says that
the machine was restless, not that the bar holds. "at most" is what a change must not exceed, "aim" what is worked towards.

Convolutional networks have two baselines, since PyTorch's time depends on two settings: ``torch`` as it comes; ``torch
tuned`` with images and filters in the channels_last order and with glibc told to keep freed memory
(``MALLOC_MMAP_THRESHOLD_``, ``MALLOC_TRIM_THRESHOLD_``), without which each step maps its large activations anew.

**What makes it fair.**

- Each side is a process of its own, which waits, blocked on a pipe, while another one runs. Sides take turns, see
  ``timing.py``; ratios are taken within a round; samples that other processes disturbed are taken again.
- All start without the shell's tuning (``OPENBLAS_*``, ``MKL_*``, ``MALLOC_*`` ...: see ``process.py``), which would speed up
  or slow down one of them; the results say what was taken away. ``--keep-tuning`` leaves it.
- All compute the same from the same weights: the tests compare losses and gradients of every side, and losses along steps.
- Each side is written as its users would write it, and where PyTorch has several spellings, in its fastest. PyTorch's
  attacks do what npadv's do (the same forward passes, the same report) but for npadv's checks of its input.
- A single convolution gets its images in the memory order in which the library itself would have them.

**Where things are.** ``attacks.py`` and ``attacks_peers.py`` are a command of their own, with ``sides/victims.py`` and the
sides of foolbox, torchattacks and the Adversarial Robustness Toolbox; all else belongs to ``cpu``.
``workloads.py`` is the table of what is compared; ``sides/`` does it in each library; ``problems.py`` is
what all start from; ``worker.py`` and ``process.py`` are the two ends of a pipe; ``timing.py`` the rounds and the ratios;
``compare.py`` runs rows, ``figures.py`` what has no bar; ``table.py`` and ``draw.py`` show them. ``results/`` holds training
runs, which are no matter of speed.
"""
