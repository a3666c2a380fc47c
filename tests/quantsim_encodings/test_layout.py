from __future__ import annotations

import numpy as np
import pytest

from quantsim_encodings import (
    AffineEncoding,
    DynamicEncoding,
    EncodingsError,
    Flattened,
    FloatEncoding,
    GroupedBlockEncoding,
    IntFormat,
    PerBlock,
    PerBlocks,
    PerChannel,
    PerTensor,
    PerToken,
    UnplacedGroupedBlockEncoding,
    float_format,
    place,
    transpose,
)
from quantsim_encodings.layout import Layout, layout_of

INT4 = IntFormat.from_bits(4, signed=True)
UINT4 = IntFormat.from_bits(4, signed=False)


@pytest.mark.parametrize(
    ("granularity", "shape", "layout"),
    [
        (PerTensor(), (), Layout()),
        (PerChannel(-1), (1, 3), Layout(axis=-1)),
        (Flattened(block_size=2), (6,), Layout(block_size=2, known=False)),
        (PerBlock(1, 4), (3, 2), Layout(axis=1, block_size=4)),
        (PerBlock(1, -1), (3, 1), Layout(axis=0)),
        (PerBlock(1, -1), (1, 1), Layout()),
        (PerBlock(1, -1), (3, 1, 5), None),
        (PerBlocks((1, 4)), (3, 2), Layout(axis=1, block_size=4)),
        (PerBlocks((1, -1)), (3, 1), Layout(axis=0)),
        (PerBlocks((-1, -1)), (1, 1), Layout()),
        (PerBlocks((4, 4)), (2, 2), None),
        (PerBlocks((-1, 4)), (1, 2), None),
        (PerBlocks((1, 1)), (3, 2), None),
        (PerToken(), (3, 1), None),
    ],
)
def test_normal_form(granularity, shape: tuple[int, ...], layout: Layout | None) -> None:
    assert layout_of(granularity, None, shape) == layout


def test_place_reshapes_in_row_major_order() -> None:
    flat = AffineEncoding(UINT4, [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [0, -1, -2, -3, -4, -5], False, Flattened())  # type: ignore[arg-type]
    placed = place(flat, PerBlock(1, 4), (2, 3), (1, 4))
    assert isinstance(placed, AffineEncoding)
    assert placed.scale.tolist() == [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    assert placed.offset.tolist() == [[0, -1, -2], [-3, -4, -5]]
    assert (placed.granularity, placed.block_size) == (PerBlock(1, 4), (1, 4))
    scaled = place(FloatEncoding(float_format("e4m3fn"), [1.0, 2.0], Flattened()), PerChannel(0), (2, 1, 1))  # type: ignore[arg-type]
    assert isinstance(scaled, FloatEncoding)
    assert scaled.scale is not None
    assert scaled.scale.shape == (2, 1, 1)


def test_place_leaves_encodings_without_scale_alone() -> None:
    for encoding in (FloatEncoding(float_format("bf16")), DynamicEncoding(INT4, PerToken(), True)):
        assert place(encoding, PerTensor(), ()) is encoding


@pytest.mark.parametrize(
    ("axis", "shape", "channel_shape"),
    [(1, (2, 3), (2, 1)), (-1, (2, 3), (2, 1)), (0, (3, 2), (1, 2)), (1, (2, 3, 1, 1), (2, 1, 1, 1))],
)
def test_place_finds_the_channels_of_lpbq(axis: int, shape: tuple[int, ...], channel_shape: tuple[int, ...]) -> None:
    integers, channels = np.arange(1, 7), np.float32([0.5, 0.25])
    flat = UnplacedGroupedBlockEncoding(INT4, Flattened(block_size=2), 8, channels, integers)
    placed = place(flat, PerBlock(axis, 2), shape)
    assert isinstance(placed, GroupedBlockEncoding)
    assert placed.per_channel_scale.shape == channel_shape
    assert np.array_equal(placed.scale, integers.reshape(shape) * channels.reshape(channel_shape))


def test_place_refuses_what_does_not_fit() -> None:
    flat = AffineEncoding(UINT4, [1.0, 2.0], 0, False, Flattened())  # type: ignore[arg-type]
    with pytest.raises(EncodingsError, match=r"got 2 scales, expected 3 for the quantizer's shape \(3, 1\)"):
        place(flat, PerChannel(0), (3, 1))
    lpbq = UnplacedGroupedBlockEncoding(INT4, Flattened(block_size=2), 8, np.ones(2), np.ones(4, np.int64))
    with pytest.raises(EncodingsError, match="expected blocks along one axis"):
        place(lpbq, PerTensor(), (2, 2))
    with pytest.raises(EncodingsError, match="expected blocks along one axis"):
        place(lpbq, PerBlock(1, 2), (2, 3))
    with pytest.raises(EncodingsError, match=r"got 2 channels, expected shape \(4, 1\)"):
        place(lpbq, PerBlock(1, 2), (4, 1))
    placed = place(lpbq, PerBlock(1, 2), (2, 2))
    with pytest.raises(EncodingsError, match=r"got shape \(2, 2\), expected the quantizer's \(1, 4\)"):
        place(placed, PerBlock(1, 2), (1, 4))


def test_transpose_moves_axis_blocks_and_scales() -> None:
    scale = np.arange(1.0, 7.0).reshape(2, 3, 1)
    encoding = AffineEncoding(INT4, scale, 0, True, PerBlock(1, 4), (1, 4, -1))  # type: ignore[arg-type]
    moved = transpose(encoding, (2, 0, 1))
    assert moved.granularity == PerBlock(2, 4)
    assert moved.block_size == (-1, 1, 4)
    assert np.array_equal(moved.scale, scale.transpose(2, 0, 1))
    assert transpose(moved, (1, 2, 0)) == encoding


def test_transpose_moves_every_granularity() -> None:
    channel = AffineEncoding(INT4, [0.5, 0.25], 0, True, PerChannel(-1))  # type: ignore[arg-type]
    assert transpose(channel, (1, 0)).granularity == PerChannel(0)
    tensor = AffineEncoding(INT4, 0.5, 0, True, PerTensor())  # type: ignore[arg-type]
    assert transpose(tensor, (1, 0)) == tensor
    tiles = AffineEncoding(INT4, np.ones((2, 3)), 0, True, PerBlocks((4, 8)))  # type: ignore[arg-type]
    assert transpose(tiles, (1, 0)).granularity == PerBlocks((8, 4))
    lpbq = GroupedBlockEncoding.from_scales(
        format=INT4,
        per_channel_scale=[[0.5], [0.25]],
        per_block_int_scale=[[1, 2, 3], [4, 5, 6]],
        decompressed_bits=8,
        granularity=PerBlock(1, 2),
    )
    moved = transpose(lpbq, (1, 0))
    assert moved.per_channel_scale.shape == (1, 2)
    assert np.array_equal(moved.scale, lpbq.scale.T)
    cast = FloatEncoding(float_format("bf16"))
    assert transpose(cast, (1, 0)) == cast


@pytest.mark.parametrize(
    ("encoding", "permutation", "message"),
    [
        (AffineEncoding(INT4, 0.5, 0, True, PerTensor()), (0, 2), "expected a permutation"),  # type: ignore[arg-type]
        (AffineEncoding(INT4, [0.5], 0, True, Flattened()), (1, 0), "known axis"),  # type: ignore[arg-type]
        (AffineEncoding(INT4, [0.5, 1.0], 0, True, PerChannel(2)), (1, 0), "got axis 2"),  # type: ignore[arg-type]
        (AffineEncoding(INT4, [[0.5]], 0, True, PerBlocks((1, 2, 4))), (1, 0), "known axis"),  # type: ignore[arg-type]
        (AffineEncoding(INT4, [[0.5]], 0, True, PerBlock(0, 2), (1, 2, 4)), (1, 0), "expected 2 sizes"),  # type: ignore[arg-type]
        (AffineEncoding(INT4, [[[0.5]]], 0, True, PerBlock(0, 2)), (1, 0), "got scale of 3 dimensions"),  # type: ignore[arg-type]
    ],
)
def test_transpose_refuses(encoding, permutation: tuple[int, ...], message: str) -> None:
    with pytest.raises(EncodingsError, match=message):
        transpose(encoding, permutation)
