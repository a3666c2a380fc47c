"""What a simulated photonic engine does to a real sentence encoder: against its levels, and against its light."""

from __future__ import annotations

from quantsim.experiments.optical_sweep.document import as_markdown
from quantsim.experiments.optical_sweep.results import SweepPoint, SweepResult
from quantsim.experiments.optical_sweep.run import run_sweep
from quantsim.experiments.optical_sweep.settings import PHOTON_HARDWARE, VARIANTS, Hardware, SweepSettings

__all__ = [
    "PHOTON_HARDWARE",
    "VARIANTS",
    "Hardware",
    "SweepPoint",
    "SweepResult",
    "SweepSettings",
    "as_markdown",
    "run_sweep",
]
