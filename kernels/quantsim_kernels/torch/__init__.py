"""Fast kernels in plain torch, for the CPU; bit-equal to the reference."""

from __future__ import annotations

from quantsim_kernels.torch import affine, float_cast

__all__ = ["affine", "float_cast"]
