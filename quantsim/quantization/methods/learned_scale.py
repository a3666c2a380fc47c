"""What quantizers share that learn one positive number for each grid: a step size, or where to clip."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError
from quantsim.quantization.affine import QuantizeDequantize
from quantsim.quantization.affine.exchange import range_of
from quantsim.quantization.analyzers import SqnrEncodingAnalyzer
from quantsim.quantization.analyzers.base import EncodingAnalyzer
from quantsim.quantization.analyzers.exact_mse import ExactMseEncodingAnalyzer
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.exact_division import dividend_for
from quantsim_kernels.reference.affine import minimum_scale

__all__ = ["ERROR_POWER", "LearnedScaleQuantizeDequantize"]

ERROR_POWER = 2.4
"""Power of the error ``|x^ - x|`` whose mean the first range makes smallest."""


class LearnedScaleQuantizeDequantize(QuantizeDequantize):
    """Base of quantizers whose scale is ``|p| / d``: ``p`` is learned, ``d`` a constant of the grid.

    A subclass names ``p`` and says ``d``. In place of ``min`` and ``max`` of the other affine quantizers there is
    ``p``, and an ``offset`` (minus the zero point), which calibration sets and training leaves alone. Everything else
    is as there: the arguments, calibration, encodings, ``get_scale()``, ``set_range(min, max)``.

    The first value comes from calibration: by default from the range of least mean ``|x^ - x|^2.4``, searched on the
    values themselves for several scales, and on a histogram for one.
    """

    learned_name: ClassVar[str]
    """Attribute name of ``p``."""

    offset: Tensor

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        if self.zero_point_shift:
            raise ConfigurationError(
                "a learned scale has no grid without a zero",
                where=f"{type(self).__name__}(zero_point_shift)",
                got=repr(self.zero_point_shift),
                expected="0.0",
                fix="use affine.QuantizeDequantize",
            )
        given = (*arguments, named.get("encoding_analyzer"))
        if not any(isinstance(argument, EncodingAnalyzer) for argument in given):
            self.encoding_analyzer = self._default_analyzer()
        for name in ("min", "max"):
            del self._parameters[name]
        self._range_parameter_names = ()
        self.register_range_parameter(self.learned_name, self.shape)
        self.register_range_parameter("offset", self.shape, learnable=False)

    def _default_analyzer(self) -> EncodingAnalyzer:
        if self.block_size is None and all(size == 1 for size in self.shape):
            return SqnrEncodingAnalyzer(self.shape, gamma=1.0, p=ERROR_POWER)
        return ExactMseEncodingAnalyzer(self.shape, self.format, block_size=self.block_size, power=ERROR_POWER)

    # ---------------------------------------------------------------- what a subclass provides

    def divisor(self) -> float:
        """The constant ``d`` of the grid."""
        raise NotImplementedError

    # ---------------------------------------------------------------- scale and offset

    def learned(self) -> Tensor:
        """The Parameter ``p``."""
        values = self._parameters[self.learned_name]
        assert values is not None
        return values

    def scale(self) -> Tensor:
        """The scale in the quantizer's shape, connected to ``p``; never below the smallest that is used anywhere.

        A ``p`` that training has made too small still gets its gradient, so that it can grow again.
        """
        scale = self.learned().abs() / self.divisor()
        least = scale.detach().clamp_min(minimum_scale(self._qmin, self._qmax))
        return least + (scale - scale.detach()) if scale.requires_grad else least

    @override
    def _scale_and_offset(self) -> tuple[Tensor, Tensor] | None:
        return (self.scale(), self.offset) if self.is_initialized() else None

    @override
    def _kernel_arguments(self) -> tuple[Tensor, Tensor | None]:
        return self.kernel_operand(self.scale()), self._offset_operand(self.offset)

    def _offset_operand(self, offset: Tensor) -> Tensor | None:
        return None if self.has_zero_offset else self.kernel_operand(offset)

    @override
    def forward(self, input: Tensor) -> Tensor:
        return QuantizerBase.forward(self, input)

    # ---------------------------------------------------------------- ranges in and out

    @override
    def _range_parameter(self, name: str) -> Tensor:
        if name not in ("min", "max"):
            return super()._range_parameter(name)
        with torch.no_grad():
            ends = range_of(self.scale(), self.offset.to(torch.float64), self._qmin, self._qmax)
        return ends[0 if name == "min" else 1]

    @override
    @torch.no_grad()
    def assign_range_parameters(self, **values: Tensor) -> None:
        if values.keys() & {"min", "max"}:
            ends = [values.pop(end, None) for end in ("min", "max")]
            low, high = (
                self._range_parameter(end) if value is None else torch.as_tensor(value, dtype=torch.float32)
                for end, value in zip(("min", "max"), ends, strict=True)
            )
            scale, offset = self.scale_from_range(low, high.to(low.device))
            values[self.learned_name], values["offset"] = dividend_for(scale, self.divisor()), offset
        self._check_offset(values.get("offset"))
        super().assign_range_parameters(**values)

    def _check_offset(self, offset: Tensor | None) -> None:
        """Raises if the quantizer cannot have this offset."""
