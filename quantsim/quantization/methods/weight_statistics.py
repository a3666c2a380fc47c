"""SAWB: the clip of weights from two of their moments, anew whenever they have changed."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any, Final

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError
from quantsim.quantization.affine import QuantizeDequantize
from quantsim.quantization.analyzers.base import EncodingAnalyzer, NonFinitePolicy
from quantsim.quantization.analyzers.grouping import flatten_groups
from quantsim.quantization.analyzers.min_max import observed_extremes
from quantsim.quantization.base import QuantizerBase
from quantsim_kernels.reference.affine import minimum_scale

__all__ = ["SAWB_COEFFICIENTS", "SAWBEncodingAnalyzer", "SAWBQuantizeDequantize"]

SAWB_COEFFICIENTS: Final = MappingProxyType(
    {
        2: (2.540, 1.621),
        3: (6.950, 6.313),
        4: (11.798, 11.830),
        5: (16.647, 17.474),
        6: (21.118, 22.721),
        7: (24.896, 27.192),
        8: (25.874, 28.321),
    }
)
"""``c1`` and ``c2`` of ``alpha = c1 sqrt(E[w^2]) - c2 E|w|``, by bits.

Fitted by least squares, as the paper says, to the clips of least squared error of six distributions (uniform, normal,
Laplace, logistic, triangular, von Mises), on the grid of ``2^bits - 1`` integers around 0 that is used here."""


class SAWBEncodingAnalyzer(EncodingAnalyzer):
    """Statistics-aware weight binning (Choi et al. 2018): symmetric ranges of ``+-(c1 sqrt(E[w^2]) - c2 E|w|)``.

    Two moments say how heavy the tails are, and so where to clip them. The fit is within 10 % of the best clip up to
    4 bits; above, it clips heavy tails too early by up to 29 %. No range exceeds the largest magnitude seen.

    Args:
        shape: Shape of the range.
        block_size: Elements of a block in each dimension, or None.
        nonfinite: What to do with NaN and infinity; ignored ones count as zero.

    Example:
        >>> analyzer = SAWBEncodingAnalyzer(())
        >>> analyzer.update_stats(torch.randn(100000, generator=torch.Generator().manual_seed(0)))
        >>> _, alpha = analyzer.compute_encodings(15, is_symmetric=True)
        >>> 2.2 < float(alpha) < 2.5  # 2.36 is the best for 4 bits and a normal distribution
        True
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        block_size: Sequence[int] | None = None,
        *,
        nonfinite: NonFinitePolicy | str = NonFinitePolicy.RAISE,
    ) -> None:
        super().__init__(shape, block_size, nonfinite=nonfinite)
        self.reset_stats()

    @override
    def reset_stats(self) -> None:
        self._count = 0
        self._sums: Tensor | None = None
        self._largest: Tensor | None = None

    @property
    @override
    def has_stats(self) -> bool:
        return self._sums is not None

    @override
    def update_stats(self, x: Tensor) -> None:
        groups = flatten_groups(x.detach(), self.shape, self.block_size)
        observed_extremes(groups.flatten(), (0,), self.nonfinite, type(self).__name__)
        values = torch.where(torch.isfinite(groups), groups, 0.0).abs().to(torch.float64)
        self._absorb(values.shape[1], torch.stack([values.sum(1), values.square().sum(1)]), values.amax(1))

    @override
    def merge(self, other: EncodingAnalyzer) -> None:
        self._check_mergeable(other)
        assert isinstance(other, SAWBEncodingAnalyzer)
        if other._sums is not None and other._largest is not None:
            self._absorb(other._count, other._sums, other._largest)

    def _absorb(self, count: int, sums: Tensor, largest: Tensor) -> None:
        if self._sums is not None and self._largest is not None:
            sums = self._sums + sums.to(self._sums.device)
            largest = torch.maximum(self._largest, largest.to(self._largest.device))
        self._count, self._sums, self._largest = self._count + count, sums, largest

    @override
    def _compute_range(self, num_steps: int, is_symmetric: bool) -> tuple[Tensor, Tensor]:
        assert self._sums is not None
        assert self._largest is not None
        if not is_symmetric:
            raise ConfigurationError(
                "SAWB is for grids around zero",
                where=type(self).__name__,
                got="an asymmetric grid",
                expected="a symmetric one",
                fix="make the quantizer with symmetric=True",
            )
        mean, square = self._sums / self._count
        alpha = sawb_clip(mean, square.sqrt(), self._largest, num_steps).to(torch.float32)
        half = (num_steps + 1) // 2  # of 2^bits integers; one more lies below zero than above
        step = alpha / (num_steps - half)
        return -half * step, alpha


def sawb_clip(mean: Tensor, root_mean_square: Tensor, largest: Tensor, num_steps: int) -> Tensor:
    """Where to clip, from ``E|w|``, ``sqrt(E[w^2])`` and ``max |w|``.

    Raises:
        ConfigurationError: If there are no coefficients for the grid.
    """
    bits = num_steps.bit_length()
    if bits not in SAWB_COEFFICIENTS:
        raise ConfigurationError(
            "SAWB has no coefficients for this grid",
            where="SAWBEncodingAnalyzer",
            got=f"{num_steps + 1} integers",
            expected="2 to 8 bits",
        )
    first, second = SAWB_COEFFICIENTS[bits]
    alpha = first * root_mean_square - second * mean
    # Two or three numbers may have moments that no distribution of the fit has.
    alpha = torch.where(alpha > 0, torch.minimum(alpha, largest), largest)
    return alpha.clamp_min(minimum_scale(0, num_steps) * num_steps)


class SAWBQuantizeDequantize(QuantizeDequantize):
    """Statistics-aware weight binning (Choi et al. 2018): clips weights where two of their moments say.

    See `SAWBEncodingAnalyzer` for the formula. Nothing is learned. In training mode the range follows the weight, in
    each forward with gradients; in evaluation, and once `freeze` was called, it stays as it is.

    Args:
        *arguments: As of `quantsim.quantization.affine.QuantizeDequantize`, symmetric.
        **named: Likewise.

    Raises:
        ConfigurationError: If the grid is not symmetric or has not 2 to 8 bits.

    Example:
        >>> quantizer = SAWBQuantizeDequantize(shape=(), bitwidth=2, symmetric=True)
        >>> weight = torch.nn.Parameter(torch.linspace(-1, 1, 1001))
        >>> with quantizer.compute_encodings():
        ...     _ = quantizer(weight)
        >>> before = float(quantizer.get_scale())
        >>> _ = weight.data.mul_(2)
        >>> _ = quantizer(weight)
        >>> round(float(quantizer.get_scale()) / before, 6)
        2.0
    """

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        given = (*arguments, named.get("encoding_analyzer"))
        if not any(isinstance(argument, EncodingAnalyzer) for argument in given):
            self.encoding_analyzer = SAWBEncodingAnalyzer(self.shape, self.block_size)
        if not self.has_zero_offset or self.bitwidth not in SAWB_COEFFICIENTS:
            raise ConfigurationError(
                where=type(self).__name__,
                got=f"qmin={self.qmin}, qmax={self.qmax}, symmetric={self.symmetric}",
                expected="a symmetric grid of 2 to 8 bits",
            )
        self.min.requires_grad_(False)
        self.max.requires_grad_(False)

    @override
    def unfreeze(self) -> None:
        self.allow_overwrite(True)

    @property
    @override
    def is_frozen(self) -> bool:
        return not self.is_overwrite_allowed

    @override
    def forward(self, input: Tensor) -> Tensor:
        if self.training and torch.is_grad_enabled() and self._overwrite_allowed and not self._observation_depth:
            self._follow(input)
        return QuantizerBase.forward(self, input)

    @torch.no_grad()
    def _follow(self, x: Tensor) -> None:
        """Sets the range to that of ``x``, if that has elements, without waiting for a device."""
        if x.numel() == 0:
            return
        groups = flatten_groups(x.detach(), self.shape, self.block_size).abs().to(torch.float32)
        steps = self._qmax - self._qmin
        alpha = sawb_clip(groups.mean(1), groups.square().mean(1).sqrt(), groups.amax(1), steps).reshape(self.shape)
        self.max.copy_(alpha)
        self.min.copy_(alpha * (self._qmin / self._qmax))
        self._forget_derived()
        self._initialized = True
