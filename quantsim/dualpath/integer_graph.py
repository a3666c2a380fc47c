"""The integer graph: what a model computes on hardware, as data.

A graph is a list of nodes in the order of computation. All that flows between nodes are integers; every number that a
node needs is an integer too. What each op computes is written once, in `quantsim_kernels.reference.integer`; executors
differ in how they compute it, never in what.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import numpy as np

__all__ = ["BatchMultiple", "Dimension", "Grid", "IntegerGraph", "IntegerNode", "IntegerOp", "Value"]


class IntegerOp(StrEnum):
    """Ops of integer graphs; `quantsim_kernels.reference.integer` holds a function of the same name for each."""

    LINEAR = "linear"
    CONVOLUTION = "convolution"
    MATMUL = "matmul"
    ADD = "add"
    MULTIPLY = "multiply"
    SCALE_SHIFT = "scale_shift"
    REQUANTIZE = "requantize"
    TABLE = "table"
    CLAMP = "clamp"
    NEGATE = "negate"
    MEAN = "mean"
    AVERAGE_POOL = "average_pool"
    MAX_POOL = "max_pool"
    LAYER_NORM = "layer_norm"
    RMS_NORM = "rms_norm"
    SOFTMAX = "softmax"
    SOFTMAX_MATMUL = "softmax_matmul"
    EMBEDDING = "embedding"
    RESHAPE = "reshape"
    TRANSPOSE = "transpose"
    SLICE = "slice"
    TAKE = "take"
    CONCATENATE = "concatenate"
    EXPAND = "expand"
    PAD = "pad"
    ROLL = "roll"


DTYPES: Final = ("bool", "uint8", "int8", "uint16", "int16", "int32", "int64")
"""NumPy's names of the types that values may have; 4-bit codes are stored in int8 or uint8."""


@dataclass(frozen=True)
class BatchMultiple:
    """A length that grows with the batch: ``factor`` times the size of the graph's batch dimension."""

    factor: int = 1

    def __str__(self) -> str:
        return "batch" if self.factor == 1 else f"{self.factor}*batch"


Dimension = int | BatchMultiple
"""A length: fixed, or a multiple of the batch."""


@dataclass(frozen=True)
class Grid:
    """What the integers of a value stand for: ``real = (integer - zero_point) * scale``.

    Attributes:
        scale: One number, or one for each index of ``axis``; float64, so that a float32 scale is held exactly.
        zero_point: The integer that stands for 0.
        low: Smallest integer that occurs.
        high: Largest integer that occurs.
        axis: The dimension along which the scale varies, or None.
    """

    scale: float | np.ndarray
    zero_point: int
    low: int
    high: int
    axis: int | None = None

    @property
    def dtype(self) -> str:
        """The narrowest stored type that holds ``low`` to ``high``, as NumPy names it."""
        for name in ("uint8", "int8", "uint16", "int16", "int32"):
            limits = np.iinfo(name)
            if limits.min <= self.low and self.high <= limits.max:
                return name
        return "int64"


@dataclass(frozen=True)
class Value:
    """A tensor of integers.

    Attributes:
        name: Unique in the graph.
        shape: Lengths of the dimensions.
        dtype: One of `DTYPES`.
        grid: What the integers stand for; None for ids and masks.
    """

    name: str
    shape: tuple[Dimension, ...]
    dtype: str
    grid: Grid | None = None


@dataclass(frozen=True)
class IntegerNode:
    """One op on integers.

    Attributes:
        name: Unique in the graph; by the path of the module in the model it comes from.
        op: What it computes.
        inputs: Names of values, in the order of the op's operands.
        output: Name of the value that it makes.
        constants: Integer arrays, by the op's parameter: weights, biases, multipliers, tables.
        attributes: Plain numbers, by the op's parameter.
        module: Path of the module that it comes from, empty for the model itself.
    """

    name: str
    op: IntegerOp
    inputs: tuple[str, ...]
    output: str
    constants: Mapping[str, np.ndarray] = field(default_factory=dict)
    attributes: Mapping[str, int | str | bool | Sequence[int] | Sequence[Dimension] | None] = field(
        default_factory=dict
    )
    module: str = ""


@dataclass(frozen=True)
class IntegerGraph:
    """Nodes in the order of computation, and the values between them.

    Attributes:
        nodes: Each reads only inputs and outputs of nodes before it.
        values: By name: the inputs, and every node's output.
        inputs: Names of the values that come from outside.
        outputs: Names of the values that leave.
        batch: Batch size of the example inputs that the graph was made with.
    """

    nodes: tuple[IntegerNode, ...]
    values: Mapping[str, Value]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    batch: int = 1
