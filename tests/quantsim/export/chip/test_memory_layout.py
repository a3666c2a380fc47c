from __future__ import annotations

import numpy as np
import pytest
from pydantic import ValidationError

from quantsim.errors import ConfigurationError
from quantsim.export.chip.memory_layout import MemoryLayout, MemoryTiling, TileOrder, narrowest_bits


def numbered(*shape: int) -> np.ndarray:
    return np.arange(1, int(np.prod(shape)) + 1).reshape(shape)


def element(layout: MemoryLayout, row: int, column: int) -> tuple[int, int]:
    """Word and place in it of an element of the matrix, as the documentation says."""
    tiles_down, tiles_across = -(-layout.outputs // layout.rows), -(-layout.inputs // layout.columns)
    down, across = row // layout.rows, column // layout.columns
    tile = down * tiles_across + across if layout.order is TileOrder.INPUTS_FIRST else across * tiles_down + down
    return tile * layout.rows + row % layout.rows, column % layout.columns


@pytest.mark.parametrize("order", list(TileOrder))
@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (2, 3), (4, 4), (16, 16)])
def test_every_weight_is_where_the_formula_says(order: TileOrder, rows: int, columns: int) -> None:
    weight = numbered(5, 7)
    layout = MemoryTiling(rows=rows, columns=columns, order=order).of_weights(weight.shape, 8)
    words = layout.arrange(weight)
    assert words.shape == (layout.words, columns)
    found = np.zeros_like(words)
    for (row, column), code in np.ndenumerate(weight):
        place = element(layout, row, column)
        assert words[place] == code
        found[place] = 1
    assert (words[found == 0] == 0).all()
    np.testing.assert_array_equal(layout.restore(words), weight)


def test_convolutions_in_both_orders_of_channels() -> None:
    weight = numbered(3, 2, 2, 2)
    first = MemoryTiling(rows=1, columns=8).of_weights(weight.shape, 8).arrange(weight)
    np.testing.assert_array_equal(first, weight.reshape(3, 8))
    layout = MemoryTiling(rows=1, columns=8, channels_last=True).of_weights(weight.shape, 8)
    np.testing.assert_array_equal(layout.arrange(weight), weight.transpose(0, 2, 3, 1).reshape(3, 8))
    np.testing.assert_array_equal(layout.restore(layout.arrange(weight)), weight)


def test_rows_of_other_arrays_begin_with_a_word() -> None:
    tiling = MemoryTiling(columns=4)
    codes = numbered(2, 2, 5)
    layout = tiling.of_rows(codes.shape, 8, signed=False)
    assert layout.arrange(codes)[:2].tolist() == [[1, 2, 3, 4], [5, 0, 0, 0]]
    assert (layout.words, layout.word_bits, layout.hex_digits) == (8, 32, 8)
    for shape in ((), (3,)):
        line = tiling.of_rows(shape, 32, signed=True)
        assert line.arrange(numbered(*shape)).shape == (max(1, *shape, 1), 1)
        assert line.restore(line.arrange(numbered(*shape))).shape == shape


def test_numbers_and_shapes_that_do_not_fit_are_refused() -> None:
    layout = MemoryTiling().of_weights((2, 2), 4)
    with pytest.raises(ConfigurationError, match=r"got integers from -9 to 0; expected -8 to 7 \(4 bits\)"):
        layout.arrange(np.array([[0, 0], [0, -9]]))
    with pytest.raises(ConfigurationError, match=r"got shape \(2, 3\); expected shape \(2, 2\)"):
        layout.arrange(np.zeros((2, 3), np.int8))
    with pytest.raises(ConfigurationError, match="another memory"):
        layout.restore(np.zeros((3, 3), np.int64))


def test_bad_tilings_and_layouts_are_refused() -> None:
    for fields in ({"rows": 0}, {"columns": 70_000}, {"weight_bits": 3}, {"order": "spiral"}, {"width": 4}):
        with pytest.raises(ValidationError):
            MemoryTiling.model_validate(fields)
    good = MemoryTiling().of_weights((2, 3), 8).model_dump()
    for change in ({"bits": 5}, {"axes": (0, 0)}, {"outputs": 5}, {"shape": (-2, -3)}):
        with pytest.raises(ValidationError):
            MemoryLayout.model_validate(good | change)


def test_narrowest_bits() -> None:
    assert [narrowest_bits(-1, high, signed=True) for high in (0, 1, 7, 8, 127, 128)] == [1, 2, 4, 8, 8, 16]
    assert [narrowest_bits(0, high, signed=False) for high in (0, 1, 3, 15, 255, 256)] == [1, 1, 2, 4, 8, 16]
    assert narrowest_bits(0, 1, signed=True, at_least=8) == 8
    with pytest.raises(ConfigurationError, match="at most 64 bits"):
        narrowest_bits(0, 2**64, signed=False)
