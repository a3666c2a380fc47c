"""How integers lie in a memory: tiles of an array of processing elements, rows in words, codes in bits."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Final, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from quantsim.errors import ConfigurationError

__all__ = ["FirstCode", "MemoryLayout", "MemoryTiling", "TileOrder", "narrowest_bits"]

WIDTHS: Final = (1, 2, 4, 8, 16, 32, 64)
"""Bits that a code may take."""

_Length = Annotated[int, Field(ge=1, le=65536)]


class TileOrder(StrEnum):
    """Which tile of a weight matrix follows in memory."""

    INPUTS_FIRST = "inputs_first"
    """The next inputs of the same outputs: sums stay in the processing elements until they are complete."""
    OUTPUTS_FIRST = "outputs_first"
    """The next outputs with the same inputs: inputs stay while the weights pass."""


class FirstCode(StrEnum):
    """Where the first code of a word is."""

    LOW = "low"
    """In the least significant bits: code ``i`` of a word is ``word[i * bits +: bits]`` in Verilog."""
    HIGH = "high"
    """In the most significant bits, so that a hexadecimal line reads from left to right."""


class MemoryTiling(BaseModel):
    """How a memory is cut for an array of processing elements.

    The weights of a layer are a matrix of outputs times inputs; for convolutions, the inputs are those of one position
    of the window. A tile is ``rows`` outputs by ``columns`` inputs, each of its rows one word; what a tile reaches over
    the matrix is 0. Everything else, such as the test vectors, has ``columns`` numbers of its last dimension in a word,
    and each row begins with a new word. Of what has one dimension only (biases, multipliers, tables), each number is a
    word.

    Example:
        >>> MemoryTiling(rows=4, columns=8).order.value
        'inputs_first'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    rows: _Length = 16
    """Outputs of a tile."""
    columns: _Length = 16
    """Inputs of a tile, which is codes in a word."""
    order: TileOrder = TileOrder.INPUTS_FIRST
    """Which tile follows."""
    first_code: FirstCode = FirstCode.LOW
    """Which bits of a word are its first code."""
    channels_last: bool = False
    """Whether a convolution's inputs run over the window and in it over channels, or the other way, as in torch."""
    weight_bits: int | None = Field(default=None, ge=2, le=64)
    """Bits of each weight; if not given, the fewest of 2, 4, 8 and so on that hold the layer's."""

    @model_validator(mode="after")
    def _known_width(self) -> Self:
        if self.weight_bits is not None and self.weight_bits not in WIDTHS:
            raise ValueError(f"weight_bits: got {self.weight_bits}, expected one of {', '.join(map(str, WIDTHS[1:]))}")
        return self

    def of_weights(self, shape: Sequence[int], bits: int) -> MemoryLayout:
        """The layout of a layer's weights, shape ``(outputs, ...)``.

        Example:
            >>> MemoryTiling(rows=2, columns=4).of_weights((3, 5), 8).words
            8
        """
        axes = tuple(range(len(shape)))
        if self.channels_last and len(shape) > 2:
            axes = (0, *axes[2:], 1)
        return MemoryLayout(
            shape=tuple(shape),
            axes=axes,
            outputs=shape[0],
            inputs=math.prod(shape[1:]),
            rows=self.rows,
            columns=self.columns,
            order=self.order,
            first_code=self.first_code,
            bits=bits,
            signed=True,
        )

    def of_rows(self, shape: Sequence[int], bits: int, *, signed: bool) -> MemoryLayout:
        """The layout of anything else.

        Example:
            >>> layout = MemoryTiling(columns=4).of_rows((3, 5), 8, signed=False)
            >>> layout.words, layout.word_bits
            (6, 32)
        """
        is_line = len(shape) < 2
        return MemoryLayout(
            shape=tuple(shape),
            axes=tuple(range(len(shape))),
            outputs=math.prod(shape) if is_line else math.prod(shape[:-1]),
            inputs=1 if is_line else shape[-1],
            rows=1,
            columns=1 if is_line else self.columns,
            order=TileOrder.INPUTS_FIRST,
            first_code=self.first_code,
            bits=bits,
            signed=signed,
        )


class MemoryLayout(BaseModel):
    """How one array of integers lies in its memory.

    The array, its dimensions in the order ``axes``, is a matrix of ``outputs`` times ``inputs``. That is cut into tiles
    of ``rows`` times ``columns``, filled up with 0, and each row of a tile is a word.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    shape: tuple[int, ...]
    """Lengths of the array's dimensions."""
    axes: tuple[int, ...]
    """The array's dimensions in the order in which they are made a matrix."""
    outputs: int = Field(ge=0)
    """Rows of the matrix."""
    inputs: int = Field(ge=0)
    """Columns of the matrix."""
    rows: _Length
    """Rows of a tile."""
    columns: _Length
    """Columns of a tile: codes in a word."""
    order: TileOrder
    """Which tile follows."""
    first_code: FirstCode
    """Which bits of a word are its first code."""
    bits: int
    """Of a code."""
    signed: bool
    """Whether codes are in two's complement."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.bits not in WIDTHS:
            raise ValueError(f"bits: got {self.bits}, expected one of {', '.join(map(str, WIDTHS))}")
        if sorted(self.axes) != list(range(len(self.shape))):
            raise ValueError(f"axes: got {self.axes}, expected the dimensions of shape {self.shape}")
        if min(self.shape, default=0) < 0 or self.outputs * self.inputs != math.prod(self.shape):
            raise ValueError(f"outputs * inputs: got {self.outputs} * {self.inputs}, expected those of {self.shape}")
        return self

    @property
    def words(self) -> int:
        """How many words the memory has."""
        return self._tiles(self.outputs, self.rows) * self._tiles(self.inputs, self.columns) * self.rows

    @property
    def word_bits(self) -> int:
        """Width of a word."""
        return self.columns * self.bits

    @property
    def word_bytes(self) -> int:
        """Bytes that a word takes in a binary file."""
        return -(-self.word_bits // 8)

    @property
    def hex_digits(self) -> int:
        """Digits of a word in a hexadecimal file."""
        return -(-self.word_bits // 4)

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and the largest code."""
        if self.signed:
            return -(2 ** (self.bits - 1)), 2 ** (self.bits - 1) - 1
        return 0, 2 ** min(self.bits, 63) - 1

    def arrange(self, array: np.ndarray) -> np.ndarray:
        """The words of the memory, shape ``(words, columns)``, int64.

        Args:
            array: Integers of the layout's shape.

        Raises:
            ConfigurationError: Another shape, or numbers that do not fit the bits.

        Example:
            >>> layout = MemoryTiling(rows=2, columns=2).of_weights((2, 3), 8)
            >>> layout.arrange(np.array([[1, 2, 3], [4, 5, 6]])).tolist()
            [[1, 2], [4, 5], [3, 0], [6, 0]]
        """
        low, high = self.limits
        got = f"shape {array.shape}"
        expected = f"shape {self.shape}"
        if array.shape == self.shape and array.size:
            got, expected = f"integers from {array.min()} to {array.max()}", f"{low} to {high} ({self.bits} bits)"
            if array.dtype != np.bool_ and (int(array.min()) < low or int(array.max()) > high):
                raise ConfigurationError(
                    "numbers do not fit the memory", where="MemoryLayout", got=got, expected=expected
                )
        elif array.shape != self.shape:
            raise ConfigurationError("another array", where="MemoryLayout", got=got, expected=expected)
        matrix = array.astype(np.int64).transpose(self.axes).reshape(self.outputs, self.inputs)
        high_tiles, wide_tiles = self._tiles(self.outputs, self.rows), self._tiles(self.inputs, self.columns)
        filled = np.zeros((high_tiles * self.rows, wide_tiles * self.columns), np.int64)
        filled[: self.outputs, : self.inputs] = matrix
        tiles = filled.reshape(high_tiles, self.rows, wide_tiles, self.columns).transpose(self._tile_axes)
        return np.ascontiguousarray(tiles).reshape(-1, self.columns)

    def restore(self, words: np.ndarray) -> np.ndarray:
        """The array, int64, from the words of its memory.

        Args:
            words: Shape ``(words, columns)``.

        Raises:
            ConfigurationError: Another shape.

        Example:
            >>> layout = MemoryTiling(rows=2, columns=2).of_weights((2, 3), 8)
            >>> layout.restore(np.array([[1, 2], [4, 5], [3, 0], [6, 0]])).tolist()
            [[1, 2, 3], [4, 5, 6]]
        """
        if words.shape != (self.words, self.columns):
            raise ConfigurationError(
                "another memory", where="MemoryLayout", got=f"{words.shape}", expected=f"{(self.words, self.columns)}"
            )
        high_tiles, wide_tiles = self._tiles(self.outputs, self.rows), self._tiles(self.inputs, self.columns)
        lengths = (high_tiles, self.rows, wide_tiles, self.columns)
        order = self._tile_axes
        tiles = words.reshape([lengths[axis] for axis in order]).transpose(np.argsort(order))
        matrix = tiles.reshape(high_tiles * self.rows, wide_tiles * self.columns)[: self.outputs, : self.inputs]
        turned = matrix.reshape([self.shape[axis] for axis in self.axes])
        return np.array(turned.transpose(np.argsort(self.axes)), np.int64, order="C").reshape(self.shape)

    @property
    def _tile_axes(self) -> tuple[int, ...]:
        return (0, 2, 1, 3) if self.order is TileOrder.INPUTS_FIRST else (2, 0, 1, 3)

    @staticmethod
    def _tiles(length: int, size: int) -> int:
        return -(-length // size)


def narrowest_bits(low: int, high: int, *, signed: bool, at_least: int = 1) -> int:
    """The fewest bits of 1, 2, 4, 8, 16, 32 and 64 that hold ``low`` to ``high``.

    Example:
        >>> narrowest_bits(-7, 7, signed=True), narrowest_bits(0, 255, signed=False)
        (4, 8)
    """
    for bits in WIDTHS:
        limits = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        if bits >= at_least and limits[0] <= low and high <= limits[1]:
            return bits
    raise ConfigurationError(
        "no word holds these numbers", where="narrowest_bits", got=f"{low} to {high}", expected="at most 64 bits"
    )
