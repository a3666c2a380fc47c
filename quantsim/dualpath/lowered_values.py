"""What a node of a traced model becomes: codes on a grid, a constant, or arithmetic that waits for its grid.

An accelerator rounds once, where a quantizer stands. So what lies between two quantizers (a convolution, the norm and
the clipping behind it) is collected here, and becomes one integer node when the quantizer says on which grid.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, fx

from quantsim.dualpath.integer_graph import Dimension, Grid, IntegerOp, Value

__all__ = [
    "Accumulation",
    "ChannelAffine",
    "Clip",
    "Codes",
    "Constant",
    "Host",
    "Lowered",
    "Mapped",
    "MeanSquare",
    "Normalization",
    "Pending",
    "Probabilities",
    "Product",
    "Scores",
    "SoftmaxProduct",
    "StaysFloatError",
    "Sum",
    "is_on_grid",
    "same_grid",
]


class StaysFloatError(Exception):
    """An operation has no integer form here; the text says why."""


@dataclass(frozen=True)
class Host:
    """Computed by torch on the host: preparation of masks and ids, or an operation that stays float."""


@dataclass(frozen=True)
class Constant:
    """Depends on no input.

    Attributes:
        value: A tensor, or whatever else a node of a traced model gives.
        grid: The grid that a quantizer put it on, if one did.
    """

    value: Any
    grid: Grid | None = None


@dataclass(frozen=True)
class Codes:
    """Integers that a node of the integer graph makes, or that come in from the host."""

    value: Value

    @property
    def grid(self) -> Grid:
        """What they stand for."""
        assert self.value.grid is not None
        return self.value.grid

    @property
    def reach(self) -> int:
        """Largest magnitude of a code less its zero point."""
        return max(abs(self.grid.low - self.grid.zero_point), abs(self.grid.high - self.grid.zero_point))

    @property
    def scale(self) -> float:
        """The one scale of a tensor that has only one.

        Raises:
            StaysFloatError: There is one a channel.
        """
        if self.grid.axis is not None:
            raise StaysFloatError("its input has a scale for each channel")
        return float(self.grid.scale)


@dataclass(frozen=True)
class Clip:
    """The real numbers that a result is clipped to before it is rounded."""

    low: float = -math.inf
    high: float = math.inf

    def then(self, other: Clip) -> Clip:
        """This one, and another one after it."""
        low = min(max(self.low, other.low), other.high)
        return Clip(low, max(min(self.high, other.high), low))

    @property
    def is_open(self) -> bool:
        """Whether nothing is clipped."""
        return self.low == -math.inf and self.high == math.inf


class Pending:
    """Arithmetic that waits for the grid of its result."""


@dataclass(frozen=True)
class Mapped(Pending):
    """A function of each code.

    Attributes:
        codes: The operand.
        function: What it computes, on real numbers of one dimension.
        factor: With ``addend`` and ``clip`` the same as an affine map; None if it is none.
        addend: See ``factor``.
        clip: See ``factor``.
        square: Whether it is the square, of which a root mean square may be made.
    """

    codes: Codes
    function: Callable[[Tensor], Tensor]
    factor: float | None = None
    addend: float = 0.0
    clip: Clip = Clip()
    square: bool = False


@dataclass(frozen=True)
class Accumulation(Pending):
    """Sums of products (or of numbers) in 32-bit integers; real = sum * scale + offset.

    Attributes:
        op: Linear, convolution, matmul, mean or average pool.
        inputs: Names of the values that come in.
        shape: Of the result.
        scale: Of a step of the sum: one number, or one for each channel.
        offset: What is added, likewise.
        bound: Largest magnitude of the sum.
        axis: Dimension of the channels; None without.
        constants: Of the node.
        attributes: Of the node.
        correction: What the zero point of the operand adds to the sum, for each channel; None for ops without bias.
        clip: What comes after.
        module: Path of the module.
    """

    op: IntegerOp
    inputs: tuple[str, ...]
    shape: tuple[Dimension, ...]
    scale: np.ndarray
    offset: np.ndarray
    bound: int
    axis: int | None
    module: str
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)
    correction: np.ndarray | None = None
    clip: Clip = Clip()


@dataclass(frozen=True)
class ChannelAffine(Pending):
    """Scale and offset for each channel of codes: a norm with fixed statistics, a layer scale."""

    codes: Codes
    scale: np.ndarray
    offset: np.ndarray
    axis: int
    clip: Clip = Clip()


@dataclass(frozen=True)
class Sum(Pending):
    """``a * factor_a + b * factor_b``, clipped."""

    a: Codes
    factor_a: float
    b: Codes
    factor_b: float
    shape: tuple[Dimension, ...]
    clip: Clip = Clip()


@dataclass(frozen=True)
class Product(Pending):
    """``a * b * factor``, clipped."""

    a: Codes
    b: Codes
    factor: float
    shape: tuple[Dimension, ...]
    clip: Clip = Clip()


@dataclass(frozen=True)
class MeanSquare(Pending):
    """Mean over the last dimension of the squares, plus ``epsilon``; or the reciprocal of its root."""

    codes: Codes
    epsilon: float = 0.0
    is_root: bool = False


@dataclass(frozen=True)
class Normalization(Pending):
    """LayerNorm or RMSNorm over the last dimension.

    Attributes:
        codes: The operand.
        gain: One number for each index of the last dimension.
        offset: Likewise, or None.
        epsilon: What is added to variance or mean square.
        centred: Whether the mean is taken away (LayerNorm).
    """

    codes: Codes
    gain: np.ndarray
    offset: np.ndarray | None
    epsilon: float
    centred: bool


@dataclass(frozen=True)
class Scores(Pending):
    """What softmax reads: ``codes * factor + bias`` where the mask says True.

    Attributes:
        codes: The operand.
        factor: Of the real numbers that they stand for.
        bias: Real numbers that are added, or None.
        mask: Node of the host that makes it, or None.
    """

    codes: Codes
    factor: float = 1.0
    bias: Tensor | None = None
    mask: fx.Node | None = None


@dataclass(frozen=True)
class Probabilities(Pending):
    """Softmax of scores over the last dimension.

    Attributes:
        scores: Its operand.
        grid: Of the result, or None: no quantizer seen yet.
        bits: Of unnormalised numerators, which are divided by their sum after the product with the values; or None.
    """

    scores: Scores
    grid: Grid | None = None
    bits: int | None = None


@dataclass(frozen=True)
class SoftmaxProduct(Pending):
    """Unnormalised softmax times values."""

    probabilities: Probabilities
    values: Codes
    shape: tuple[Dimension, ...]


Lowered = Codes | Constant | Host | Pending


def same_grid(a: Grid, b: Grid) -> bool:
    """Whether two grids are one."""
    return (a.low, a.high) == (b.low, b.high) and is_on_grid(a, b)


def is_on_grid(codes: Grid, grid: Grid) -> bool:
    """Whether codes of the first grid are codes of the second."""
    return (
        (codes.zero_point, codes.axis) == (grid.zero_point, grid.axis)
        and grid.low <= codes.low
        and codes.high <= grid.high
        and np.array_equal(np.asarray(codes.scale), np.asarray(grid.scale))
    )
