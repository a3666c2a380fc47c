"""Named configurations. Each function's text says what the name means and why it is so.

All presets quantize both operands of every multiplying module (linear, convolution, recurrent, attention projection):
the weights, and the activations that meet them. Sums, norms, activation functions, biases and embedding look-ups stay
in floating point. ``activation_placement`` moves the activation quantizers to the outputs of all modules instead:

    >>> outputs = preset("w8a8").model_copy(update={"activation_placement": "outputs"})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from difflib import get_close_matches
from types import MappingProxyType
from typing import Final

from quantsim.errors import ConfigurationError
from quantsim.quantization.optical import DEFAULT_LUT
from quantsim.sim.config import (
    ActivationPlacement,
    AnalyzerKind,
    AnalyzerSetting,
    FloatSetting,
    GranularityKind,
    IntegerSetting,
    MXSetting,
    OperationSetting,
    OpticalSetting,
    SimulationConfig,
    SoftmaxSetting,
)
from quantsim.sim.fused_groups import DEFAULT_FUSED_GROUPS, RMS_NORM_GROUP

__all__ = [
    "PRESETS",
    "bf16",
    "fp8_e4m3",
    "fp8_e5m2",
    "fp16",
    "integer_w8a8",
    "mxfp4",
    "mxfp6_e2m3",
    "mxfp6_e3m2",
    "mxfp8",
    "mxfp8_e5m2",
    "mxint8",
    "nvfp4",
    "optical_256",
    "preset",
    "preset_names",
    "w4a8",
    "w4a8_dynamic",
    "w4a16_g32",
    "w8a8",
    "w8a8_dynamic",
]

_EXACT_MSE: Final = AnalyzerSetting(kind=AnalyzerKind.EXACT_MSE)
_TOKEN_MSE: Final = AnalyzerSetting(kind=AnalyzerKind.TOKEN_MSE)


def w8a8() -> SimulationConfig:
    """8-bit weights, 8-bit activations with fixed ranges: what integer accelerators run.

    * Weights: int8, symmetric, per output channel; range of least squared error.
    * Activations: 8 bit, asymmetric, one range a tensor: that of least squared error where every token of the
      calibration data counts alike (:class:`~quantsim.quantization.analyzers.TokenMseEncodingAnalyzer`).
      Transformers put huge values into one token; min-max and plain squared error give these most of the grid, which
      costs 1.5 dB on MiniLM.
    """
    return SimulationConfig(
        name="w8a8",
        description="int8 weights per channel, 8-bit activations per tensor, ranges fixed by calibration",
        weights=IntegerSetting(bits=8, granularity=GranularityKind.CHANNEL, analyzer=_EXACT_MSE),
        activations=IntegerSetting(bits=8, symmetric=False, analyzer=_TOKEN_MSE),
    )


def w8a8_dynamic() -> SimulationConfig:
    """8-bit weights, 8-bit activations whose scale each token computes for itself; needs no calibration data.

    * Weights: 8 bit, asymmetric, per output channel; range of least squared error. (Symmetric ones cost 0.4 dB on
      MiniLM.)
    * Activations: 8 bit, asymmetric, one range a token (min-max of its row). Asymmetric, because the rows that enter a
      layer are far from centred: symmetric rows cost about 4 dB on MiniLM.
    """
    return SimulationConfig(
        name="w8a8_dynamic",
        description="8-bit weights per channel, 8-bit activations per token with run-time scales",
        weights=IntegerSetting(bits=8, symmetric=False, granularity=GranularityKind.CHANNEL, analyzer=_EXACT_MSE),
        activations=IntegerSetting(bits=8, symmetric=False, granularity=GranularityKind.TOKEN, dynamic=True),
    )


def w4a8() -> SimulationConfig:
    """4-bit weights in groups of 32, 8-bit activations with fixed ranges.

    * Weights: 4 bit, asymmetric, one range for each 32 inputs of an output channel, of least squared error.
    * Activations: as in :func:`w8a8`.
    """
    return SimulationConfig(
        name="w4a8",
        description="4-bit weights in groups of 32, 8-bit activations per tensor, ranges fixed by calibration",
        weights=_four_bit_groups(),
        activations=IntegerSetting(bits=8, symmetric=False, analyzer=_TOKEN_MSE),
    )


def w4a8_dynamic() -> SimulationConfig:
    """4-bit weights in groups of 32, 8-bit activations, a run-time scale for each token; needs no calibration data.

    * Weights: as in :func:`w4a8`.
    * Activations: as in :func:`w8a8_dynamic`.
    """
    return SimulationConfig(
        name="w4a8_dynamic",
        description="4-bit weights in groups of 32, 8-bit activations per token with run-time scales",
        weights=_four_bit_groups(),
        activations=IntegerSetting(bits=8, symmetric=False, granularity=GranularityKind.TOKEN, dynamic=True),
    )


def w4a16_g32() -> SimulationConfig:
    """4-bit weights in groups of 32, activations left alone: weight-only compression; needs no calibration data.

    * Weights: 4 bit, asymmetric, one range for each 32 inputs of an output channel, of least squared error.
    * Activations: not quantized; they stay in the model's own type (on hardware 16-bit floats, whose rounding is far
      below that of 4-bit weights).
    """
    return SimulationConfig(
        name="w4a16_g32",
        description="4-bit weights in groups of 32, activations in the model's own floating-point type",
        weights=_four_bit_groups(),
    )


def integer_w8a8() -> SimulationConfig:
    """Everything on integer grids, as :func:`quantsim.dualpath.to_integer` needs it: no float between first and last.

    * Weights: as in :func:`w8a8`. Quantizers of activations sit at the outputs of all modules, 8 bit asymmetric; ranges
      of least squared error, where features of images are no tokens whose errors would count alike.
    * Sums (the residual stream) and what they add, norms, products element by element and the scores of attention:
      16 bit symmetric, min-max; before a matrix multiplication they are rounded to 8 bit as in :func:`w8a8`. (On
      MiniLM 8 bits for what the feed-forward layers add to the residual stream cost as much as all other roundings
      together.)
    * Softmax: 8-bit numerators, divided by their sum after the product with the values.
    """
    sixteen = IntegerSetting(bits=16)
    wide = OperationSetting(outputs=sixteen)
    ops = ("add", "subtract", "multiply", "layer_norm", "rms_norm", "embedding", "mean")
    return SimulationConfig(
        name="integer_w8a8",
        description="integers everywhere: 8-bit operands, 16-bit sums, norms and scores, integer softmax",
        weights=IntegerSetting(bits=8, granularity=GranularityKind.CHANNEL, analyzer=_EXACT_MSE),
        activations=IntegerSetting(bits=8, symmetric=False, analyzer=AnalyzerSetting(kind=AnalyzerKind.MSE)),
        activation_placement=ActivationPlacement.OUTPUTS,
        fused_groups=(*DEFAULT_FUSED_GROUPS, RMS_NORM_GROUP),
        operands=IntegerSetting(bits=8, symmetric=False, analyzer=_TOKEN_MSE),
        scores=sixteen,
        addends=sixteen,
        operations={**dict.fromkeys(ops, wide), "softmax": OperationSetting(outputs=SoftmaxSetting())},
    )


def fp8_e4m3() -> SimulationConfig:
    """8-bit floats (e4m3fn: 4 exponent bits, 3 mantissa bits, largest value 448) for weights and activations.

    * Weights: one float32 scale for each 32 inputs of an output channel, of least squared error. (Three mantissa bits
      round hardly less coarsely than four-bit integers do in small groups; one scale a channel costs 1 dB on MiniLM.)
    * Activations: one scale a token, computed at run time; needs no calibration data.
    """
    return _fp8("fp8_e4m3", "e4m3fn")


def fp8_e5m2() -> SimulationConfig:
    """8-bit floats (e5m2: 5 exponent bits, 2 mantissa bits, largest value 57344) for weights and activations.

    Scales as in :func:`fp8_e4m3`, so that the two differ in the format alone: what the wider exponent gains where
    magnitudes in a row differ by more than a factor of 2**15, and what the missing mantissa bit (6 dB) costs where they
    do not. It is the format of gradients rather than of inference.
    """
    return _fp8("fp8_e5m2", "e5m2")


def fp16() -> SimulationConfig:
    """IEEE half precision (5 exponent bits, 10 mantissa bits, largest value 65504) for weights and activations.

    * Weights and activations: cast as they are, to nearest even; no scales, no calibration data. Magnitudes beyond
      65504 become 65504, so that one outlier costs its own value and not the whole output; ``saturate: false`` makes
      them infinite, as a cast on hardware does.
    * Products are summed in the model's own type, as matrix engines do in float32.
    """
    return _plain_float("fp16", "IEEE half precision")


def bf16() -> SimulationConfig:
    """bfloat16 (8 exponent bits, 7 mantissa bits: the range of float32) for weights and activations.

    As :func:`fp16`, with three mantissa bits less (18 dB) for a range that nothing leaves.
    """
    return _plain_float("bf16", "bfloat16")


def mxfp8() -> SimulationConfig:
    """OCP MXFP8 with e4m3 elements: 32 values share a power of two; for weights and activations.

    * Weights: e4m3fn elements; each 32 inputs of an output channel share one 8-bit exponent, chosen by OCP's ``floor``
      rule from their largest magnitude. It may cut the top of a block off (448 of up to 512), which ``scale_rule:
      rceil`` does not: that is worth 2 dB on MiniLM.
    * Activations: the same, along the axis that the multiplication sums over (features, channels), from each tensor at
      run time; needs no calibration data.
    """
    return _microscaling("mxfp8", "mxfp8_e4m3", "MXFP8 (e4m3)")


def mxfp8_e5m2() -> SimulationConfig:
    """OCP MXFP8 with e5m2 elements, as :func:`mxfp8`: one mantissa bit less for 32 binades within a block.

    Thirty-two values seldom differ that much, so on weights and activations it loses to :func:`mxfp8`; it is meant for
    gradients.
    """
    return _microscaling("mxfp8_e5m2", "mxfp8_e5m2", "MXFP8 (e5m2)")


def mxfp6_e3m2() -> SimulationConfig:
    """OCP MXFP6 with e3m2 elements (largest value 28), blocks as in :func:`mxfp8`: 6.25 bits a value."""
    return _microscaling("mxfp6_e3m2", "mxfp6_e3m2", "MXFP6 (e3m2)")


def mxfp6_e2m3() -> SimulationConfig:
    """OCP MXFP6 with e2m3 elements (largest value 7.5), blocks as in :func:`mxfp8`: 6.25 bits a value.

    Within 32 values the finer steps of three mantissa bits count for more than the range of three exponent bits, so it
    is the better of the two MXFP6 formats for inference.
    """
    return _microscaling("mxfp6_e2m3", "mxfp6_e2m3", "MXFP6 (e2m3)")


def mxfp4() -> SimulationConfig:
    """OCP MXFP4: e2m1 elements (0, 0.5, 1, 1.5, 2, 3, 4, 6), blocks as in :func:`mxfp8`: 4.25 bits a value.

    For weights and activations both, which most models do not stand without being trained for it; for four-bit weights
    alone take the activations away (``activations: null``).
    """
    return _microscaling("mxfp4", "mxfp4", "MXFP4")


def mxint8() -> SimulationConfig:
    """OCP MXINT8: 8-bit integers, blocks as in :func:`mxfp8`; evenly spaced values, the finest of the MX formats."""
    return _microscaling("mxint8", "mxint8", "MXINT8")


def nvfp4() -> SimulationConfig:
    """NVFP4: e2m1 elements, 16 of which share an e4m3 scale; and one float32 scale a tensor: 4.5 bits a value.

    Half the block and a scale that is no power of two: a block's largest value meets the largest of the format to
    within 1/16 of it. Scales of weights and activations are computed at run time; needs no calibration data.
    """
    return _microscaling("nvfp4", "nvfp4", "NVFP4")


def optical_256() -> SimulationConfig:
    """256 evenly spaced levels for weights and activations: the converters and modulators of an optical engine.

    * Weights: one range a tensor, from its smallest to its largest value; magnitudes below 0.02004 of the range's ends
      are raised to that, the smallest transmission of a modulator.
    * Activations: the same without a smallest transmission; the range is a moving average over calibration batches.

    These are the operands of every multiplication, convolutions included. What an engine does to the products (their
    own levels and noise, before the bias is added) is in `quantsim.optical.OtLinear` and optical attention, which
    `quantsim.transforms.optical_transformer_module_transform_pass` puts in place.
    """
    return SimulationConfig(
        name="optical_256",
        description="operands on 256 evenly spaced levels, ranges per tensor from calibration",
        weights=OpticalSetting(lut=DEFAULT_LUT),
        activations=OpticalSetting(),
    )


def _fp8(name: str, format: str) -> SimulationConfig:
    return SimulationConfig(
        name=name,
        description=f"{format} weights in groups of 32, {format} activations per token with run-time scales",
        weights=FloatSetting(format=format, granularity=GranularityKind.BLOCK, block_size=32, analyzer=_EXACT_MSE),
        activations=FloatSetting(format=format, granularity=GranularityKind.TOKEN, dynamic=True),
    )


def _plain_float(name: str, words: str) -> SimulationConfig:
    setting = FloatSetting(format=name, scaled=False)
    return SimulationConfig(
        name=name,
        description=f"weights and activations cast to {words}, without scales",
        weights=setting,
        activations=setting,
    )


def _microscaling(name: str, format: str, words: str) -> SimulationConfig:
    setting = MXSetting(format=format)
    return SimulationConfig(
        name=name,
        description=f"{words} weights and activations: run-time scales for blocks of {setting.grid.block_size}",
        weights=setting,
        activations=setting,
    )


def _four_bit_groups() -> IntegerSetting:
    return IntegerSetting(
        bits=4, symmetric=False, granularity=GranularityKind.BLOCK, block_size=32, analyzer=_EXACT_MSE
    )


PRESETS: Final[Mapping[str, Callable[[], SimulationConfig]]] = MappingProxyType(
    {
        function.__name__: function
        for function in (
            w8a8,
            w8a8_dynamic,
            w4a8,
            w4a8_dynamic,
            w4a16_g32,
            integer_w8a8,
            fp8_e4m3,
            fp8_e5m2,
            fp16,
            bf16,
            mxfp8,
            mxfp8_e5m2,
            mxfp6_e3m2,
            mxfp6_e2m3,
            mxfp4,
            mxint8,
            nvfp4,
            optical_256,
        )
    }
)
"""The function that makes each preset, by name."""


def preset_names() -> tuple[str, ...]:
    """Names of all presets."""
    return tuple(PRESETS)


def preset(name: str) -> SimulationConfig:
    """A preset by its name.

    Raises:
        ConfigurationError: No preset of that name; says which are near.

    Example:
        >>> preset("w4a16_g32").weights.label
        'int4 asymmetric, block of 32'
    """
    make = PRESETS.get(name)
    if make is None:
        near = get_close_matches(name, PRESETS, n=2, cutoff=0.5)
        raise ConfigurationError(
            "there is no such preset",
            where="config",
            got=repr(name),
            expected=f"one of {', '.join(PRESETS)}, or the path of a .json or .yaml file",
            fix=f"did you mean {' or '.join(map(repr, near))}?" if near else "see quantsim.sim.preset_names()",
        )
    return make()
