"""AIMET's versions 2.0.0 and 2.1.0: one list in ONNX's terms (scale, zero point, axis, block size)."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Discriminator, Field, Tag

from quantsim_encodings._problems import ProblemCollector, child, show
from quantsim_encodings.document import EncodingEntry, EncodingsDocument, EncodingsVersion
from quantsim_encodings.encoding import AffineEncoding, Encoding, FloatEncoding, GroupedBlockEncoding, MXEncoding
from quantsim_encodings.formats import FloatFormat, IntFormat, NanEncoding, NVFP4Format, float_format
from quantsim_encodings.granularity import Granularity, PerBlock, PerChannel, PerTensor
from quantsim_encodings.loss import LossReport
from quantsim_encodings.versions.aimet_0_6_1 import producer_json, producer_of
from quantsim_encodings.versions.aimet_2_writing import encode_entries
from quantsim_encodings.versions.model import Model, NestedIntegers, NestedNumbers, ProducerModel
from quantsim_encodings.versions.names import named_entries, note_duplicates, report_annotations

Axis = Annotated[int, Field(ge=-16, le=15, description="Axis of channels or blocks; negative counts from the last.")]
BlockSize = Annotated[int, Field(ge=1)]
IntName = Annotated[str, Field(pattern=r"^u?int([1-9]|[1-5][0-9]|6[0-4])$")]

FLOAT_FORMATS: dict[str, FloatFormat] = {
    "float8e4m3fn": float_format("e4m3fn"),
    "float8e4m3fnuz": FloatFormat(
        4, 3, bias=8, has_infinity=False, nan=NanEncoding.NEGATIVE_ZERO, has_negative_zero=False, name="e4m3fnuz"
    ),
    "float8e5m2": float_format("e5m2"),
    "float8e5m2fnuz": FloatFormat(
        5, 2, bias=16, has_infinity=False, nan=NanEncoding.NEGATIVE_ZERO, has_negative_zero=False, name="e5m2fnuz"
    ),
    "float4e2m1": float_format("e2m1"),
}
"""Floating-point formats by ONNX's name."""


class ScaledEncoding(Model):
    """A grid with scales: integers, or a floating-point format."""

    name: str
    output_dtype: str
    y_scale: NestedNumbers
    y_zero_point: NestedNumbers | None = None
    axis: Axis | None = None
    block_size: BlockSize | None = None


class GroupedEncoding20(Model):
    """LPBQ as 2.0.0 writes it."""

    name: str
    output_dtype: IntName
    per_block_int_scale: NestedIntegers
    per_channel_float_scale: NestedNumbers
    axis: Axis
    block_size: BlockSize


class QuantizedScale(Model):
    """A scale that is itself quantized: integers or float8 numbers ``x`` times ``x_scale``."""

    x: NestedNumbers
    x_scale: NestedNumbers
    axis: Axis | None = None
    input_dtype: str | None = None


class NestedEncoding21(Model):
    """LPBQ or NVFP4 as 2.1.0 writes it."""

    name: str
    output_dtype: str
    y_scale: QuantizedScale
    axis: Axis
    block_size: BlockSize


def _member(value: Any) -> str:
    if isinstance(value, dict):
        if "per_block_int_scale" in value or "per_channel_float_scale" in value:
            return "<grouped>"
        if isinstance(value.get("y_scale"), dict):
            return "<nested>"
    return "<scaled>"


Encoding20 = Annotated[
    Annotated[ScaledEncoding, Tag("<scaled>")] | Annotated[GroupedEncoding20, Tag("<grouped>")],
    Discriminator(lambda value: "<grouped>" if _member(value) == "<grouped>" else "<scaled>"),
]
Encoding21 = Annotated[
    Annotated[ScaledEncoding, Tag("<scaled>")] | Annotated[NestedEncoding21, Tag("<nested>")],
    Discriminator(lambda value: "<nested>" if _member(value) == "<nested>" else "<scaled>"),
]


class File20(Model):
    """An encodings file of version 2.0.0."""

    version: Literal["2.0.0"]
    encodings: list[Encoding20]
    producer: ProducerModel | None = None


class File21(Model):
    """An encodings file of version 2.1.0."""

    version: Literal["2.1.0"]
    encodings: list[Encoding21]
    producer: ProducerModel | None = None


def decode(file: File20 | File21, problems: ProblemCollector) -> EncodingsDocument:
    """Builds the document; notes what is wrong."""
    entries: list[EncodingEntry] = []
    names: list[tuple[str, str]] = []
    for index, item in enumerate(file.encodings):
        path = child("$.encodings", index)
        names.append((child(path, "name"), item.name))
        encoding: Encoding | None = None
        with problems.guard(path):
            if isinstance(item, ScaledEncoding):
                encoding = _decode_scaled(item, path, problems)
            elif isinstance(item, GroupedEncoding20):
                encoding = _decode_grouped(
                    item, path, problems, item.per_block_int_scale, np.asarray(item.per_channel_float_scale)
                )
            elif item.output_dtype == "float4e2m1":
                encoding = _decode_nvfp4(item, path, problems)
            else:
                encoding = _decode_nested(item, path, problems)
            if encoding is not None:
                entries.append(EncodingEntry(encoding, name=item.name))
    note_duplicates(names, problems)
    return EncodingsDocument(
        version=EncodingsVersion(file.version), entries=tuple(entries), producer=producer_of(file.producer)
    )


def int_format(name: str) -> IntFormat | None:
    """The integer format of an ONNX type name, or ``None``."""
    match = re.fullmatch(r"(u?)int([1-9][0-9]?)", name)
    if match is None or not (1 if match[1] else 2) <= int(match[2]) <= 64:
        return None
    return IntFormat.from_bits(int(match[2]), signed=not match[1])


def _layout(
    item: ScaledEncoding | GroupedEncoding20 | NestedEncoding21,
    shape: tuple[int, ...],
    path: str,
    problems: ProblemCollector,
) -> tuple[Granularity, tuple[int, ...] | None] | None:
    rank = len(shape)
    if item.axis is None:
        if item.block_size is not None:
            problems.add(child(path, "axis"), "is missing, expected one with block_size")
        elif rank:
            problems.add(child(path, "axis"), f"is missing, expected one for scales of shape {list(shape)}")
        else:
            return PerTensor(), None
        return None
    if item.block_size is None:
        if rank == 1:
            return PerChannel(item.axis), None
        problems.add(child(path, "y_scale"), f"got shape {list(shape)}, expected one dimension with axis")
        return None
    if rank == 0 or not -rank <= item.axis < rank:
        problems.add(child(path, "axis"), f"got {item.axis}, expected an axis of the scales' shape {list(shape)}")
        return None
    sizes = [1] * rank
    sizes[item.axis] = item.block_size
    return PerBlock(item.axis, item.block_size), tuple(sizes)


def _decode_scaled(item: ScaledEncoding, path: str, problems: ProblemCollector) -> Encoding | None:
    scale = np.asarray(item.y_scale)
    layout = _layout(item, scale.shape, path, problems)
    format = int_format(item.output_dtype)
    if format is None:
        return _decode_float(item, scale, layout, path, problems)
    offset, shift = np.zeros(scale.shape, dtype=np.int64), 0.0
    if item.y_zero_point is not None:
        zero_point = np.asarray(item.y_zero_point)
        if zero_point.shape != scale.shape:
            got, expected = list(zero_point.shape), list(scale.shape)
            problems.add(child(path, "y_zero_point"), f"got shape {got}, expected y_scale's {expected}")
            return None
        if zero_point.dtype.kind == "f":
            # A half step belongs to the grid's shift, the rest is the offset.
            fractions = np.unique(np.ceil(zero_point) - zero_point)
            if len(fractions) != 1 or fractions[0] not in (0.0, 0.5) or (np.abs(zero_point) >= 2.0**52).any():
                problems.add(child(path, "y_zero_point"), "got fractions other than .5 for all, expected integers")
                return None
            shift = float(fractions[0])
            zero_point = np.ceil(zero_point).astype(np.int64)
        if zero_point.dtype != np.int64:
            problems.add(child(path, "y_zero_point"), "got an integer beyond 63 bits")
            return None
        offset = -zero_point
    if layout is None:
        return None
    return AffineEncoding(
        format,
        scale=scale,
        offset=offset,
        symmetric=format.signed and not offset.any(),
        granularity=layout[0],
        block_size=layout[1],
        zero_point_shift=shift,
    )


def _decode_float(
    item: ScaledEncoding,
    scale: np.ndarray[Any, Any],
    layout: tuple[Granularity, tuple[int, ...] | None] | None,
    path: str,
    problems: ProblemCollector,
) -> FloatEncoding | None:
    format = FLOAT_FORMATS.get(item.output_dtype)
    if format is None:
        expected = f"int or uint with 1 to 64 bits, or one of {', '.join(FLOAT_FORMATS)}"
        problems.add(child(path, "output_dtype"), f"got {show(item.output_dtype)}, expected {expected}")
    if item.y_zero_point is not None:
        problems.add(child(path, "y_zero_point"), "is not expected with a floating-point format")
    elif format is not None and layout is not None:
        return FloatEncoding(format, scale, layout[0], layout[1])
    return None


def _decode_grouped(
    item: GroupedEncoding20 | NestedEncoding21,
    path: str,
    problems: ProblemCollector,
    integers: Any,
    channels: np.ndarray[Any, Any],
) -> GroupedBlockEncoding | None:
    format = int_format(item.output_dtype)
    shape = np.asarray(integers).shape
    layout = _layout(item, shape, path, problems)
    if format is None or not format.signed:
        problems.add(child(path, "output_dtype"), f"got {show(item.output_dtype)}, expected a signed int for LPBQ")
        return None
    if layout is None:
        return None
    # The width after multiplication is not in the file; AIMET's LPBQ doubles the bits.
    encoding = GroupedBlockEncoding.from_scales(
        format=format,
        per_channel_scale=channels,
        per_block_int_scale=np.asarray(integers),
        decompressed_bits=2 * format.bits,
        granularity=layout[0],
        block_size=layout[1],
    )
    if encoding.per_channel_scale.shape[item.axis] != 1:
        problems.add(path, f"is LPBQ whose channels' scales differ along the blocks' axis {item.axis}")
        return None
    return encoding


def _decode_nested(item: NestedEncoding21, path: str, problems: ProblemCollector) -> GroupedBlockEncoding | None:
    scale = item.y_scale
    integers, channels = np.asarray(scale.x), np.asarray(scale.x_scale)
    if scale.input_dtype is not None:
        problems.add(child(child(path, "y_scale"), "input_dtype"), "is not expected for LPBQ")
        return None
    if integers.dtype.kind not in "iu":
        problems.add(child(child(path, "y_scale"), "x"), "got numbers with a fraction, expected integers for LPBQ")
        return None
    rank = integers.ndim
    if channels.ndim != 1 or scale.axis is None or not -rank <= scale.axis < rank:
        problems.add(child(child(path, "y_scale"), "axis"), f"got {show(scale.axis)}, expected the channels' axis in x")
        return None
    expected = integers.shape[scale.axis]
    if channels.size != expected:
        problems.add(
            child(child(path, "y_scale"), "x_scale"), f"got {channels.size} scales, expected {expected} as in x"
        )
        return None
    shape = [1] * rank
    shape[scale.axis] = expected
    return _decode_grouped(item, path, problems, scale.x, channels.reshape(shape))


def _decode_nvfp4(item: NestedEncoding21, path: str, problems: ProblemCollector) -> MXEncoding | None:
    scale, tensor_scale = np.asarray(item.y_scale.x), np.asarray(item.y_scale.x_scale)
    layout = _layout(item, scale.shape, path, problems)
    if item.y_scale.input_dtype != "float8e4m3fn":
        got = show(item.y_scale.input_dtype)
        problems.add(child(child(path, "y_scale"), "input_dtype"), f"got {got}, expected 'float8e4m3fn' for NVFP4")
        return None
    if tensor_scale.ndim or item.y_scale.axis is not None:
        problems.add(child(child(path, "y_scale"), "x_scale"), "got an array or an axis, expected one scale for NVFP4")
        return None
    if layout is None:
        return None
    format = NVFP4Format(block_size=item.block_size)
    return MXEncoding(format, layout[0], scale=scale, tensor_scale=float(tensor_scale), block_size=layout[1])


def encode(document: EncodingsDocument, report: LossReport, parameters: Collection[str] | None) -> dict[str, Any]:
    """Builds the file's JSON value for ``document.version``; reports what it cannot hold."""
    del parameters  # One list holds activations and parameters.
    report_annotations(document, report, header=False)
    return {
        **producer_json(document),
        "version": document.version.value,
        "encodings": encode_entries(named_entries(document, report), document.version, FLOAT_FORMATS, report),
    }
