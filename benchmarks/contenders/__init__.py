"""The same tasks and attacks in each library, written as users of that library would write them.

``NAME_tasks.py`` holds training steps, gradients and single convolutions for ``python -m benchmarks cpu``;
``NAME_attacks.py`` holds the attacks of a library for ``python -m benchmarks attacks`` and ``tests/test_peers*.py``.
"""
