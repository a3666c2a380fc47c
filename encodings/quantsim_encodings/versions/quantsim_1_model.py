"""The pydantic models of quantsim's own version 1."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, Strict

from quantsim_encodings.formats import MXScaleRule, NanEncoding, OpticalNoise, RoundingMode
from quantsim_encodings.versions.model import Model, Numbers, ProducerModel, QuantizerArguments

Size = Annotated[int, Field(ge=-1, lt=2**31)]
# An enum is written by its value, so the value is what a strict model must accept.
NanName = Annotated[NanEncoding, Strict(False)]
ScaleRuleName = Annotated[MXScaleRule, Strict(False)]
RoundingName = Annotated[RoundingMode, Strict(False)]
# Older files say true for dither and false for none.
OpticalNoiseName = Annotated[OpticalNoise, Strict(False), BeforeValidator(OpticalNoise.parse)]


class ArrayModel(Model):
    """An array: its shape, and its numbers in row-major order."""

    shape: Annotated[list[Annotated[int, Field(ge=0, lt=2**31)]], Field(max_length=16)]
    values: Numbers


class IntFormatModel(Model):
    """Integers from qmin to qmax."""

    kind: Literal["int"]
    qmin: int
    qmax: int


class FloatFormatModel(Model):
    """Floating-point numbers."""

    kind: Literal["float"]
    exponent_bits: int
    mantissa_bits: int
    bias: int | None = None
    has_infinity: bool = True
    nan: NanName = NanEncoding.IEEE
    has_subnormals: bool = True
    has_negative_zero: bool = True
    name: str | None = None
    signed: bool = True
    has_zero: bool = True


class MXFormatModel(Model):
    """Blocks with a shared power-of-two scale."""

    kind: Literal["mx"]
    element: Annotated[IntFormatModel | FloatFormatModel, Field(discriminator="kind")]
    block_size: int = 32
    scale_rule: ScaleRuleName = MXScaleRule.FLOOR
    name: str | None = None


class NVFP4FormatModel(Model):
    """Blocks of e2m1 with an e4m3 scale."""

    kind: Literal["nvfp4"]
    block_size: int = 16
    two_level: bool = True


class OpticalFormatModel(Model):
    """Levels of an optical modulator."""

    kind: Literal["optical"]
    levels: int = 256
    lut: float | None = None
    noise: OpticalNoiseName = OpticalNoise.NONE


class FixedPointFormatModel(Model):
    """Integer requantisation."""

    kind: Literal["fixed_point"]
    output: IntFormatModel
    multiplier_bits: int = 31
    fraction_bits: int | None = None
    rounding: RoundingName = RoundingMode.NEAREST_AWAY


class PerTensorModel(Model):
    """One set of parameters."""

    kind: Literal["per_tensor"]


class PerChannelModel(Model):
    """One set for each index of an axis."""

    kind: Literal["per_channel"]
    axis: int


class PerBlockModel(Model):
    """One set for each block along an axis."""

    kind: Literal["per_block"]
    axis: int
    block_size: Size


class PerBlocksModel(Model):
    """One set for each block of a tiling."""

    kind: Literal["per_blocks"]
    block_size: list[Size]


class PerTokenModel(Model):
    """One set for each row of the last dimension."""

    kind: Literal["per_token"]


class FlattenedModel(Model):
    """Several sets, without layout."""

    kind: Literal["flattened"]
    block_size: Size | None = None
    per_channel: bool = False


GranularityModel = Annotated[
    PerTensorModel | PerChannelModel | PerBlockModel | PerBlocksModel | PerTokenModel | FlattenedModel,
    Field(discriminator="kind"),
]


class AffineEncodingModel(Model):
    """Evenly spaced grid."""

    kind: Literal["affine_encoding"]
    format: IntFormatModel
    scale: ArrayModel
    offset: ArrayModel
    symmetric: bool
    granularity: GranularityModel
    block_size: list[Size] | None = None
    zero_point_shift: float = 0.0


class GroupedBlockEncodingModel(Model):
    """LPBQ: block scales are integers times a channel's scale."""

    kind: Literal["grouped_block_encoding"]
    format: IntFormatModel
    scale: ArrayModel
    offset: ArrayModel
    symmetric: bool
    granularity: GranularityModel
    block_size: list[Size] | None = None
    zero_point_shift: float = 0.0
    decompressed_bits: int
    per_channel_scale: ArrayModel
    per_block_int_scale: ArrayModel


class UnplacedGroupedBlockEncodingModel(Model):
    """LPBQ without layout."""

    kind: Literal["unplaced_grouped_block_encoding"]
    format: IntFormatModel
    granularity: FlattenedModel
    decompressed_bits: int
    per_channel_scale: ArrayModel
    per_block_int_scale: ArrayModel


class FloatEncodingModel(Model):
    """Floating-point grid."""

    kind: Literal["float_encoding"]
    format: FloatFormatModel
    scale: ArrayModel | None = None
    granularity: GranularityModel
    block_size: list[Size] | None = None
    saturate: bool = True
    rounding: RoundingName = RoundingMode.NEAREST_EVEN


class MXEncodingModel(Model):
    """Blocks that share a scale."""

    kind: Literal["mx_encoding"]
    format: Annotated[MXFormatModel | NVFP4FormatModel, Field(discriminator="kind")]
    granularity: GranularityModel
    scale: ArrayModel | None = None
    tensor_scale: float | None = None
    block_size: list[Size] | None = None
    rounding: RoundingName = RoundingMode.NEAREST_EVEN


class OpticalEncodingModel(Model):
    """Range of optical levels."""

    kind: Literal["optical_encoding"]
    format: OpticalFormatModel
    minimum: ArrayModel
    maximum: ArrayModel
    granularity: GranularityModel
    seed: int = 0
    smooth_factor: float = 0.9
    quantiles: Annotated[list[float], Field(min_length=2, max_length=2)] | None = None


class FixedPointEncodingModel(Model):
    """Multipliers and shifts of an integer requantisation."""

    kind: Literal["fixed_point_encoding"]
    format: FixedPointFormatModel
    multiplier: ArrayModel
    shift: ArrayModel
    zero_point: ArrayModel
    granularity: GranularityModel


class DynamicEncodingModel(Model):
    """Scales computed at run time."""

    kind: Literal["dynamic_encoding"]
    format: Annotated[IntFormatModel | FloatFormatModel, Field(discriminator="kind")]
    granularity: GranularityModel
    symmetric: bool
    rounding: RoundingName = RoundingMode.NEAREST_EVEN


EncodingModel = Annotated[
    AffineEncodingModel
    | GroupedBlockEncodingModel
    | UnplacedGroupedBlockEncodingModel
    | FloatEncodingModel
    | MXEncodingModel
    | OpticalEncodingModel
    | FixedPointEncodingModel
    | DynamicEncodingModel,
    Field(discriminator="kind"),
]


class TensorModel(Model):
    """Where a tensor lives in the torch model."""

    module: str
    role: Literal["input", "output", "param"]
    key: str


class EntryModel(Model):
    """One tensor's encoding, how it is named, and how it came about."""

    tensor: TensorModel | None = None
    name: str | None = None
    parameter: bool | None = None
    frozen: bool = False
    learnable: bool = True
    analyzer: str | None = None
    samples: Annotated[int, Field(ge=0)] | None = None
    encoding: EncodingModel


class File(Model):
    """An encodings file of quantsim's version 1."""

    version: Literal["quantsim-1"]
    producer: ProducerModel | None = None
    model_fingerprint: str | None = None
    excluded_layers: list[str] = Field(default_factory=list)
    quantizer_args: QuantizerArguments | None = None
    declared_version: str | None = None
    encodings: list[EntryModel]
