from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from quantsim.quantization import affine
from quantsim.quantization.float import FloatQuantizeDequantize
from quantsim.report.tensor_statistics import StatisticsRecorder, encoding_of, grid_ends, tensor_statistics
from quantsim_encodings import FloatEncoding, PerChannel, float_format


def quantizer(low: float = -1.0, high: float = 1.0) -> affine.QuantizeDequantize:
    made = affine.QuantizeDequantize(shape=(), bitwidth=8, symmetric=False)
    made.set_range(torch.tensor(low), torch.tensor(high))
    return made


def test_range_error_and_clipping() -> None:
    values = torch.cat([torch.linspace(-1, 1, 98), torch.tensor([3.0, -2.0])])
    seen = tensor_statistics(values, quantizer(), title="x", logarithmic=True)
    assert (seen.low, seen.high) == (-2.0, 3.0)
    assert seen.clipped == pytest.approx(0.02)
    rounded = quantizer()(values).detach()
    expected = 10 * math.log10(float(values.double().square().sum() / (values - rounded).double().square().sum()))
    assert seen.sqnr_db == pytest.approx(expected, abs=1e-3)
    assert seen.histogram is not None and sum(seen.histogram.counts) == 100


def test_outliers_are_relative_to_the_bulk() -> None:
    values = torch.ones(10_000)
    values[7] = -40.0
    assert tensor_statistics(values, quantizer(), title="x", logarithmic=True).outlier_ratio == pytest.approx(40.0)
    zeros = tensor_statistics(torch.zeros(4), quantizer(), title="x", logarithmic=True)
    assert (zeros.outlier_ratio, zeros.sqnr_db) == (1.0, math.inf)


def test_channels_with_scales_of_their_own_are_no_outliers() -> None:
    values = torch.ones(2, 2000)
    values[1] *= 50
    per_channel = affine.QuantizeDequantize(shape=(2, 1), bitwidth=8, symmetric=True)
    per_channel.set_range(torch.tensor([[-1.0], [-50.0]]), torch.tensor([[1.0], [50.0]]))
    assert tensor_statistics(values, per_channel, title="w", logarithmic=False).outlier_ratio == pytest.approx(1.0)


def test_what_is_not_finite_does_not_count() -> None:
    values = torch.tensor([-math.inf, 0.5, -0.5])
    seen = tensor_statistics(values, quantizer(), title="x", logarithmic=True)
    assert (seen.low, seen.high) == (-0.5, 0.5)
    assert math.isfinite(seen.sqnr_db)


def test_integers_are_mapped_back() -> None:
    codes = affine.Quantize(shape=(), bitwidth=8, symmetric=False)
    codes.set_range(torch.tensor(-1.0), torch.tensor(1.0))
    values = torch.linspace(-1, 1, 50)
    both = [tensor_statistics(values, each, title="x", logarithmic=True).sqnr_db for each in (codes, quantizer())]
    assert both[0] == pytest.approx(both[1])


def test_a_plain_cast_has_no_fixed_grid() -> None:
    cast = FloatQuantizeDequantize(dtype=torch.bfloat16, scaled=False)
    seen = tensor_statistics(torch.linspace(-1, 1, 50), cast, title="x", logarithmic=True)
    assert seen.histogram is None
    assert seen.clipped is None
    assert seen.sqnr_db > 40


def test_the_recorder_passes_all_and_keeps_the_first() -> None:
    recorder = StatisticsRecorder(quantizer(), "x")
    first, second = torch.ones(3), torch.full((3,), 5.0)
    assert recorder(torch.ones(0)).numel() == 0
    assert recorder(first) is first
    assert recorder(second) is second
    assert recorder.statistics is not None and recorder.statistics.high == 1.0
    assert recorder.is_observing
    assert recorder.format == quantizer().format
    assert not list(recorder.children())


def test_encodings_and_ends_of_grids() -> None:
    assert encoding_of(affine.QuantizeDequantize(shape=(), bitwidth=8, symmetric=True)) is None
    ends = grid_ends(encoding_of(quantizer(-2.0, 1.0)))
    assert ends == pytest.approx((-2.0, 1.0), abs=0.02)
    assert grid_ends(None) is None


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("reach", [1000.0, 1e-3])
def test_half_precision_neither_overflows_nor_vanishes(dtype: torch.dtype, reach: float) -> None:
    values = (torch.linspace(-reach, reach, 4001) * 0.9).to(dtype)
    made = affine.QuantizeDequantize(shape=(), bitwidth=4, symmetric=True)
    made.set_range(torch.tensor(-reach), torch.tensor(reach))
    rounded = made(values).detach()
    seen = tensor_statistics(values, made, title="x", logarithmic=True)
    expected = 10 * math.log10(float(values.double().square().sum() / (values.double() - rounded).square().sum()))
    assert seen.sqnr_db == pytest.approx(expected, abs=0.01)
    assert seen.outlier_ratio == pytest.approx(1.0, abs=0.01)


def test_small_scales_of_half_precision_give_no_outliers() -> None:
    values = torch.full((100,), 1e-4, dtype=torch.float16)
    made = affine.QuantizeDequantize(shape=(), bitwidth=16, symmetric=True)
    made.set_range(torch.tensor(-1e-3), torch.tensor(1e-3))
    assert tensor_statistics(values, made, title="x", logarithmic=True).outlier_ratio == pytest.approx(1.0)


def test_a_float_grid_with_a_fixed_scale_has_ends() -> None:
    encoding = FloatEncoding(float_format("e4m3fn"), np.array([[0.5], [2.0]]), granularity=PerChannel(axis=0))
    assert grid_ends(encoding) == (-896.0, 896.0)
    assert grid_ends(FloatEncoding(float_format("bf16"))) is None
