"""Granularities: which elements of a tensor share one set of quantization parameters."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Flattened", "Granularity", "PerBlock", "PerBlocks", "PerChannel", "PerTensor", "PerToken"]


def _require_integer(owner: str, field: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or abs(value) >= 2**31:
        raise ValueError(f"{owner}.{field}: got {value!r}, expected an integer of at most 31 bits")


def _require_block_size(owner: str, value: object) -> None:
    _require_integer(owner, "block_size", value)
    if not isinstance(value, int) or not (value == -1 or value >= 1):
        raise ValueError(f"{owner}.block_size: got {value!r}, expected a positive integer, or -1 for a whole dimension")


class Granularity:
    """Base of all granularities; a subclass is a frozen dataclass."""

    __slots__ = ()


@dataclass(frozen=True)
class PerTensor(Granularity):
    """One set of parameters for the whole tensor."""


@dataclass(frozen=True)
class PerChannel(Granularity):
    """One set of parameters for each index along ``axis``.

    Args:
        axis: Dimension of the channels; negative counts from the last.

    Example:
        >>> PerChannel(0)
        PerChannel(axis=0)
    """

    axis: int

    def __post_init__(self) -> None:
        _require_integer("PerChannel", "axis", self.axis)


@dataclass(frozen=True)
class PerBlock(Granularity):
    """One set for each run of ``block_size`` elements along ``axis``, for each index of all other dimensions.

    The field also says *group*. For a weight of shape (out, in) ``PerBlock(1, 32)`` gives out × in/32 sets.

    Args:
        axis: Dimension that is cut into blocks; negative counts from the last.
        block_size: Elements in a block; -1 is the whole dimension.
    """

    axis: int
    block_size: int

    def __post_init__(self) -> None:
        _require_integer("PerBlock", "axis", self.axis)
        _require_block_size("PerBlock", self.block_size)


@dataclass(frozen=True)
class PerBlocks(Granularity):
    """One set for each block of an n-dimensional tiling.

    Args:
        block_size: Extent of a block in each dimension; -1 is the whole dimension.

    Example:
        >>> PerBlocks((1, 32)).block_size
        (1, 32)
    """

    block_size: tuple[int, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "block_size", tuple(self.block_size))
        for size in self.block_size:
            _require_block_size("PerBlocks", size)


@dataclass(frozen=True)
class PerToken(Granularity):
    """One set for each row of the last dimension (each token of a (batch, sequence, feature) activation)."""


@dataclass(frozen=True)
class Flattened(Granularity):
    """Several sets in row-major order whose layout the file did not say.

    AIMET's 0.6.1, 1.0.0 and torch-side files list the scales of a tensor one after another and name no axis; whoever
    knows the tensor (a quantizer with its shape) puts them in place, see ``quantsim_encodings.place``.

    Args:
        block_size: Elements in a block where the file says so (1.0.0 does), else ``None``.
        per_channel: Whether the file says that there is one set for each channel.
    """

    block_size: int | None = None
    per_channel: bool = False

    def __post_init__(self) -> None:
        if self.block_size is not None:
            _require_block_size("Flattened", self.block_size)
            if self.per_channel:
                raise ValueError("Flattened: got block_size and per_channel, expected at most one of them")
