from __future__ import annotations

import pytest

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.quantization.granularity import (
    PerBlock,
    PerBlocks,
    PerChannel,
    PerTensor,
    PerToken,
    granularity_of,
    shape_for,
)

CASES = [
    (PerTensor(), (8, 64), ((), None)),
    (PerChannel(0), (8, 64), ((8, 1), None)),
    (PerChannel(1), (8, 64), ((1, 64), None)),
    (PerChannel(0), (8, 3, 5, 5), ((8, 1, 1, 1), None)),
    (PerBlock(1, 32), (8, 64), ((8, 2), (1, 32))),
    (PerBlock(0, 4), (8, 64), ((2, 64), (4, 1))),
    (PerBlocks((2, 32)), (8, 64), ((4, 2), (2, 32))),
]


@pytest.mark.parametrize(("granularity", "shape", "expected"), CASES)
def test_shape_for_and_back(granularity, shape, expected):
    assert shape_for(granularity, shape) == expected
    assert granularity_of(*expected) == granularity


def test_negative_axis_and_whole_dimension():
    assert shape_for(PerChannel(-1), (8, 64)) == ((1, 64), None)
    assert shape_for(PerBlock(-1, -1), (8, 64)) == ((8, 1), (1, 64))
    assert shape_for(PerBlocks((-1, 16)), (8, 64)) == ((1, 4), (8, 16))


def test_several_long_dimensions_without_blocks():
    assert granularity_of((4, 3, 1), None) == PerBlocks((1, 1, -1))


@pytest.mark.parametrize(
    ("granularity", "shape", "match"),
    [
        (PerChannel(2), (8, 64), "no such dimension"),
        (PerBlock(1, 30), (8, 64), "do not tile"),
        (PerBlocks((1,)), (8, 64), "wrong number"),
    ],
)
def test_impossible_shapes(granularity, shape, match):
    with pytest.raises(ShapeError, match=match):
        shape_for(granularity, shape)


def test_per_token_has_no_fixed_shape():
    with pytest.raises(ConfigurationError, match="dynamic quantizer"):
        shape_for(PerToken(), (8, 64))
