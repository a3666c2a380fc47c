"""Grids in ONNX's words: types, zero points, and scales laid over tensors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quantsim.export.onnx_grids import Arithmetic, OnnxGrid, lay_out, onnx_grid, unsigned
from quantsim.quantization.affine import GroupedBlockQuantizeDequantize, Quantize, QuantizeDequantize
from quantsim.quantization.float import FloatQuantizeDequantize


def affine(qmin: int, qmax: int, *, symmetric: bool = False) -> QuantizeDequantize:
    quantizer = QuantizeDequantize((), qmin, qmax, symmetric)
    quantizer.set_range(-1.0, 1.0)
    return quantizer


@pytest.mark.parametrize(
    ("qmin", "qmax", "data_type", "codes"),
    [
        (0, 15, "UINT4", None),
        (-8, 7, "INT4", None),
        (-7, 7, "INT4", (-7, 7)),
        (0, 255, "UINT8", None),
        (-128, 127, "INT8", None),
        (0, 127, "UINT8", (0, 127)),
        (0, 65535, "UINT16", None),
        (-512, 511, "INT16", (-512, 511)),
    ],
)
def test_smallest_type_that_holds_the_codes(qmin: int, qmax: int, data_type: str, codes: object) -> None:
    grid = onnx_grid(affine(qmin, qmax, symmetric=qmin < 0))
    assert isinstance(grid, OnnxGrid)
    assert (grid.data_type, grid.codes) == (data_type, codes)


@pytest.mark.parametrize(
    ("quantizer", "reason"),
    [
        (affine(-(2**16), 2**16 - 1, symmetric=True), "beyond 16 bits"),
        (FloatQuantizeDequantize(format="e3m4"), "e3m4"),
        (FloatQuantizeDequantize(format="e4m3fn", rounding="toward_zero"), "rounds"),
        (FloatQuantizeDequantize(format="e4m3fn", rounding="stochastic"), "at random"),
        (FloatQuantizeDequantize(format="e4m3fn", subnormal=False), "e4m3fn"),
        (Quantize((), 8, True), "is a Quantize"),
        (QuantizeDequantize((), 8, True, zero_point_shift=0.5), "without a zero"),
    ],
)
def test_reasons(quantizer: object, reason: str) -> None:
    grid = onnx_grid(quantizer)  # type: ignore[arg-type]
    assert isinstance(grid, str)
    assert reason in grid


def test_unsigned_codes_are_the_same_numbers() -> None:
    grid = onnx_grid(affine(-127, 127, symmetric=True))
    assert isinstance(grid, OnnxGrid)
    moved = unsigned(grid)
    assert (moved.data_type, moved.codes, int(moved.zero_point)) == ("UINT8", (1, 255), 128)  # type: ignore[arg-type]
    assert unsigned(moved) is moved


def expand(layout: object, shape: tuple[int, ...]) -> np.ndarray:
    """Scale of each element, as the specification of QuantizeLinear says."""
    scale = layout.scale  # type: ignore[attr-defined]
    axis, block = layout.axis, layout.block_size  # type: ignore[attr-defined]
    if axis is None:
        return np.broadcast_to(scale, shape)
    if block is None:
        return np.broadcast_to(scale.reshape([-1 if i == axis else 1 for i in range(len(shape))]), shape)
    repeated = np.repeat(scale, block, axis)
    return np.take(repeated, range(shape[axis]), axis)


@pytest.mark.parametrize(
    ("scales", "block_size", "shape"),
    [
        ((), None, (3, 4)),
        ((1,), None, (3, 4)),
        ((3, 1), None, (3, 4)),
        ((4,), None, (2, 3, 4)),
        ((3, 2), (1, 2), (3, 4)),
        ((3, 1), (1, -1), (3, 4)),
        ((6, 2, 1, 1), (1, 4, -1, -1), (6, 8, 3, 3)),
        ((2, 2), (3, 4), (6, 8)),
        ((2, 2), (-1, -1), (6, 8)),
        ((3, 4), None, (3, 4)),
    ],
)
def test_each_element_gets_its_scale(
    scales: tuple[int, ...], block_size: tuple[int, ...] | None, shape: tuple[int, ...]
) -> None:
    values = np.random.default_rng(0).uniform(1, 2, scales).astype(np.float32)
    grid = OnnxGrid(Arithmetic.INTEGER, "INT8", values, np.zeros(scales, np.int64), block_size)
    layout = lay_out(grid, shape)
    assert not isinstance(layout, str)
    padded = values.reshape((1,) * (len(shape) - values.ndim) + values.shape)
    expected = padded
    for axis, (count, length) in enumerate(zip(padded.shape, shape, strict=True)):
        expected = np.repeat(expected, length // count, axis)
    assert np.array_equal(expand(layout, shape), expected)


def test_open_dimensions() -> None:
    channel = OnnxGrid(Arithmetic.INTEGER, "INT8", np.ones((4, 1)), np.zeros((4, 1), np.int64))
    layout = lay_out(channel, (None, 4, None))
    assert not isinstance(layout, str)
    assert layout.axis == 1
    blocks = OnnxGrid(Arithmetic.INTEGER, "INT8", np.ones((4, 2)), np.zeros((4, 2), np.int64), (1, 2))
    assert "run time" in str(lay_out(blocks, (None, 4, 4)))


def test_grouped_blocks_are_blocks() -> None:
    quantizer = GroupedBlockQuantizeDequantize((2, 2), 4, True, 8, block_size=(1, 2), block_grouping=(1, -1))
    with quantizer.compute_encodings():
        quantizer(torch.tensor([[1.0, 2.0, 7.0, -8.0], [0.5, 0.25, 0.1, 0.2]]))
    grid = onnx_grid(quantizer)
    assert isinstance(grid, OnnxGrid)
    scale = quantizer.get_scale()
    assert scale is not None
    assert grid.data_type == "INT4"
    assert np.array_equal(grid.scale, scale.detach().numpy())  # type: ignore[arg-type]
