"""The proof on a GPU, in one command: it checks that everything is correct there, and measures how fast it is.

    python -m benchmarks gpu --all --out FOLDER        # at most eight minutes (--budget 480)
    python -m benchmarks gpu --parts a,d --out FOLDER  # some parts
    python -m benchmarks gpu --rehearse --out FOLDER   # without a GPU, on a stand-in for CuPy, with tiny sizes
    python -m benchmarks gpu --table                   # the README's table, from benchmarks/speed/gpu.json

It runs in the root of a checkout and needs NumPy, SciPy and CuPy. Nothing is installed or downloaded. PyTorch, pytest,
Hypothesis and compute-sanitizer are optional: a check that lacks one of them is reported as "not here".

====  =======================  ===================================================================================
part  file                     contents
====  =======================  ===================================================================================
a     ``machine.py``           the card and the versions; one kernel of each file compiled and run
b     ``correctness.py``       the GPU's tests; every kernel, then operations, networks, attacks, a defense and a game,
                               against NumPy; no hidden transfers or waits
c     ``training.py``          replayed CUDA graphs equal the steps that they record; training ends where the CPU ends
d     ``timings.py``           kernels against NVIDIA's libraries, a training step against PyTorch's, attacks against peers'
e     ``sanitizer.py``         compute-sanitizer over one small call of every kernel
f     ``kernel_times.py``      the time of each kernel in a captured training step
====  =======================  ===================================================================================

``FOLDER/gpu.json`` has the results. It is written anew after each of them, so a run that is killed keeps what it had.
``FOLDER/tracebacks/`` has the traceback of each failure.

**The files.** ``tasks.py`` says what a part is. ``worker.py`` runs the tasks of one part in a process of its own, so that a
crash or a hang ends one task and no more. ``supervisor.py`` starts the workers, divides the time among the parts and writes
the results. ``command.py`` is the command line, ``cases.py`` the list of the kernels' small calls, ``rows.py`` the list
of the timings.
"""
