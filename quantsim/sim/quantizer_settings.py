"""How one quantizer is to represent numbers: frozen pydantic models, from Python, YAML or JSON."""

from __future__ import annotations

import dataclasses
import math
from enum import StrEnum
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from typing_extensions import override

from quantsim.quantization.methods import Method
from quantsim_encodings.formats import (
    MAX_LEVELS,
    NAMED_FLOAT_FORMATS,
    NAMED_MX_FORMATS,
    FloatFormat,
    MXFormat,
    MXScaleRule,
    NanEncoding,
    NVFP4Format,
    OpticalFormat,
    OpticalNoise,
    RoundingMode,
    block_format,
    float_format,
)

__all__ = [
    "AnalyzerKind",
    "AnalyzerSetting",
    "FloatSetting",
    "GranularityKind",
    "IntegerSetting",
    "MXSetting",
    "OpticalSetting",
    "QuantizerSetting",
    "Setting",
    "SoftmaxSetting",
    "check_parameter_setting",
]


_MAX_EXPONENT_BITS, _MAX_MANTISSA_BITS = 8, 23
"""Of float32, in which simulations run."""


class Setting(BaseModel):
    """Base of all settings: frozen, and an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class GranularityKind(StrEnum):
    """Which elements share one set of parameters; the axis of channels and blocks follows from the module's type."""

    TENSOR = "tensor"
    CHANNEL = "channel"
    BLOCK = "block"
    TOKEN = "token"


class AnalyzerKind(StrEnum):
    """How a range is chosen from what was observed."""

    MIN_MAX = "min_max"
    PERCENTILE = "percentile"
    SQNR = "sqnr"
    MSE = "mse"
    EXACT_MSE = "exact_mse"
    """Squared error of the values themselves instead of their histogram; for weights."""
    TOKEN_MSE = "token_mse"
    """Squared error relative to each token's energy; for activations."""
    ENTROPY = "entropy"


class AnalyzerSetting(Setting):
    """Which encoding analyzer, and its arguments.

    Example:
        >>> AnalyzerSetting(kind="percentile", percentile=99.99).kind
        <AnalyzerKind.PERCENTILE: 'percentile'>
    """

    kind: AnalyzerKind = AnalyzerKind.MIN_MAX
    percentile: float | None = Field(default=None, gt=50.0, le=100.0)
    """Percent of the values that the range covers on each side; only for ``percentile`` (default there: 100)."""
    num_bins: int | None = Field(default=None, ge=16, le=65536, multiple_of=4)
    """Bins of the histogram; not for ``min_max`` (default 2048)."""
    candidates: int | None = Field(default=None, ge=3, le=1024)
    """Scales that ``mse`` and ``sqnr`` try (default: 17 for asymmetric, 101 for symmetric grids)."""

    @model_validator(mode="after")
    def _arguments_fit_the_kind(self) -> Self:
        if self.percentile is not None and self.kind is not AnalyzerKind.PERCENTILE:
            raise ValueError(f"percentile={self.percentile} is only for kind 'percentile', not {self.kind.value!r}")
        if self.candidates is not None and self.kind not in (AnalyzerKind.MSE, AnalyzerKind.SQNR):
            raise ValueError(
                f"candidates={self.candidates} is only for kinds 'mse' and 'sqnr', not {self.kind.value!r}"
            )
        if self.num_bins is not None and self.kind in (AnalyzerKind.MIN_MAX, AnalyzerKind.EXACT_MSE):
            raise ValueError(f"num_bins is for analyzers that keep a histogram; {self.kind.value!r} keeps none")
        return self


class _QuantizerSetting(Setting):
    _run_time: ClassVar[tuple[GranularityKind, ...]] = (GranularityKind.TOKEN,)
    granularity: GranularityKind = GranularityKind.TENSOR
    block_size: int | None = Field(default=None, ge=1)
    """Elements of a block along the reduced axis; needed for, and only for, ``granularity: block``."""
    dynamic: bool = False
    """Compute the scales from each tensor at run time, one for each token (or block, in a float setting); nothing is
    calibrated."""
    analyzer: AnalyzerSetting = AnalyzerSetting()

    @field_validator("analyzer", mode="before")
    @classmethod
    def _analyzer_by_name(cls, value: object) -> object:
        return {"kind": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _granularity_is_complete(self) -> Self:
        if (self.block_size is not None) != (self.granularity is GranularityKind.BLOCK):
            raise ValueError(
                f"block_size={self.block_size} with granularity {self.granularity.value!r}: "
                "a block size goes with granularity 'block', and only with it"
            )
        if self.granularity is GranularityKind.TOKEN and not self.dynamic:
            raise ValueError("granularity 'token' with dynamic=False: scales per token are run-time scales; set both")
        if self.dynamic and self.granularity not in self._run_time:
            possible = " or per ".join(kind.value for kind in self._run_time)
            raise ValueError(
                f"dynamic=True with granularity {self.granularity.value!r}: run-time scales are per {possible}"
            )
        if self.dynamic and self.analyzer != AnalyzerSetting():
            raise ValueError("a dynamic quantizer observes nothing: remove 'analyzer'")
        return self

    @property
    def needs_data(self) -> bool:
        """Whether the quantizer is calibrated."""
        return not self.dynamic


class IntegerSetting(_QuantizerSetting):
    """An integer grid.

    Example:
        >>> IntegerSetting(bits=4, symmetric=True, granularity="block", block_size=32).label
        'int4 symmetric, block of 32'
    """

    kind: Literal["int"] = "int"
    bits: int = Field(default=8, ge=2, le=32)
    symmetric: bool = True
    """True: signed grid around zero. False: unsigned grid with a zero point."""
    decompressed_bits: int | None = Field(default=None, ge=3, le=32)
    """LPBQ: block scales are integer multiples, of this many bits less ``bits``, of one scale a channel."""
    fixed_range: tuple[float, float] | None = None
    """Smallest and largest value, known beforehand: (0, 1) of a softmax, say. Nothing is calibrated then."""
    method: Method = Method.RANGE
    """What training learns of the grid: ``lsq``, ``pact``, ``rcf``, ``sawb``, ``qdrop``, ``adaround``."""

    @property
    @override
    def needs_data(self) -> bool:
        return not self.dynamic and self.fixed_range is None

    @model_validator(mode="after")
    def _fixed_range_is_one(self) -> Self:
        if self.fixed_range is None:
            return self
        low, high = self.fixed_range
        if not (math.isfinite(low) and math.isfinite(high) and low < high):
            raise ValueError(f"fixed_range={self.fixed_range}: expected two finite numbers, the lower one first")
        if self.granularity is not GranularityKind.TENSOR or self.analyzer != AnalyzerSetting():
            raise ValueError("fixed_range is for a whole tensor, and nothing is observed: remove granularity, analyzer")
        return self

    @model_validator(mode="after")
    def _method_fits_the_grid(self) -> Self:
        if self.method is Method.RANGE:
            return self
        if self.dynamic or self.decompressed_bits is not None:
            raise ValueError(f"method={self.method.value!r}: run-time scales, and LPBQ's, are not learned")
        if self.method is Method.SAWB and not (self.symmetric and self.bits <= 8):
            raise ValueError("method='sawb' needs symmetric: true and 2 to 8 bits")
        return self

    @model_validator(mode="after")
    def _lpbq_is_complete(self) -> Self:
        if self.decompressed_bits is not None:
            if self.granularity is not GranularityKind.BLOCK or not self.symmetric:
                raise ValueError("decompressed_bits (LPBQ) needs granularity 'block' and symmetric: true")
            if self.decompressed_bits <= self.bits:
                raise ValueError(f"decompressed_bits={self.decompressed_bits} must exceed bits={self.bits}")
        return self

    @property
    def label(self) -> str:
        """Short words for tables."""
        words = f"int{self.bits} {'symmetric' if self.symmetric else 'asymmetric'}, {_granularity_label(self)}"
        if self.method is not Method.RANGE:
            words = f"{words}, {self.method.value}"
        return (
            words if self.fixed_range is None else f"{words}, from {self.fixed_range[0]:g} to {self.fixed_range[1]:g}"
        )


class _RoundedSetting(Setting):
    rounding: RoundingMode = RoundingMode.NEAREST_EVEN
    """How values between two numbers are rounded: a name such as ``stochastic``, or a number from 0 to 9."""

    @field_validator("rounding", mode="before")
    @classmethod
    def _rounding_by_name_or_number(cls, value: Any) -> RoundingMode:
        return RoundingMode.parse(value)  # which refuses what it does not know

    @property
    def _rounding_label(self) -> str:
        return "" if self.rounding is RoundingMode.NEAREST_EVEN else f", {self.rounding.value}"


class FloatSetting(_QuantizerSetting, _RoundedSetting):
    """A floating-point grid, scaled so that the largest observed value meets the format's largest; or a plain cast.

    Example:
        >>> FloatSetting(format="e4m3fn", granularity="channel").label
        'e4m3fn, channel'
        >>> FloatSetting(format="e5m7", scaled=False, rounding="stochastic").label
        'e5m7, no scale, stochastic'
    """

    _run_time = (GranularityKind.TOKEN, GranularityKind.BLOCK)

    kind: Literal["float"] = "float"
    format: str = "e4m3fn"
    """A named format (fp16, bf16, e4m3fn, e5m2, e3m4, ...), or ``e<E>m<M>`` for an IEEE-like one."""
    scaled: bool = True
    """False: numbers are cast as they are. There is nothing to calibrate, so granularity and analyzer do not apply."""
    saturate: bool | None = True
    """Whether magnitudes beyond the largest number become it; False: infinity, or NaN in a format without; None: False
    in formats with infinities only. A scaled grid always saturates."""
    subnormal: bool = True
    """False: results below the smallest normal number become zero."""

    @field_validator("format")
    @classmethod
    def _format_is_known(cls, value: str) -> str:
        known = f"known: {', '.join(sorted(NAMED_FLOAT_FORMATS))}, and e<E>m<M>"
        try:
            format = float_format(value)
        except ValueError as error:
            raise ValueError(f"unknown float format {value!r} ({error}); {known}") from None
        if format.exponent_bits > _MAX_EXPONENT_BITS or format.mantissa_bits > _MAX_MANTISSA_BITS:
            raise ValueError(f"float format {value!r} does not fit in float32, e8m23; {known}")
        return value

    @model_validator(mode="after")
    def _scale_is_complete(self) -> Self:
        if not self.scaled and (
            self.dynamic or self.granularity is not GranularityKind.TENSOR or self.analyzer != AnalyzerSetting()
        ):
            raise ValueError("scaled=False: a plain cast has no scales; remove granularity, dynamic and analyzer")
        if self.scaled and self.saturate is False:
            raise ValueError("saturate=False: a scaled grid saturates; a plain cast (scaled: false) has this choice")
        grid = self.grid
        if self.saturate is False and not grid.has_infinity and grid.nan is NanEncoding.NONE:
            raise ValueError(f"saturate=False: {self.format} has neither infinities nor NaN for what is too large")
        return self

    @property
    @override
    def needs_data(self) -> bool:
        return self.scaled and not self.dynamic

    @property
    def grid(self) -> FloatFormat:
        """The format as data."""
        format = float_format(self.format)
        return format if self.subnormal else dataclasses.replace(format, has_subnormals=False)

    @property
    def label(self) -> str:
        """Short words for tables."""
        scales = _granularity_label(self) if self.scaled else "no scale"
        return f"{self.format}, {scales}{self._rounding_label}"


class MXSetting(_RoundedSetting):
    """Blocks of few bits that share a scale, computed at run time: OCP Microscaling (MX) and NVFP4.

    The blocks lie along the axis that the multiplication sums over, as a matrix engine for such formats needs it. An
    axis that the block size does not divide ends in a shorter block. Nothing is calibrated.

    Example:
        >>> MXSetting(format="mxfp4", scale_rule="ceil").label
        'mxfp4, block of 32, scale by ceil'
    """

    kind: Literal["mx"] = "mx"
    format: str = "mxfp8_e4m3"
    """mxfp8_e4m3, mxfp8_e5m2, mxfp6_e3m2, mxfp6_e2m3, mxfp4, mxint8, nvfp4 or nvfp4_one_level."""
    scale_rule: MXScaleRule | None = None
    """How the shared power of two follows from a block's largest magnitude; None: ``floor``, as OCP says. Not for
    NVFP4, whose scales are no powers of two."""
    block_size: int | None = Field(default=None, ge=1)
    """Elements of a block; None: 32, in NVFP4 16."""

    @field_validator("format")
    @classmethod
    def _format_is_known(cls, value: str) -> str:
        try:
            block_format(value)
        except ValueError:
            known = ", ".join((*NAMED_MX_FORMATS, "nvfp4", "nvfp4_one_level"))
            raise ValueError(f"unknown block format {value!r}; known: {known}") from None
        return value

    @model_validator(mode="after")
    def _rule_fits_the_format(self) -> Self:
        if self.scale_rule is not None and isinstance(block_format(self.format), NVFP4Format):
            raise ValueError(f"scale_rule={self.scale_rule.value!r}: {self.format} has no such choice")
        return self

    @property
    def needs_data(self) -> bool:
        """Whether the quantizer is calibrated: never."""
        return False

    @property
    def grid(self) -> MXFormat | NVFP4Format:
        """The format as data."""
        format = block_format(self.format)
        if self.block_size is not None:
            format = dataclasses.replace(format, block_size=self.block_size)
        if self.scale_rule is not None and isinstance(format, MXFormat):
            format = dataclasses.replace(format, scale_rule=self.scale_rule)
        return format

    @property
    def label(self) -> str:
        """Short words for tables."""
        rule = "" if self.scale_rule is None else f", scale by {self.scale_rule.value}"
        return f"{self.format}, block of {self.grid.block_size}{rule}{self._rounding_label}"


class OpticalSetting(Setting):
    """Evenly spaced levels from the lowest to the highest value, as converters and modulators of optical engines have.

    One range a tensor, the moving average of those of the calibration batches.

    Example:
        >>> OpticalSetting(levels=64, lut=0.02).label
        '64 optical levels, floor 0.02'
    """

    kind: Literal["optical"] = "optical"
    levels: int = Field(default=256, ge=2, le=MAX_LEVELS)
    lut: float | None = Field(default=None, ge=0.0, lt=1.0)
    """Smallest transmission, as a fraction of the ends of the range: smaller magnitudes are raised to it."""
    noise: OpticalNoise = OpticalNoise.NONE
    """Before rounding: dither, shot or none. It is a detector's, so it suits outputs."""
    photons: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """Photons of a value as large as the end of the range; for shot noise, and only then."""
    quantiles: tuple[float, float] | None = None
    """A batch's range are these two of its quantiles, instead of its smallest and largest value."""
    smooth_factor: float = Field(default=0.9, ge=0.0, le=1.0)
    """Weight of the old range when a batch moves it."""
    seed: int | None = None
    """Of the noise; None: each quantizer takes one from quantsim's own stream."""

    @model_validator(mode="after")
    def _noise_and_quantiles_are_complete(self) -> Self:
        if (self.noise is OpticalNoise.SHOT) != (self.photons is not None):
            raise ValueError(f"noise={self.noise.value!r} with photons={self.photons}: photons go with shot noise only")
        if self.quantiles is not None and not 0.0 <= self.quantiles[0] < self.quantiles[1] <= 1.0:
            raise ValueError(f"quantiles={self.quantiles}: expected two rising numbers from 0 to 1")
        return self

    @property
    def needs_data(self) -> bool:
        """Whether the quantizer is calibrated: always."""
        return True

    @property
    def grid(self) -> OpticalFormat:
        """The format as data."""
        return OpticalFormat(self.levels, self.lut, self.noise)

    @property
    def label(self) -> str:
        """Short words for tables."""
        floor = "" if self.lut is None else f", floor {self.lut:g}"
        noise = "" if self.noise is OpticalNoise.NONE else f", noise {self.noise.value}"
        return f"{self.levels} optical levels{floor}{noise}"


class SoftmaxSetting(Setting):
    """Attention weights as integer softmax computes them: rounded numerators, divided by their sum; nothing calibrated.

    For the outputs of softmax over the last dimension (``operations: {softmax: {outputs: {kind: softmax}}}``).

    Example:
        >>> SoftmaxSetting(bits=8).label
        'softmax of 8-bit numerators'
    """

    kind: Literal["softmax"] = "softmax"
    bits: int = Field(default=8, ge=2, le=16)
    """Bits of a numerator."""

    @property
    def needs_data(self) -> bool:
        """Whether the quantizer is calibrated: never."""
        return False

    @property
    def label(self) -> str:
        """Short words for tables."""
        return f"softmax of {self.bits}-bit numerators"


def _granularity_label(setting: _QuantizerSetting) -> str:
    blocks = setting.granularity is GranularityKind.BLOCK
    extent = f"block of {setting.block_size}" if blocks else setting.granularity.value
    return f"{extent}{' (run time)' if setting.dynamic else ''}"


QuantizerSetting = Annotated[
    IntegerSetting | FloatSetting | MXSetting | OpticalSetting | SoftmaxSetting, Field(discriminator="kind")
]


def check_parameter_setting(where: str, setting: QuantizerSetting | None) -> None:
    """Raises for a setting that only fits activations.

    Raises:
        ValueError: The setting is about tokens.
    """
    if setting is None or isinstance(setting, (MXSetting, OpticalSetting)):
        return
    if isinstance(setting, SoftmaxSetting):
        raise ValueError(f"{where}: kind 'softmax' is for the outputs of softmax")
    if setting.granularity is GranularityKind.TOKEN:
        raise ValueError(f"{where}: a parameter cannot have run-time scales of tokens; use granularity 'channel'")
    if setting.analyzer.kind is AnalyzerKind.TOKEN_MSE:
        raise ValueError(f"{where}: a parameter has no tokens; use analyzer 'mse'")
