"""The quantizer of softmax that integer attention computes: unnormalised numerators, divided by their own sum.

Rounding probabilities to 1/255 loses attention over many tokens: of 2048 equal ones each is 0.12 steps. So the
numerators ``exp(x - max)`` are rounded instead, of which the largest is always 1, and their sum divides the result.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.granularity import PerToken
from quantsim_encodings.formats import IntFormat

__all__ = ["UnnormalizedSoftmaxQuantizeDequantize"]


class UnnormalizedSoftmaxQuantizeDequantize(QuantizerBase):
    """For the output of a softmax over the last dimension: rounds numerators, and normalises again.

    With ``e = rint(p / max(p) * (2^bits - 1))`` it is ``e / sum(e)``. Nothing is calibrated. The gradient passes
    straight through. Rows that hold only zeros stay zero.

    Args:
        bits: Bits of a numerator, 2 to 16.

    Raises:
        ConfigurationError: ``bits`` is out of range.

    Example:
        >>> quantizer = UnnormalizedSoftmaxQuantizeDequantize(bits=2)
        >>> [round(p, 3) for p in quantizer(torch.tensor([0.5, 0.3, 0.2])).tolist()]
        [0.5, 0.333, 0.167]
    """

    needs_calibration = False

    def __init__(self, bits: int = 8) -> None:
        super().__init__()
        self._bits = _checked(bits)

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        if not x.is_floating_point() or x.numel() == 0:
            return x
        wide = x.detach().to(torch.promote_types(x.dtype, torch.float32))
        peak = wide.amax(dim=-1, keepdim=True)
        numerators = torch.round(wide / torch.where(peak > 0, peak, 1.0) * (2**self._bits - 1))
        result = (numerators / numerators.sum(dim=-1, keepdim=True).clamp_min(1.0)).to(x.dtype)
        if torch.is_grad_enabled() and x.requires_grad:
            return x + (result - x).detach()
        return result

    @property
    @override
    def bitwidth(self) -> int:
        """Bits of a numerator."""
        return self._bits

    @property
    @override
    def format(self) -> IntFormat:
        """The numerators."""
        return IntFormat(0, 2**self._bits - 1)

    @property
    @override
    def granularity(self) -> PerToken:
        """One scale a row."""
        return PerToken()

    @override
    def get_encodings(self) -> None:
        """None: the scale of a row is a number of the row."""
        return

    @override
    def persistent_settings(self) -> dict[str, Any]:
        return {**super().persistent_settings(), "bits": self._bits}

    @override
    def restore_settings(self, settings: Mapping[str, Any]) -> None:
        super().restore_settings(settings)
        self._bits = _checked(int(settings.get("bits", self._bits)))

    @override
    def extra_repr(self) -> str:
        return f"bits={self._bits}"


def _checked(bits: int) -> int:
    if not 2 <= bits <= 16:
        raise ConfigurationError(
            where="UnnormalizedSoftmaxQuantizeDequantize(bits)",
            got=repr(bits),
            expected="2 to 16",
            fix="take 8, which fits an integer matrix engine",
        )
    return bits
