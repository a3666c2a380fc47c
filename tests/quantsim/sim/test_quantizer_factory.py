from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.quantization import affine
from quantsim.quantization import float as float_quantization
from quantsim.quantization.analyzers import MseEncodingAnalyzer, PercentileEncodingAnalyzer, SqnrEncodingAnalyzer
from quantsim.quantization.analyzers.exact_mse import ExactMseEncodingAnalyzer
from quantsim.quantization.analyzers.token_mse import TokenMseEncodingAnalyzer
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.granularity import PerBlock
from quantsim.quantization.mx import MXQuantizeDequantize
from quantsim.sim.config import (
    AnalyzerKind,
    AnalyzerSetting,
    FloatSetting,
    IntegerSetting,
    MXSetting,
    QuantizerSetting,
)
from quantsim.sim.quantizer_factory import activation_quantizer, parameter_quantizer, quantizer_from_encoding
from quantsim_encodings.encoding import MXEncoding
from quantsim_encodings.formats import FloatFormat, IntFormat, MXScaleRule, RoundingMode


def block(size: int, **changes: Any) -> IntegerSetting:
    return IntegerSetting(bits=4, granularity="block", block_size=size, **changes)


@pytest.mark.parametrize(
    ("setting", "shape", "axis", "scales", "blocks"),
    [
        (IntegerSetting(), (8, 6), 0, (), None),
        (IntegerSetting(granularity="channel"), (8, 6), 0, (8, 1), None),
        (IntegerSetting(granularity="channel"), (8, 6, 3, 3), 0, (8, 1, 1, 1), None),
        (IntegerSetting(granularity="channel"), (6, 8, 3), 1, (1, 8, 1), None),
        (IntegerSetting(granularity="channel"), (8,), None, (), None),
        (block(4), (8, 16), 0, (8, 4), (1, 4)),
        (block(4), (8, 16, 3, 3), 0, (8, 4, 1, 1), (1, 4, -1, -1)),
        (block(4), (8, 16, 1, 1), 0, (8, 4, 1, 1), (1, 4, 1, 1)),
        (block(4), (16, 8, 2), 1, (4, 8, 1), (4, 1, -1)),
        (block(32), (8, 16), 0, (8, 1), None),
        (FloatSetting(granularity="block", block_size=8), (8, 16), 0, (8, 2), (1, 8)),
    ],
    ids=str,
)
def test_the_shape_of_a_parameters_range(
    setting: QuantizerSetting,
    shape: tuple[int, ...],
    axis: int | None,
    scales: tuple[int, ...],
    blocks: tuple[int, ...] | None,
) -> None:
    values = torch.randn(shape)
    quantizer: Any = parameter_quantizer(setting, values, axis, where="w")
    assert tuple(quantizer.shape) == scales
    assert (None if quantizer.block_size is None else tuple(quantizer.block_size)) == blocks
    with torch.no_grad():
        with quantizer.compute_encodings():
            quantizer(values)
        assert quantizer(values).shape == values.shape
    assert torch.isfinite(quantizer(values)).all()


@pytest.mark.parametrize("kernel", [1, 3])
def test_each_block_of_a_kernel_has_its_own_scale(kernel: int) -> None:
    values = torch.ones(2, 8, kernel, kernel)
    values[0, 4:] = 50.0
    quantizer: Any = parameter_quantizer(block(4), values, 0, where="w")
    with quantizer.compute_encodings():
        quantizer(values)
    largest = quantizer.get_max().detach().flatten().tolist()
    assert [value > 10 for value in largest] == [False, True, False, False]


def test_lpbq() -> None:
    quantizer = parameter_quantizer(block(4, decompressed_bits=8), torch.randn(8, 16), 0, where="w")
    assert isinstance(quantizer, affine.GroupedBlockQuantizeDequantize)
    assert (tuple(quantizer.shape), quantizer.bitwidth, quantizer.decompressed_bw) == ((8, 4), 4, 8)


@pytest.mark.parametrize(("size", "length", "used"), [(32, 48, 24), (8, 12, 6), (32, 40, 20)])
def test_blocks_that_do_not_divide_become_smaller_with_a_warning(size: int, length: int, used: int) -> None:
    with pytest.warns(UserWarning, match=rf"fc\.weight: blocks of {used} instead of {size}"):
        quantizer: Any = parameter_quantizer(block(size), torch.zeros(2, length), 0, where="fc.weight")
    assert tuple(quantizer.block_size) == (1, used)


def test_an_axis_that_cannot_be_cut_is_an_error() -> None:
    with pytest.raises(ConfigurationError) as caught:
        parameter_quantizer(block(32), torch.zeros(2, 61), 0, where="fc.weight")
    for words in ("fc.weight", "block_size=32", "61", "'channel'"):
        assert words in str(caught.value)


def test_activations_have_one_range_or_one_a_token() -> None:
    static: Any = activation_quantizer(IntegerSetting(symmetric=False), where="a")
    assert (static.shape, static.qmin, static.qmax, static.symmetric) == ((), 0, 255, False)
    dynamic = activation_quantizer(IntegerSetting(bits=4, granularity="token", dynamic=True), where="a")
    assert isinstance(dynamic, affine.DynamicQuantizeDequantize)
    assert dynamic.bitwidth == 4
    assert not dynamic.needs_calibration
    floating = activation_quantizer(FloatSetting(format="e5m2", granularity="token", dynamic=True), where="a")
    assert isinstance(floating, float_quantization.DynamicFloatQuantizeDequantize)
    assert isinstance(floating.format, FloatFormat)
    assert (floating.format.exponent_bits, floating.format.mantissa_bits) == (5, 2)
    static_float = activation_quantizer(FloatSetting(format="e4m3fn"), where="a")
    assert isinstance(static_float, float_quantization.FloatQuantizeDequantize)


@pytest.mark.parametrize("setting", [IntegerSetting(granularity="channel"), block(4)], ids=["channel", "block"])
def test_activations_have_no_fixed_channels(setting: QuantizerSetting) -> None:
    with pytest.raises(ConfigurationError, match=r"fc\.input\[0\].*no fixed channels"):
        activation_quantizer(setting, where="fc.input[0]")


@pytest.mark.parametrize("kind", AnalyzerKind)
def test_every_analyzer_calibrates(kind: AnalyzerKind) -> None:
    values = torch.randn(6, 64)
    setting = IntegerSetting(symmetric=False, analyzer=AnalyzerSetting(kind=kind))
    quantizer = activation_quantizer(setting, where="a")
    with quantizer.compute_encodings():
        quantizer(values)
    assert float((quantizer(values) - values).detach().abs().mean()) < 0.05
    if kind is not AnalyzerKind.TOKEN_MSE:
        channel = IntegerSetting(granularity="channel", analyzer=AnalyzerSetting(kind=kind))
        weight = parameter_quantizer(channel, values, 0, where="w")
        with weight.compute_encodings():
            weight(values)
        assert float((weight(values) - values).detach().abs().mean()) < 0.05


def test_arguments_reach_the_analyzer() -> None:
    def analyzer(**settings: Any) -> Any:
        return activation_quantizer(IntegerSetting(analyzer=AnalyzerSetting(**settings)), where="a").encoding_analyzer

    percentile = analyzer(kind="percentile", percentile=99.0, num_bins=512)
    assert isinstance(percentile, PercentileEncodingAnalyzer)
    assert (percentile.percentile, percentile.num_bins) == (99.0, 512)
    sqnr = analyzer(kind="sqnr", candidates=9)
    assert isinstance(sqnr, SqnrEncodingAnalyzer)
    assert (sqnr.asymmetric_delta_candidates, sqnr.symmetric_delta_candidates) == (9, 9)
    assert isinstance(analyzer(kind="mse"), MseEncodingAnalyzer)


@pytest.mark.parametrize(
    ("op", "dims"), [("linear", 1), (None, 1), ("conv1d", 2), ("conv2d", 3), ("conv_transpose3d", 4)]
)
def test_the_token_of_an_image_is_the_image(op: str | None, dims: int) -> None:
    setting = IntegerSetting(analyzer=AnalyzerSetting(kind="token_mse"))
    analyzer = activation_quantizer(setting, op=op, where="a").encoding_analyzer
    assert isinstance(analyzer, TokenMseEncodingAnalyzer)
    assert analyzer.token_dims == dims


def test_exact_mse_knows_the_grid() -> None:
    setting = FloatSetting(format="e4m3fn", granularity="channel", analyzer=AnalyzerSetting(kind="exact_mse"))
    analyzer = parameter_quantizer(setting, torch.zeros(2, 4), 0, where="w").encoding_analyzer
    assert isinstance(analyzer, ExactMseEncodingAnalyzer)
    assert isinstance(analyzer.format, FloatFormat)
    integer = IntegerSetting(bits=4, analyzer=AnalyzerSetting(kind="exact_mse"))
    analyzer = parameter_quantizer(integer, torch.zeros(2, 4), 0, where="w").encoding_analyzer
    assert isinstance(analyzer, ExactMseEncodingAnalyzer)
    assert analyzer.format == IntFormat(-8, 7)


def test_a_quantizer_is_where_its_parameter_is() -> None:
    quantizer = parameter_quantizer(IntegerSetting(), nn.Linear(2, 2, device="meta").weight, 0, where="w")
    assert {values.device.type for values in quantizer.parameters()} == {"meta"}


def calibrated(quantizer: QuantizerBase, values: Tensor) -> QuantizerBase:
    with quantizer.compute_encodings():
        quantizer(values)
    return quantizer


@pytest.mark.parametrize(
    "setting",
    [
        IntegerSetting(symmetric=False),
        IntegerSetting(granularity="channel"),
        block(4),
        block(4, decompressed_bits=8),
        FloatSetting(format="e5m2", granularity="channel"),
    ],
    ids=lambda setting: setting.label,
)
def test_an_encoding_gives_the_quantizer_back(setting: QuantizerSetting) -> None:
    values = torch.randn(6, 16)
    quantizer = calibrated(parameter_quantizer(setting, values, 0, where="w"), values)
    encoding = quantizer.get_encodings()
    assert encoding is not None
    again = quantizer_from_encoding(encoding)
    assert type(again) is type(quantizer)
    assert again.is_initialized()
    assert torch.equal(again(values), quantizer(values))


@pytest.mark.parametrize("kind", [IntegerSetting, FloatSetting])
def test_run_time_scales_come_back(kind: Any) -> None:
    quantizer = activation_quantizer(kind(granularity="token", dynamic=True), where="a")
    encoding = quantizer.get_encodings()
    assert encoding is not None
    values = torch.randn(3, 8)
    assert torch.equal(quantizer_from_encoding(encoding)(values), quantizer(values))


def test_an_encoding_that_no_quantizer_holds() -> None:
    encoding = object.__new__(MXEncoding)
    object.__setattr__(encoding, "format", "mxfp4")
    with pytest.raises(ConfigurationError, match="MXEncoding in mxfp4"):
        quantizer_from_encoding(encoding)


@pytest.mark.parametrize(
    "setting",
    [MXSetting(format="mxfp4", block_size=8), FloatSetting(granularity="block", block_size=8, dynamic=True)],
    ids=["mx", "float"],
)
@pytest.mark.parametrize(
    ("shape", "channels", "summed", "axis"),
    [((6, 20), 0, None, 1), ((20, 6, 3), 1, None, 0), ((4, 5, 20), 0, 2, 2), ((20,), None, -1, -1)],
)
def test_run_time_blocks_lie_along_the_sum(
    setting: QuantizerSetting, shape: tuple[int, ...], channels: int | None, summed: int | None, axis: int
) -> None:
    values = torch.randn(shape)
    weight = parameter_quantizer(setting, values, channels, summed_axis=summed, where="w")
    activation = activation_quantizer(setting, summed_axis=axis, where="a")
    for quantizer in (weight, activation):
        granularity: Any = quantizer.granularity
        assert isinstance(granularity, PerBlock)
        assert (granularity.axis % len(shape), granularity.block_size) == (axis % len(shape), 8)
        assert not quantizer.needs_calibration
        result = quantizer(values)
        # Each block is on a grid of its own: alone it gives the same numbers (the last one is shorter).
        assert torch.equal(torch.cat([quantizer(block) for block in values.split(8, axis)], axis), result)
        assert not torch.equal(result, values)


def test_settings_reach_the_quantizer() -> None:
    mx = activation_quantizer(
        MXSetting(format="mxfp4", scale_rule=MXScaleRule.CEIL, rounding=RoundingMode.UP), where="a"
    )
    assert isinstance(mx, MXQuantizeDequantize)
    grid: Any = mx.format
    assert (grid.scale_rule, mx.rounding) == (MXScaleRule.CEIL, RoundingMode.UP)
    cast: Any = activation_quantizer(
        FloatSetting(format="e5m2", scaled=False, saturate=False, subnormal=False, rounding=RoundingMode.ODD), where="a"
    )
    assert (cast.is_scaled, cast.saturate, cast.format.has_subnormals, cast.rounding) == (
        False,
        False,
        False,
        RoundingMode.ODD,
    )
    for setting in (
        FloatSetting(granularity="token", dynamic=True, rounding=RoundingMode.STOCHASTIC),
        FloatSetting(rounding=RoundingMode.STOCHASTIC),
    ):
        assert activation_quantizer(setting, where="a").is_stochastic


@pytest.mark.parametrize(
    "setting",
    [
        FloatSetting(format="e5m7", scaled=False, rounding=RoundingMode.UP, saturate=None),
        FloatSetting(format="e4m3fn", granularity="channel", rounding=RoundingMode.ODD, subnormal=False),
        FloatSetting(granularity="block", block_size=6, dynamic=True, rounding=RoundingMode.DOWN),
        MXSetting(format="mxfp6_e2m3", block_size=5, rounding=RoundingMode.TOWARD_ZERO),
        MXSetting(format="mxint8", scale_rule=MXScaleRule.EVEN),
        MXSetting(format="nvfp4"),
        MXSetting(format="nvfp4_one_level"),
    ],
    ids=lambda setting: setting.label,
)
def test_an_encoding_gives_float_and_block_quantizers_back(setting: QuantizerSetting) -> None:
    values = torch.randn(6, 16)
    quantizer = parameter_quantizer(setting, values, 0, where="w")
    if quantizer.needs_calibration and not quantizer.is_initialized():
        quantizer = calibrated(quantizer, values)
    encoding = quantizer.get_encodings()
    assert encoding is not None
    again = quantizer_from_encoding(encoding)
    assert type(again) is type(quantizer)
    assert again.get_encodings() == encoding
    assert torch.equal(again(values), quantizer(values))
