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
from quantsim.sim.config import (
    AnalyzerKind,
    AnalyzerSetting,
    FloatSetting,
    GranularityKind,
    IntegerSetting,
    SimulationConfig,
)

__all__ = ["PRESETS", "fp8_e4m3", "preset", "preset_names", "w4a8", "w4a8_dynamic", "w4a16_g32", "w8a8", "w8a8_dynamic"]

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


def fp8_e4m3() -> SimulationConfig:
    """8-bit floats (e4m3fn: 4 exponent bits, 3 mantissa bits, largest value 448) for weights and activations.

    * Weights: one float32 scale for each 32 inputs of an output channel, of least squared error. (Three mantissa bits
      round hardly less coarsely than four-bit integers do in small groups; one scale a channel costs 1 dB on MiniLM.)
    * Activations: one scale a token, computed at run time; needs no calibration data.
    """
    return SimulationConfig(
        name="fp8_e4m3",
        description="e4m3fn weights in groups of 32, e4m3fn activations per token with run-time scales",
        weights=FloatSetting(format="e4m3fn", granularity=GranularityKind.BLOCK, block_size=32, analyzer=_EXACT_MSE),
        activations=FloatSetting(format="e4m3fn", granularity=GranularityKind.TOKEN, dynamic=True),
    )


def _four_bit_groups() -> IntegerSetting:
    return IntegerSetting(
        bits=4, symmetric=False, granularity=GranularityKind.BLOCK, block_size=32, analyzer=_EXACT_MSE
    )


PRESETS: Final[Mapping[str, Callable[[], SimulationConfig]]] = MappingProxyType(
    {function.__name__: function for function in (w8a8, w8a8_dynamic, w4a8, w4a8_dynamic, w4a16_g32, fp8_e4m3)}
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
