"""Builds quantizers: from a setting and a tensor's shape, or from a loaded encoding."""

from __future__ import annotations

import warnings
from typing import Any

from torch import Tensor

from quantsim.errors import ConfigurationError
from quantsim.quantization import affine, analyzers
from quantsim.quantization import float as float_quantization
from quantsim.quantization.analyzers.exact_mse import ExactMseEncodingAnalyzer
from quantsim.quantization.analyzers.token_mse import TokenMseEncodingAnalyzer
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.granularity import PerBlock
from quantsim.quantization.methods import METHODS, Method
from quantsim.quantization.mx import MXQuantizeDequantize
from quantsim.quantization.optical import OpticalQuantizeDequantize
from quantsim.quantization.softmax import UnnormalizedSoftmaxQuantizeDequantize
from quantsim.sim.config import (
    AnalyzerKind,
    AnalyzerSetting,
    FloatSetting,
    GranularityKind,
    IntegerSetting,
    MXSetting,
    OpticalSetting,
    QuantizerSetting,
    SoftmaxSetting,
)
from quantsim_encodings.encoding import (
    AffineEncoding,
    DynamicEncoding,
    Encoding,
    FloatEncoding,
    GroupedBlockEncoding,
    MXEncoding,
    OpticalEncoding,
)
from quantsim_encodings.formats import FloatFormat, IntFormat, MXFormat, NVFP4Format, OpticalNoise
from quantsim_kernels.random_seeds import next_seed

__all__ = ["activation_quantizer", "parameter_quantizer", "quantizer_from_encoding"]

_ANALYZERS = {
    AnalyzerKind.MIN_MAX: analyzers.MinMaxEncodingAnalyzer,
    AnalyzerKind.PERCENTILE: analyzers.PercentileEncodingAnalyzer,
    AnalyzerKind.SQNR: analyzers.SqnrEncodingAnalyzer,
    AnalyzerKind.MSE: analyzers.MseEncodingAnalyzer,
    AnalyzerKind.TOKEN_MSE: TokenMseEncodingAnalyzer,
    AnalyzerKind.ENTROPY: analyzers.EntropyEncodingAnalyzer,
}


_IMAGE_DIMS = {
    "conv1d": 2,
    "conv2d": 3,
    "conv3d": 4,
    "conv_transpose1d": 2,
    "conv_transpose2d": 3,
    "conv_transpose3d": 4,
}
"""Trailing dimensions of one sample of a convolution: channels and space."""


def _analyzer(
    setting: AnalyzerSetting,
    grid: IntFormat | FloatFormat,
    shape: tuple[int, ...],
    block_size: tuple[int, ...] | None,
    token_dims: int,
) -> analyzers.EncodingAnalyzer:
    if setting.kind is AnalyzerKind.EXACT_MSE:
        return ExactMseEncodingAnalyzer(shape, grid, block_size=block_size)
    arguments: dict[str, Any] = {}
    if setting.kind is AnalyzerKind.TOKEN_MSE:
        arguments["token_dims"] = token_dims
    elif block_size is not None:
        arguments["block_size"] = block_size
    if setting.candidates is not None:
        arguments["asymmetric_delta_candidates"] = arguments["symmetric_delta_candidates"] = setting.candidates
    if setting.percentile is not None:
        arguments["percentile"] = setting.percentile
    if setting.num_bins is not None:
        arguments["num_bins"] = setting.num_bins
    return _ANALYZERS[setting.kind](shape, **arguments)


def _build(
    setting: IntegerSetting | FloatSetting,
    shape: tuple[int, ...],
    block_size: tuple[int, ...] | None,
    *,
    group_axis: int = -1,
    token_dims: int = 1,
) -> QuantizerBase:
    if isinstance(setting, FloatSetting):
        if not setting.scaled:
            return float_quantization.FloatQuantizeDequantize(
                format=setting.grid, rounding=setting.rounding, saturate=setting.saturate, scaled=False
            )
        grid = setting.grid
        analyzer = _analyzer(setting.analyzer, grid, shape, block_size, token_dims)
        return float_quantization.FloatQuantizeDequantize(
            format=grid,
            shape=shape,
            block_size=block_size,
            encoding_analyzer=analyzer,
            rounding=setting.rounding,
        )
    integers = IntFormat.from_bits(setting.bits, signed=setting.symmetric)
    analyzer = _analyzer(setting.analyzer, integers, shape, block_size, token_dims)
    if setting.decompressed_bits is not None and block_size is not None:
        grouping = tuple(-1 if axis == group_axis else 1 for axis in range(len(shape)))
        return affine.GroupedBlockQuantizeDequantize(
            shape,
            setting.bits,
            True,
            decompressed_bw=setting.decompressed_bits,
            encoding_analyzer=analyzer,
            block_size=block_size,
            block_grouping=grouping,
        )
    if setting.method is not Method.RANGE and setting.analyzer == AnalyzerSetting():
        analyzer = None  # the method's own
    return METHODS[setting.method](
        shape, setting.bits, setting.symmetric, encoding_analyzer=analyzer, block_size=block_size
    )


def _optical(setting: OpticalSetting) -> QuantizerBase:
    return OpticalQuantizeDequantize(
        setting.levels,
        setting.lut,
        setting.noise,
        setting.quantiles,
        setting.smooth_factor,
        int(next_seed()) if setting.seed is None and setting.noise is not OpticalNoise.NONE else setting.seed or 0,
        setting.photons,
    )


def _run_time_blocks(setting: FloatSetting | MXSetting, axis: int) -> QuantizerBase:
    if isinstance(setting, MXSetting):
        return MXQuantizeDequantize(setting.grid, axis, rounding=setting.rounding)
    assert setting.block_size is not None  # the setting's own validation
    return float_quantization.DynamicFloatQuantizeDequantize(
        format=setting.grid, granularity=PerBlock(axis, setting.block_size), rounding=setting.rounding
    )


def parameter_quantizer(
    setting: QuantizerSetting, values: Tensor, channel_axis: int | None, *, summed_axis: int | None = None, where: str
) -> QuantizerBase:
    """A quantizer for a parameter, on the parameter's device.

    Channels are along ``channel_axis``. A block holds ``block_size`` elements of the next axis (the inputs that are
    summed) and the whole of the axes after it (a convolution's kernel); an input axis no longer than a block is one
    block. An axis that ``block_size`` does not divide is cut into the largest equal blocks below it, with a warning. A
    vector has one range. Blocks with run-time scales lie along ``summed_axis``, the last of which may be shorter.

    Args:
        setting: Format, granularity, analyzer.
        values: The parameter; only its shape and device are read.
        channel_axis: Axis of the output channels; None for a vector.
        summed_axis: Axis that the module sums over; None: the axis next to that of the channels.
        where: What errors call the parameter.

    Raises:
        ConfigurationError: The input axis has no divisor from a quarter of ``block_size`` on.

    Warns:
        UserWarning: The blocks are smaller than asked for.
    """
    shape = tuple(values.shape)
    assert not isinstance(setting, SoftmaxSetting)  # the config's own validation
    if isinstance(setting, OpticalSetting):
        return _optical(setting).to(values.device)
    if isinstance(setting, MXSetting) or setting.dynamic:
        assert not isinstance(setting, IntegerSetting)  # the setting's own validation: those have no run-time blocks
        axis = summed_axis if summed_axis is not None else 1 if channel_axis == 0 else 0
        return _run_time_blocks(setting, axis).to(values.device)
    if setting.granularity is GranularityKind.TENSOR or channel_axis is None:
        return _build(setting, (), None).to(values.device)
    scales = tuple(size if axis == channel_axis else 1 for axis, size in enumerate(shape))
    if setting.granularity is GranularityKind.CHANNEL:
        return _build(setting, scales, None).to(values.device)
    assert setting.block_size is not None  # the setting's own validation
    input_axis = 1 if channel_axis == 0 else 0
    length = shape[input_axis]
    if length <= setting.block_size:
        return _build(setting, scales, None).to(values.device)
    size = _block_size(setting.block_size, length, where=where)
    count = length // size
    scales = tuple(count if axis == input_axis else size for axis, size in enumerate(scales))
    # -1 only where there is more than one element: blocks along one axis are what most encodings versions can hold.
    block = tuple(
        size if axis == input_axis else 1 if axis == channel_axis or extent == 1 else -1
        for axis, extent in enumerate(shape)
    )
    return _build(setting, scales, block, group_axis=input_axis).to(values.device)


def _block_size(wanted: int, length: int, *, where: str) -> int:
    """The largest divisor of ``length`` up to ``wanted``."""
    size = next(size for size in range(wanted, 0, -1) if length % size == 0)
    if size * 4 < wanted:
        raise ConfigurationError(
            "the weight cannot be cut into equal blocks of about that size",
            where=where,
            got=f"block_size={wanted} for an axis of {length}, whose largest divisor up to {wanted} is {size}",
            expected=f"a block size that divides {length}",
            fix="add a rule for this module with another block_size or granularity 'channel'",
        )
    if size != wanted:
        warnings.warn(
            f"{where}: blocks of {size} instead of {wanted}, which does not divide the axis of {length}; "
            "add a rule for this module to choose otherwise",
            stacklevel=2,
        )
    return size


def activation_quantizer(
    setting: QuantizerSetting, *, op: str | None = None, summed_axis: int = -1, where: str
) -> QuantizerBase:
    """A quantizer for an activation: one range a tensor, or one a token or block at run time.

    Args:
        setting: Format, granularity, analyzer.
        op: Op of the module, which tells what one token of its tensors is.
        summed_axis: Axis along which blocks lie.
        where: What errors call the activation.

    Raises:
        ConfigurationError: Granularity channel or calibrated blocks, whose shape an activation does not tell.
    """
    if isinstance(setting, OpticalSetting):
        return _optical(setting)
    if isinstance(setting, SoftmaxSetting):
        if op != "softmax":
            raise ConfigurationError(
                "unnormalised numerators are those of a softmax",
                where=where,
                got=f"kind 'softmax' for {op or 'a module of no known op'}",
                expected="the output of a softmax",
                fix="write operations: {softmax: {outputs: {kind: softmax}}}",
            )
        return UnnormalizedSoftmaxQuantizeDequantize(setting.bits)
    if isinstance(setting, MXSetting):
        return _run_time_blocks(setting, summed_axis)
    if isinstance(setting, FloatSetting) and setting.dynamic and setting.granularity is GranularityKind.BLOCK:
        return _run_time_blocks(setting, summed_axis)
    if setting.granularity in (GranularityKind.CHANNEL, GranularityKind.BLOCK):
        raise ConfigurationError(
            "activations have no fixed channels to calibrate",
            where=where,
            got=f"granularity {setting.granularity.value!r}",
            expected="'tensor', 'token' with dynamic: true, or in floating point 'block' with dynamic: true",
            fix="change the setting, or assign a quantizer of the wanted shape to the module yourself",
        )
    if not setting.dynamic:
        return _build(setting, (), None, token_dims=_IMAGE_DIMS.get(op or "", 1))
    if isinstance(setting, IntegerSetting):
        return affine.DynamicQuantizeDequantize(setting.bits, setting.symmetric)
    return float_quantization.DynamicFloatQuantizeDequantize(format=setting.grid, rounding=setting.rounding)


def quantizer_from_encoding(encoding: Encoding) -> QuantizerBase:
    """A calibrated quantizer that has the grid of an encoding.

    Raises:
        ConfigurationError: No quantizer class of this version holds such an encoding.
    """
    match encoding:
        case GroupedBlockEncoding():
            return affine.GroupedBlockQuantizeDequantize.from_encodings(encoding)
        case AffineEncoding():
            return affine.QuantizeDequantize.from_encodings(encoding)
        case FloatEncoding():
            return float_quantization.FloatQuantizeDequantize.from_encodings(encoding)
        case DynamicEncoding(format=IntFormat()):
            return affine.DynamicQuantizeDequantize.from_encodings(encoding)
        case DynamicEncoding(format=FloatFormat()):
            return float_quantization.DynamicFloatQuantizeDequantize.from_encodings(encoding)
        case MXEncoding(format=MXFormat() | NVFP4Format()):
            return MXQuantizeDequantize.from_encodings(encoding)
        case OpticalEncoding():
            return OpticalQuantizeDequantize.from_encodings(encoding)
    raise ConfigurationError(
        "no quantizer holds such an encoding",
        got=f"{type(encoding).__name__} in {encoding.format}",
        expected="an integer, floating-point, block or optical encoding",
        fix="remove the entry from the file, or load it with a later version of quantsim",
    )
