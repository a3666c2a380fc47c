"""Min-max calibration: the range is the smallest and the largest value observed."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.quantization.analyzers.base import EncodingAnalyzer, NonFinitePolicy, nonfinite_error
from quantsim.quantization.analyzers.grouping import arrange
from quantsim_kernels.reference.affine import calibration_range

if TYPE_CHECKING:
    from quantsim.quantization.ranks import Ranks

__all__ = ["MinMaxEncodingAnalyzer", "observed_extremes"]


def observed_extremes(
    x: Tensor, reduced: tuple[int, ...], nonfinite: NonFinitePolicy, where: str
) -> tuple[Tensor, Tensor]:
    """Smallest and largest finite value over some dimensions, in float32.

    A group without any finite value gives +inf and -inf.

    Args:
        x: Floating-point tensor with at least one element.
        reduced: Dimensions to reduce; all of them means one group.
        nonfinite: What to do with NaN and infinity.
        where: Whose data it is, for the error text.

    Raises:
        NonFiniteError: If there are such values and the policy is to raise.
    """
    minimum, maximum = _extremes(x, reduced)
    # NaN and infinity show in the extremes, so finite data costs no pass of its own.
    if not bool((torch.isfinite(minimum) & torch.isfinite(maximum)).all()):
        if nonfinite is NonFinitePolicy.RAISE:
            raise nonfinite_error(x, where)
        finite = torch.isfinite(x)
        minimum = _extremes(torch.where(finite, x, math.inf), reduced)[0]
        maximum = _extremes(torch.where(finite, x, -math.inf), reduced)[1]
    return minimum.to(torch.float32), maximum.to(torch.float32)


def _extremes(x: Tensor, reduced: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    if len(reduced) == x.dim():
        minimum, maximum = torch.aminmax(x)
        return minimum, maximum
    if not reduced:
        return x, x
    return x.amin(reduced), x.amax(reduced)


class MinMaxEncodingAnalyzer(EncodingAnalyzer):
    """Takes the smallest and the largest value observed, widened to include 0.

    Args:
        shape: Shape of the range.
        block_size: Elements of a block in each dimension, or ``None``.
        nonfinite: What to do with NaN and infinity.

    Example:
        >>> analyzer = MinMaxEncodingAnalyzer(shape=(1,))
        >>> analyzer.update_stats(torch.tensor([-0.5, 1.0]))
        >>> analyzer.compute_encodings(num_steps=255, is_symmetric=False)
        (tensor([-0.5000]), tensor([1.]))
        >>> analyzer.compute_encodings(num_steps=255, is_symmetric=True)
        (tensor([-1.0079]), tensor([1.]))
    """

    _minimum: Tensor | None = None
    _maximum: Tensor | None = None

    @override
    def update_stats(self, x: Tensor) -> None:
        view, reduced = arrange(x, self.shape, self.block_size)
        minimum, maximum = observed_extremes(view, reduced, self.nonfinite, type(self).__name__)
        self._absorb(minimum.flatten(), maximum.flatten())

    @override
    def reset_stats(self) -> None:
        self._minimum = self._maximum = None

    @property
    @override
    def has_stats(self) -> bool:
        return self._minimum is not None

    @override
    def merge(self, other: EncodingAnalyzer) -> None:
        other = self._check_mergeable(other)
        if other._minimum is not None and other._maximum is not None:
            self._absorb(other._minimum, other._maximum)

    @override
    def reduce_over(self, ranks: Ranks) -> None:
        if self._minimum is None or self._maximum is None:
            self._minimum = torch.full((math.prod(self.shape),), math.inf)
            self._maximum = -self._minimum
        self._minimum, self._maximum = ranks.smallest(self._minimum), ranks.largest(self._maximum)

    def _absorb(self, minimum: Tensor, maximum: Tensor) -> None:
        if self._minimum is not None and self._maximum is not None:
            minimum = torch.minimum(self._minimum, minimum.to(self._minimum.device))
            maximum = torch.maximum(self._maximum, maximum.to(self._maximum.device))
        self._minimum, self._maximum = minimum, maximum

    def _compute_range(self, num_steps: int, is_symmetric: bool) -> tuple[Tensor, Tensor]:
        assert self._minimum is not None
        assert self._maximum is not None
        # A group of which nothing finite was seen is (inf, -inf) and becomes the smallest range around 0.
        minimum, maximum = self._minimum.clamp(max=0.0), self._maximum.clamp(min=0.0)
        return calibration_range(minimum, maximum, 0, num_steps, is_symmetric)
