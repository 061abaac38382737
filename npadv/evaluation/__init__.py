"""Measuring robustness: accuracy under attack, distances, transfer, and signs that a measurement misleads.

One file per measurement. Models are callables and attacks are functions; a result holds a few numbers for each example, on
the host. An example's result does not depend on its batch. These descriptions hold for every measurement unless its own
differ:

Parameters
----------
model : callable
    Maps a batch (N, ...) to logits (N, K), recorded by the tape.
x : (N, ...) array
    The examples, within the attack's box.
y : (N,) integers
    The true classes.
batch_size : int
    The number of examples to evaluate at a time, which bounds the memory.
progress : bool, optional
    Draw a progress bar; by default only on a terminal.

Raises
------
ValueError
    An argument is not as described. The message names it.
Interrupted
    After Ctrl-C. Its ``result`` is the measurement of the examples that were finished.
"""

from npadv.attacks.docstrings import complete_docstring
from npadv.evaluation.batchwise import Interrupted
from npadv.evaluation.church import ChurchWindows, church_windows
from npadv.evaluation.distances import Distances, minimal_distances, minimal_eps
from npadv.evaluation.masking import Check
from npadv.evaluation.masking_attacks import noise_as_good, one_step_beats_many, transfer_beats_white_box
from npadv.evaluation.masking_budget import larger_budget_does_not_help, unbounded_falls_short
from npadv.evaluation.masking_checks import masking_checks
from npadv.evaluation.masking_loss import more_steps_do_not_help, zero_gradients
from npadv.evaluation.norm_demonstration import NormDemonstration, norm_demonstration
from npadv.evaluation.rates import Rate, wilson
from npadv.evaluation.robustness import RobustnessCurve, robustness_curve
from npadv.evaluation.transfer import TransferMatrix, transfer_matrix

__all__ = [
    "Check",
    "ChurchWindows",
    "Distances",
    "Interrupted",
    "NormDemonstration",
    "Rate",
    "RobustnessCurve",
    "TransferMatrix",
    "church_windows",
    "larger_budget_does_not_help",
    "masking_checks",
    "minimal_distances",
    "minimal_eps",
    "more_steps_do_not_help",
    "noise_as_good",
    "norm_demonstration",
    "one_step_beats_many",
    "robustness_curve",
    "transfer_beats_white_box",
    "transfer_matrix",
    "unbounded_falls_short",
    "wilson",
    "zero_gradients",
]

for _name in __all__:
    complete_docstring(globals()[_name], __doc__)
