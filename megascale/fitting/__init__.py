"""Batched scaling-law fits: `fit` for the engine's laws and for a callable of your own.

>>> from megascale import fitting
>>> result = fitting.fit("wsd", steps, tokens, groups=target_loss, bootstrap="parametric")
>>> result["B_opt"], result.interval("B_opt")
"""

from megascale.fitting.api import fit, fit_frame
from megascale.fitting.arguments import use_threads
from megascale.fitting.catalogue import law_names
from megascale.fitting.history import History
from megascale.fitting.history_fit import fit_history
from megascale.fitting.history_law import FORMS, HistoryLaw
from megascale.fitting.history_result import HistoryFit, HistoryRun, Scales
from megascale.fitting.result import FitResult
from megascale.fitting.status import Flag, Status

__all__ = [
    "FORMS",
    "FitResult",
    "Flag",
    "History",
    "HistoryFit",
    "HistoryLaw",
    "HistoryRun",
    "Scales",
    "Status",
    "fit",
    "fit_frame",
    "fit_history",
    "law_names",
    "use_threads",
]
