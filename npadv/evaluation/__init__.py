"""Measuring robustness: how far, from where, and whether the measurement can be believed. One file per measurement.

Models are callables and attacks are functions; a result holds a few numbers for each example, on the host.
"""

from npadv.evaluation.batchwise import Interrupted
from npadv.evaluation.church import ChurchWindows, church_windows
from npadv.evaluation.distances import Distances, minimal_distances, minimal_eps
from npadv.evaluation.masking import (
    Check,
    larger_budget_does_not_help,
    noise_as_good,
    one_step_beats_many,
    transfer_beats_white_box,
    unbounded_falls_short,
)
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
