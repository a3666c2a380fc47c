"""The encoding analyzer of the static presets: least squared error, every token counting alike."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError
from quantsim.quantization.analyzers import EncodingAnalyzer, MseEncodingAnalyzer, NonFinitePolicy
from quantsim.quantization.analyzers.error_search import Candidates
from quantsim.quantization.analyzers.histogram import Histogram
from quantsim.quantization.analyzers.min_max import observed_extremes

if TYPE_CHECKING:
    from quantsim.quantization.ranks import Ranks

__all__ = ["TokenMseEncodingAnalyzer"]

_CHUNK_ELEMENTS: Final = 1 << 20
_LOW_CANDIDATES: Final = 21
_HIGH_CANDIDATES: Final = 49
_SMALLEST_FRACTION: Final = 0.2


class TokenMseEncodingAnalyzer(MseEncodingAnalyzer):
    r"""Chooses the range with the smallest mean, over tokens, of squared error relative to the token's own energy.

    .. math:: \frac{1}{T} \sum_t \frac{\lVert \hat x_t - x_t \rVert^2}{\lVert x_t \rVert^2}

    Transformers put a few huge values into one token (the first, or a separator). Plain squared error, as min-max, then
    spends the
    grid on that token: on MiniLM's layers one value of 24 among millions below 5. But what follows normalises each
    token by itself (layer norm, softmax), so errors matter relative to their own token. A token of no energy does not
    count.

    Statistics are a streaming histogram in which each value weighs 1 / its token's energy. Bins have a power-of-two
    width around zero; when a value falls outside, the width doubles and neighbouring bins merge, so no count is ever
    split.

    Args:
        shape: Must hold one element: activations have one range.
        num_bins: Bins, half on each side of zero.
        token_dims: How many trailing dimensions make up one token: 1 for (..., features); for images (channels, height,
            width) 3, so that each sample counts alike.
        nonfinite: What to do with NaN and infinity.

    Raises:
        ConfigurationError: ``shape`` holds more than one element.

    Example:
        >>> tokens = torch.linspace(-1, 1, 384).repeat(200, 1)
        >>> tokens[0, 0] = 50.0
        >>> plain, by_token = MseEncodingAnalyzer(()), TokenMseEncodingAnalyzer(())
        >>> for analyzer in (plain, by_token):
        ...     analyzer.update_stats(tokens)
        >>> by_token.compute_encodings(255, False)[1] < plain.compute_encodings(255, False)[1] / 2
        tensor(True)
    """

    def __init__(
        self,
        shape: int | Sequence[int] = (),
        num_bins: int = 8192,
        *,
        token_dims: int = 1,
        nonfinite: NonFinitePolicy | str = NonFinitePolicy.RAISE,
    ) -> None:
        super().__init__(shape, num_bins, nonfinite=nonfinite)
        if any(size != 1 for size in self.shape):
            raise ConfigurationError(
                "tokens share one range",
                where=type(self).__name__,
                got=f"shape {self.shape}",
                expected="() or (1,)",
                fix="use MseEncodingAnalyzer for weights",
            )
        self.token_dims = token_dims

    @override
    def reset_stats(self) -> None:
        self._minimum: Tensor | None = None
        self._maximum: Tensor | None = None
        self._counts: Tensor | None = None
        self._exponent = 0  # bins are 2**exponent wide

    @property
    @override
    def has_stats(self) -> bool:
        return self._counts is not None

    @override
    def update_stats(self, x: Tensor) -> None:
        values = x.detach().to(torch.float32)
        minimum, maximum = observed_extremes(values.flatten(), (0,), self.nonfinite, type(self).__name__)
        if self.nonfinite is NonFinitePolicy.IGNORE:
            values = torch.where(torch.isfinite(values), values, 0.0)
            minimum, maximum = minimum.clamp(max=0.0), maximum.clamp(min=0.0)
        self._cover(minimum, maximum)
        assert self._counts is not None
        rows = values.reshape(-1, values.shape[values.dim() - self.token_dims :].numel() if values.dim() else 1)
        # Weights relative to the largest token would overflow for tiny ones; a float64 reciprocal does not.
        energy = rows.square().sum(1, dtype=torch.float64)
        weights = torch.where(energy > 0, energy.reciprocal(), 0.0)
        half = self.num_bins // 2
        for part, weight in zip(
            *(t.split(max(1, _CHUNK_ELEMENTS // rows.shape[1])) for t in (rows, weights)), strict=True
        ):
            index = torch.floor(part * 2.0**-self._exponent).to(torch.int64).add_(half).clamp_(0, self.num_bins - 1)
            scale = float(weight.max()) or 1.0
            relative = (weight / scale).to(torch.float32)[:, None].expand_as(index)
            counts = torch.zeros(self.num_bins, device=index.device)
            counts.scatter_add_(0, index.flatten(), relative.reshape(-1))
            self._counts += counts.double() * scale

    def _cover(self, minimum: Tensor, maximum: Tensor) -> None:
        """Makes the bins reach over the values to come."""
        half = self.num_bins // 2
        if self._minimum is not None and self._maximum is not None:
            minimum, maximum = torch.minimum(self._minimum, minimum), torch.maximum(self._maximum, maximum)
        self._minimum, self._maximum = minimum, maximum
        largest = max(abs(float(minimum)), abs(float(maximum)), torch.finfo(torch.float32).tiny)
        needed = int(torch.frexp(torch.tensor(largest / half, dtype=torch.float64)).exponent)
        if self._counts is None:
            self._exponent = needed
            self._counts = torch.zeros(self.num_bins, dtype=torch.float64, device=minimum.device)
        while self._exponent < needed:
            merged = self._counts.view(-1, 2).sum(1)
            self._counts = torch.zeros_like(self._counts)
            self._counts[half // 2 : half // 2 + half] = merged
            self._exponent += 1

    @override
    def merge(self, other: EncodingAnalyzer) -> None:
        self._check_mergeable(other)
        assert isinstance(other, TokenMseEncodingAnalyzer)
        if other._counts is None or other._minimum is None or other._maximum is None:
            return
        counts, exponent = other._counts, other._exponent
        self._cover(other._minimum, other._maximum)
        assert self._counts is not None
        half = self.num_bins // 2
        while exponent < self._exponent:
            merged = torch.zeros_like(counts)
            merged[half // 2 : half // 2 + half] = counts.view(-1, 2).sum(1)
            counts, exponent = merged, exponent + 1
        self._counts += counts.to(self._counts.device)

    @override
    def reduce_over(self, ranks: Ranks) -> None:
        """Brings the bins of all ranks to one width and adds up: what one process gets, but for rounding of sums."""
        if self._minimum is None or self._maximum is None:
            minimum, maximum = torch.tensor(math.inf), torch.tensor(-math.inf)
        else:
            minimum, maximum = self._minimum, self._maximum
        self._cover(ranks.smallest(minimum), ranks.largest(maximum))
        assert self._counts is not None
        self._counts = ranks.total(self._counts)

    @override
    def _compute_range(self, num_steps: int, is_symmetric: bool) -> tuple[Tensor, Tensor]:
        assert self._counts is not None
        assert self._minimum is not None
        assert self._maximum is not None
        width = 2.0**self._exponent
        half = self.num_bins // 2
        seen = self._counts.nonzero()[:, 0]
        first, last = (0, self.num_bins - 1) if len(seen) == 0 else (int(seen[0]), int(seen[-1]))
        counts = self._counts[first : last + 1]
        histogram = Histogram(
            minimum=self._minimum.reshape(1),
            maximum=self._maximum.reshape(1),
            lower=self._minimum.new_full((1,), (first - half) * width),
            step=self._minimum.new_full((1,), width),
            counts=(counts / counts.sum().clamp(min=torch.finfo(torch.float64).tiny))[None],
        )
        return self._range_of(histogram, num_steps, is_symmetric)

    @override
    def _asymmetric_candidates(self, minimum: Tensor, maximum: Tensor, steps: int) -> Candidates:
        """All pairs of a fraction of the observed minimum and one of the observed maximum."""
        low = (
            minimum[:, None, None]
            * torch.linspace(1, _SMALLEST_FRACTION, _LOW_CANDIDATES, device=minimum.device)[:, None]
        )
        high = maximum[:, None, None] * torch.linspace(
            1, _SMALLEST_FRACTION / 2, _HIGH_CANDIDATES, device=minimum.device
        )
        delta = ((high - low) / steps).clamp_(min=torch.finfo(torch.float32).tiny)
        return Candidates(delta=delta.flatten(1), offset=torch.round(low / delta).flatten(1))
