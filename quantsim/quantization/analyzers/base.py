"""What all encoding analyzers share: the interface, the shape they work in, and the policy for NaN and infinity."""

from __future__ import annotations

import io
from abc import ABC, abstractmethod
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Self

import torch
from torch import Tensor

from quantsim.errors import ConfigurationError, NonFiniteError
from quantsim.quantization.analyzers.grouping import normalise_shape

if TYPE_CHECKING:
    from quantsim.quantization.ranks import Ranks

__all__ = ["EncodingAnalyzer", "NonFinitePolicy"]


class NonFinitePolicy(StrEnum):
    """What to do with NaN and infinity among observed values."""

    RAISE = "raise"
    """Raise `NonFiniteError` with their counts; the statistics stay as they were."""
    IGNORE = "ignore"
    """Leave them out."""

    @classmethod
    def parse(cls, value: NonFinitePolicy | str) -> NonFinitePolicy:
        """Returns the policy of that name.

        Raises:
            ConfigurationError: If there is none.
        """
        try:
            return cls(value)
        except ValueError:
            raise ConfigurationError(
                "no such policy for NaN and infinity",
                where="nonfinite",
                got=repr(value),
                expected=" or ".join(repr(policy.value) for policy in cls),
            ) from None


class EncodingAnalyzer(ABC):
    """Collects statistics of tensors, batch after batch, and turns them into a range for each set of parameters.

    Statistics of several batches are those of their union. Nothing is searched before `compute_encodings`.

    Args:
        shape: Shape of the range, broadcast against the observed tensors; with ``block_size``, blocks per dimension.
        block_size: Elements of a block in each dimension; -1 is the whole dimension.
        nonfinite: What to do with NaN and infinity.
    """

    def __init__(
        self,
        shape: int | Sequence[int],
        block_size: Sequence[int] | None = None,
        *,
        nonfinite: NonFinitePolicy | str = NonFinitePolicy.RAISE,
    ) -> None:
        self.shape = normalise_shape(shape)
        self.block_size = None if block_size is None else tuple(block_size)
        self.nonfinite = NonFinitePolicy.parse(nonfinite)

    @abstractmethod
    def update_stats(self, x: Tensor) -> None:
        """Adds a tensor to the statistics.

        Raises:
            NonFiniteError: If ``x`` holds NaN or infinity and the policy is to raise.
            ShapeError: If ``x`` does not fit ``shape`` and ``block_size``.
        """

    @abstractmethod
    def reset_stats(self) -> None:
        """Forgets all statistics."""

    @property
    @abstractmethod
    def has_stats(self) -> bool:
        """Whether anything was observed since the last reset."""

    @abstractmethod
    def merge(self, other: EncodingAnalyzer) -> None:
        """Adds the statistics of another analyzer of the same kind and settings (of another process, say).

        Raises:
            ConfigurationError: If the other is of another kind or has another shape or block size.
        """

    def reduce_over(self, ranks: Ranks) -> None:
        """Makes the statistics those of all ranks together, the same on each; a collective operation.

        Ranks without statistics take part; one at least must have some. Here every rank gets all analyzers and merges
        them in the order of the ranks, on the CPU. Analyzers that can do with less communication override this.

        Args:
            ranks: Who calibrates together.
        """
        buffer = io.BytesIO()
        if self.has_stats:
            torch.save(self, buffer)
        received = ranks.everyone(buffer.getvalue())
        self.reset_stats()
        for pickled in received:
            if pickled:
                # Of this run's own processes, which send what they like anyway: pickles are as safe as the run is.
                self.merge(torch.load(io.BytesIO(pickled), map_location="cpu", weights_only=False))

    @abstractmethod
    def _compute_range(self, num_steps: int, is_symmetric: bool) -> tuple[Tensor, Tensor]:
        """Returns float32 minimum and maximum with as many elements as ``shape``."""

    @torch.no_grad()
    def compute_encodings(self, num_steps: float, is_symmetric: bool) -> tuple[Tensor, Tensor]:
        """Computes the range from all statistics so far.

        Args:
            num_steps: Steps of the grid, ``qmax - qmin`` (255 for 8 bits).
            is_symmetric: Whether zero must lie in the middle of the grid.

        Returns:
            Minimum and maximum, float32, of shape ``shape``.

        Raises:
            ConfigurationError: If ``num_steps`` is not positive, or nothing was observed.
        """
        steps = int(num_steps)
        if steps <= 0:
            raise ConfigurationError(
                "the grid needs at least one step", where="num_steps", got=str(num_steps), expected="1 or more"
            )
        if not self.has_stats:
            raise ConfigurationError(
                "nothing was observed yet",
                where=type(self).__name__,
                expected="at least one call of update_stats with a non-empty tensor",
            )
        minimum, maximum = self._compute_range(steps, bool(is_symmetric))
        return minimum.reshape(self.shape), maximum.reshape(self.shape)

    def _check_mergeable(self, other: EncodingAnalyzer) -> Self:
        if type(other) is not type(self) or other.shape != self.shape or other.block_size != self.block_size:
            raise ConfigurationError(
                "analyzers can be merged only with their like",
                where=f"{type(self).__name__}.merge",
                got=f"{type(other).__name__}(shape={other.shape}, block_size={other.block_size})",
                expected=f"{type(self).__name__}(shape={self.shape}, block_size={self.block_size})",
            )
        return other  # pyright: ignore[reportReturnType] - the types were compared

    def __repr__(self) -> str:
        block = "" if self.block_size is None else f", block_size={self.block_size}"
        return f"{type(self).__name__}(shape={self.shape}{block})"


def nonfinite_error(x: Tensor, where: str) -> NonFiniteError:
    """Counts NaN and infinities of ``x`` and returns the error that reports them."""
    nan_count, infinity_count = int(torch.isnan(x).sum()), int(torch.isinf(x).sum())
    return NonFiniteError(
        "calibration data is not finite",
        nan_count=nan_count,
        infinity_count=infinity_count,
        where=where,
        got=f"{nan_count} NaN and {infinity_count} infinities among {x.numel()} elements of shape {tuple(x.shape)}",
        expected="finite numbers",
        fix="correct the data or the layer that produced it, or leave such values out with nonfinite='ignore'",
    )
