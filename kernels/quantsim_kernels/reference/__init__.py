"""The numeric rules of quantsim, each written once in plain torch; every backend is tested against these."""

from __future__ import annotations

from quantsim_kernels.reference import (
    affine,
    affine_parameters,
    float_cast,
    float_codes,
    noise,
    operand_layout,
    rounding,
)

__all__ = ["affine", "affine_parameters", "float_cast", "float_codes", "noise", "operand_layout", "rounding"]
