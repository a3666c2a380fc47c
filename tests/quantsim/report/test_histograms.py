from __future__ import annotations

import pytest
import torch

from quantsim.report.histograms import float_grid, grid_histogram
from quantsim_encodings import (
    AffineEncoding,
    DynamicEncoding,
    FloatEncoding,
    IntFormat,
    PerBlock,
    PerChannel,
    PerTensor,
    PerToken,
    float_format,
)


@pytest.mark.parametrize(("name", "dtype"), [("e4m3fn", torch.float8_e4m3fn), ("e5m2", torch.float8_e5m2)])
def test_the_grid_of_a_float_format_is_the_set_of_its_numbers(name: str, dtype: torch.dtype) -> None:
    values = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    expected = sorted({float(value) for value in values[values.isfinite()]})
    assert list(float_grid(float_format(name))) == expected


def test_wide_formats_have_no_grid_to_draw() -> None:
    assert float_grid(float_format("bf16")) == ()


def test_channels_with_different_scales_fall_on_one_grid() -> None:
    scale = torch.tensor([[0.5], [2.0]])
    codes = torch.tensor([[-8.0, 0.0, 7.0], [-8.0, 3.0, 7.0]])
    encoding = AffineEncoding(IntFormat(-8, 7), scale.numpy(), 0, symmetric=True, granularity=PerChannel(0))
    histogram = grid_histogram(codes * scale, encoding, title="weight", scheme="w4")
    assert histogram is not None
    assert histogram.grid == tuple(map(float, range(-8, 8)))
    assert sum(histogram.counts) == 6
    assert histogram.caption == "int4 symmetric, per channel; 0 % of 6 clipped"


def test_blocks_and_offsets() -> None:
    values = torch.tensor([[0.0, 1.5, 10.0, 13.0]])
    encoding = AffineEncoding(
        IntFormat(0, 15), [[0.1, 1.0]], [[0, 10]], symmetric=False, granularity=PerBlock(1, 2), block_size=(1, 2)
    )
    histogram = grid_histogram(values, encoding, title="weight", scheme="w4")
    assert histogram is not None
    bins = [
        (low + high) / 2
        for low, high, n in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False)
        if n
    ]
    for code in (0.0, 15.0, 3.0):
        assert min(abs(middle - code) for middle in bins) < 0.5


def test_what_is_clipped_is_counted_and_stays_visible() -> None:
    encoding = AffineEncoding(IntFormat(-128, 127), 1.0, 0, symmetric=True, granularity=PerTensor())
    histogram = grid_histogram(torch.tensor([0.0, 1.0, 127.4, 300.0]), encoding, title="input 0", scheme="w8a8")
    assert histogram is not None
    assert "25 % of 4 clipped" in histogram.caption
    assert histogram.edges[-1] == pytest.approx(300.0)


def test_scaled_floats() -> None:
    encoding = FloatEncoding(float_format("e2m1"), 0.5)
    histogram = grid_histogram(torch.tensor([-3.0, 3.0]), encoding, title="weight", scheme="fp4")
    assert histogram is not None
    assert (histogram.grid[0], histogram.grid[-1]) == (-6.0, 6.0)
    assert "0 % of 2 clipped" in histogram.caption


def test_run_time_scales_have_no_fixed_grid() -> None:
    encoding = DynamicEncoding(IntFormat(0, 255), PerToken(), symmetric=False)
    assert grid_histogram(torch.ones(3), encoding, title="input 0", scheme="dynamic") is None
    static = AffineEncoding(IntFormat(0, 255), 1.0, 0, symmetric=False, granularity=PerTensor())
    assert grid_histogram(torch.ones(0), static, title="input 0", scheme="w8a8") is None


@pytest.mark.parametrize(
    ("encoding", "values"),
    [
        (
            AffineEncoding(IntFormat(0, 65535), 1.0, 0, symmetric=False, granularity=PerTensor()),
            [0.0, 65535.4, 65536.0, -1.0],
        ),
        (
            AffineEncoding(IntFormat(-32768, 32767), 1.0, 0, symmetric=True, granularity=PerTensor()),
            [0.0, -32768.4, -32769.0, 32768.0],
        ),
        (FloatEncoding(float_format("fp16"), 1.0), [0.0, 65519.0, 65600.0, -70000.0]),
    ],
)
def test_wide_grids_clip_right_beyond_their_ends(encoding: AffineEncoding | FloatEncoding, values: list[float]) -> None:
    histogram = grid_histogram(torch.tensor(values), encoding, title="x", scheme="")
    assert histogram is not None and histogram.clipped == 0.5
    assert list(histogram.grid) == sorted(histogram.grid)
