"""The numeric rules of quantsim, each written once in plain torch; every backend is tested against these."""

from __future__ import annotations

from quantsim_kernels.reference import affine, affine_parameters, float_cast, operand_layout

__all__ = ["affine", "affine_parameters", "float_cast", "operand_layout"]
