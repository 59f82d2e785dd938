"""Batched scaling-law fits: `fit` for the engine's laws and for a callable of your own.

>>> from megascale import fitting
>>> result = fitting.fit("wsd", steps, tokens, groups=target_loss, bootstrap="parametric")
>>> result["B_opt"], result.interval("B_opt")
"""

from megascale.fitting.api import fit, fit_frame, use_threads
from megascale.fitting.catalogue import law_names
from megascale.fitting.result import FitResult
from megascale.fitting.status import Flag, Status

__all__ = ["FitResult", "Flag", "Status", "fit", "fit_frame", "law_names", "use_threads"]
