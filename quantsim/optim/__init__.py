"""Training with optimizer state and weights in low precision."""

from __future__ import annotations

from quantsim.optim.low_precision import LowPrecisionOptimizer
from quantsim.optim.stored_format import StoredFormat, stored_format

__all__ = ["LowPrecisionOptimizer", "StoredFormat", "stored_format"]
