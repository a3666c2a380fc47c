"""The numeric rules of quantsim, each written once in plain torch; every backend is tested against these."""

from __future__ import annotations

from quantsim_kernels.reference import affine, float_cast

__all__ = ["affine", "float_cast"]
