"""The encoding analyzer of the presets' weights: least squared error, measured by quantizing the weights themselves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.quantization.analyzers.base import EncodingAnalyzer, NonFinitePolicy
from quantsim.quantization.analyzers.grouping import flatten_groups
from quantsim.quantization.analyzers.min_max import observed_extremes
from quantsim_encodings.formats import FloatFormat, IntFormat
from quantsim_kernels import affine_quantize_dequantize, float_quantize_dequantize
from quantsim_kernels.reference.affine import calibration_range, scale_and_offset

if TYPE_CHECKING:
    from quantsim.quantization.ranks import Ranks

__all__ = ["ExactMseEncodingAnalyzer"]

_CHUNK_ELEMENTS: Final = 1 << 19
_SHRINKS: Final = 36
_FLOAT_PLACES: Final = 52
_REFINEMENTS: Final = (-0.2, -0.16, -0.12, -0.08, -0.04, 0.0, 0.04, 0.08, 0.12, 0.16, 0.2)


class ExactMseEncodingAnalyzer(EncodingAnalyzer):
    """Tries ranges on the observed values and takes, for each channel or block, the one of least squared error.

    A histogram stands for values by bin centres, which suits millions of activations. A block of a weight holds 32
    numbers: here they are kept, quantized by the kernel that will quantize them, and compared, which is both exact and
    cheaper.

    Integer grids: the observed range shrunk to between 100 % and 20 % (2 and 3 bits), 35 % (up to 6) or 60 %;
    asymmetric ones then have both ends moved by up to 20 %. Floating-point grids: the largest value is put at
    different places of the two highest binades, because the relative error of a format depends on where in a binade
    values lie; none is clipped by more than a fifth.

    Args:
        shape: Shape of the range.
        format: The grid.
        block_size: Elements of a block in each dimension, or None.
        power: Of the error that is summed; 2 is the squared one, more weighs large errors more.
        nonfinite: What to do with NaN and infinity; ignored ones count as zero.

    Example:
        >>> weight = torch.cat([torch.linspace(-1, 1, 63), torch.tensor([3.0])])
        >>> analyzer = ExactMseEncodingAnalyzer((), IntFormat.from_bits(3, signed=True))
        >>> analyzer.update_stats(weight)
        >>> minimum, maximum = analyzer.compute_encodings(7, is_symmetric=True)
        >>> float(maximum) < 3
        True
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        format: IntFormat | FloatFormat,
        *,
        block_size: Sequence[int] | None = None,
        power: float = 2.0,
        nonfinite: NonFinitePolicy | str = NonFinitePolicy.RAISE,
    ) -> None:
        super().__init__(shape, block_size, nonfinite=nonfinite)
        self.format = format
        self.power = float(power)
        self.reset_stats()

    @override
    def reset_stats(self) -> None:
        self._values: list[Tensor] = []

    @property
    @override
    def has_stats(self) -> bool:
        return bool(self._values)

    @override
    def update_stats(self, x: Tensor) -> None:
        groups = flatten_groups(x.detach(), self.shape, self.block_size)
        observed_extremes(groups.flatten(), (0,), self.nonfinite, type(self).__name__)
        values = torch.where(torch.isfinite(groups), groups, 0.0).to(torch.float32)
        self._values.append(values)

    @override
    def merge(self, other: EncodingAnalyzer) -> None:
        self._check_mergeable(other)
        assert isinstance(other, ExactMseEncodingAnalyzer)
        self._values += [values.clone() for values in other._values]

    @override
    def reduce_over(self, ranks: Ranks) -> None:
        """Gives every rank the values of all."""
        nothing = torch.empty(math.prod(self.shape), 0, device=self._values[0].device if self._values else None)
        self._values = [ranks.joined(torch.cat([nothing, *self._values], dim=1))]

    @override
    def _compute_range(self, num_steps: int, is_symmetric: bool) -> tuple[Tensor, Tensor]:
        values = torch.cat(self._values, dim=1)
        ranges = [
            self._search_float(part)
            if isinstance(self.format, FloatFormat)
            else self._search_int(part, num_steps, is_symmetric)
            for part in values.split(max(1, _CHUNK_ELEMENTS // values.shape[1]))
        ]
        return torch.cat([low for low, _ in ranges]), torch.cat([high for _, high in ranges])

    def _errors(self, differences: Tensor) -> Tensor:
        """Sum of each row's errors; overwrites the differences."""
        powers = differences.square_() if self.power == 2.0 else differences.abs_().pow_(self.power)
        return powers.sum(1)

    def _search_float(self, values: Tensor) -> tuple[Tensor, Tensor]:
        assert isinstance(self.format, FloatFormat)
        largest = values.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny)
        best = _Best(largest)
        for factor in torch.linspace(0.8, 2.0, _FLOAT_PLACES).tolist():
            scale = (largest * (factor / self.format.max)).clamp(min=torch.finfo(torch.float32).tiny)
            quantized = float_quantize_dequantize(values, scale[:, None], self.format)
            best.offer(self._errors(quantized.sub_(values)), -largest * factor, largest * factor)
        return best.low, best.high

    def _search_int(self, values: Tensor, steps: int, is_symmetric: bool) -> tuple[Tensor, Tensor]:
        qmin, qmax = (-((steps + 1) // 2), steps // 2) if is_symmetric else (0, steps)
        minimum, maximum = values.amin(1).clamp(max=0.0), values.amax(1).clamp(min=0.0)
        minimum, maximum = calibration_range(minimum, maximum, 0, steps, is_symmetric)
        best = _Best(maximum)

        def offer(low: Tensor, high: Tensor) -> None:
            scale, offset = scale_and_offset(low, high, qmin, qmax, is_symmetric)
            quantized = affine_quantize_dequantize(values, scale[:, None], offset[:, None], qmin, qmax)
            best.offer(self._errors(quantized.sub_(values)), low, high)

        smallest = 0.2 if steps < 8 else 0.35 if steps < 64 else 0.6
        for factor in torch.logspace(0.0, math.log10(smallest), _SHRINKS).tolist():
            offer(minimum * factor, maximum * factor)
        if not is_symmetric:
            low, high = best.low, best.high
            for below in _REFINEMENTS:
                for above in _REFINEMENTS:
                    offer(low * (1 + below), high * (1 + above))
        return best.low, best.high


class _Best:
    """The range of least error of each group, among those offered so far."""

    def __init__(self, like: Tensor) -> None:
        self.error = torch.full_like(like, torch.inf)
        self.low = torch.zeros_like(like)
        self.high = torch.zeros_like(like)

    def offer(self, error: Tensor, low: Tensor, high: Tensor) -> None:
        better = error < self.error
        self.error = torch.where(better, error, self.error)
        self.low = torch.where(better, low, self.low)
        self.high = torch.where(better, high, self.high)
