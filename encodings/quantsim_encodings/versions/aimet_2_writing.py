"""Writing of AIMET's versions 2.0.0 and 2.1.0."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from quantsim_encodings.document import EncodingEntry, EncodingsVersion
from quantsim_encodings.encoding import AffineEncoding, Encoding, FloatEncoding, GroupedBlockEncoding, MXEncoding
from quantsim_encodings.formats import FloatFormat, IntFormat, NVFP4Format, float_format
from quantsim_encodings.layout import Layout, layout_of
from quantsim_encodings.loss import Loss, LossReport
from quantsim_encodings.versions.legacy import report_cast, report_rounding

_UNQUANTIZED = (float_format("fp16"), float_format("bf16"))


def encode_entries(
    entries: list[tuple[str, str, EncodingEntry]],
    version: EncodingsVersion,
    float_formats: Mapping[str, FloatFormat],
    report: LossReport,
) -> list[dict[str, Any]]:
    """Builds the list of encodings; reports what it cannot hold.

    Args:
        entries: JSON path, tensor name and entry of each.
        version: 2.0.0 or 2.1.0.
        float_formats: Floating-point formats by ONNX's name.
        report: Takes losses and refusals.
    """
    result: list[dict[str, Any]] = []
    for path, name, entry in entries:
        encoding = entry.encoding
        if entry.parameter is not None:
            kind = "a parameter" if entry.parameter else "an activation"
            report.lose(Loss.ANNOTATION, path, f"is {kind}, which cannot be held")
        if isinstance(encoding, GroupedBlockEncoding):
            fields = _grouped(encoding, version, path, report)
        elif isinstance(encoding, AffineEncoding):
            fields = _affine(encoding, path, report)
        elif isinstance(encoding, FloatEncoding):
            fields = _float(encoding, float_formats, path, report)
        elif isinstance(encoding, MXEncoding):
            fields = _nvfp4(encoding, version, path, report)
        else:
            report.refuse(path, f"has an encoding of kind {encoding.label}, which cannot be held")
            fields = None
        if fields is not None:
            result.append({"name": name, **fields})
    return result


def _layout(encoding: Encoding, path: str, report: LossReport) -> Layout | None:
    scale = getattr(encoding, "scale", None)
    shape = () if scale is None else scale.shape
    layout = layout_of(encoding.granularity, getattr(encoding, "block_size", None), shape)
    if layout is None:
        report.refuse(path, f"is {encoding.granularity}, which cannot be held")
    elif not layout.known:
        report.refuse(path, "does not say along which axis its scales lie; use place()")
        layout = None
    elif layout.block_size is not None and not (layout.axis is not None and -len(shape) <= layout.axis < len(shape)):
        report.refuse(path, f"has blocks along axis {layout.axis} but scales of shape {shape}")
        layout = None
    return layout


def _placed(layout: Layout) -> dict[str, int]:
    axis = {} if layout.axis is None else {"axis": layout.axis}
    return axis if layout.block_size is None else {**axis, "block_size": layout.block_size}


def _shaped(array: np.ndarray[Any, Any], layout: Layout) -> Any:
    if layout.per_tensor:
        return array.reshape(()).tolist()
    return array.tolist() if layout.block_size is not None else array.reshape(-1).tolist()


def _type_name(format: IntFormat, path: str, report: LossReport) -> str:
    if not format.is_full_range:
        report.refuse(
            path,
            f"has integers from {format.qmin} to {format.qmax}; only the full range of {format.bits} bits can be held",
        )
    return f"{'int' if format.signed else 'uint'}{format.bits}"


def _affine(encoding: AffineEncoding, path: str, report: LossReport) -> dict[str, Any] | None:
    layout = _layout(encoding, path, report)
    name = _type_name(encoding.format, path, report)
    if encoding.symmetric != (encoding.format.signed and not encoding.offset.any()):
        kind = "symmetric" if encoding.symmetric else "not symmetric"
        report.lose(Loss.SYMMETRY, path, f"is {kind} against what {name} with its zero point is read back as")
    if not np.issubdtype(encoding.offset.dtype, np.integer):
        report.refuse(path, "has offsets with a fraction; only integers can be held")
    if encoding.zero_point_shift not in (0.0, 0.5):
        report.refuse(path, f"has a zero-point shift of {encoding.zero_point_shift}; only 0 and 0.5 can be held")
    if layout is None:
        return None
    zero_point = encoding.zero_point
    if encoding.zero_point_shift:
        zero_point = zero_point - encoding.zero_point_shift
    return {
        "output_dtype": name,
        "y_scale": _shaped(encoding.scale, layout),
        **({"y_zero_point": _shaped(zero_point, layout)} if zero_point.any() else {}),
        **_placed(layout),
    }


def _float(
    encoding: FloatEncoding, float_formats: Mapping[str, FloatFormat], path: str, report: LossReport
) -> dict[str, Any] | None:
    plain = encoding.scale is None or bool((encoding.scale == 1).all())
    if encoding.format in _UNQUANTIZED and plain:
        report.lose(Loss.FLOAT16, path, f"is plain {encoding.format.label}, which this version does not list")
        return None
    names = [name for name, format in float_formats.items() if format == encoding.format]
    if not names:
        report.refuse(path, f"is {encoding.format.label}; only {', '.join(float_formats)} can be held")
        return None
    report_cast(encoding, path, report)
    layout = _layout(encoding, path, report)
    if layout is None:
        return None
    scale = np.ones((), dtype=np.float32) if encoding.scale is None else encoding.scale
    return {"output_dtype": names[0], "y_scale": _shaped(scale, layout), **_placed(layout)}


def _grouped(
    encoding: GroupedBlockEncoding, version: EncodingsVersion, path: str, report: LossReport
) -> dict[str, Any] | None:
    layout = _layout(encoding, path, report)
    name = _type_name(encoding.format, path, report)
    if not encoding.symmetric or encoding.offset.any() or encoding.zero_point_shift or not encoding.format.signed:
        report.refuse(path, "is LPBQ that is not symmetric and signed, which cannot be held")
    if encoding.decompressed_bits != 2 * encoding.format.bits:
        report.refuse(
            path,
            f"decompresses {encoding.format.bits} bits to {encoding.decompressed_bits}; only twice as many can be held",
        )
    if layout is None or layout.axis is None or layout.block_size is None:
        report.refuse(path, f"is LPBQ with {encoding.granularity}, expected blocks along one axis")
        return None
    integers, channels = encoding.per_block_int_scale, encoding.per_channel_scale
    if channels.shape[layout.axis] != 1:
        report.refuse(path, "is LPBQ with several groups in a channel, which cannot be held")
        return None
    if version is EncodingsVersion.AIMET_2_0_0:
        return {
            **_placed(layout),
            "per_block_int_scale": integers.tolist(),
            "per_channel_float_scale": channels.tolist(),
            "output_dtype": name,
        }
    axis = _channel_axis(channels.shape, layout.axis, integers.ndim)
    if axis is None:
        report.refuse(path, f"has channel scales of shape {channels.shape}, expected channels along one axis")
        return None
    nested = {"x": integers.tolist(), "x_scale": channels.reshape(-1).tolist(), "axis": axis}
    return {"output_dtype": name, "y_scale": nested, **_placed(layout)}


def _channel_axis(shape: tuple[int, ...], block_axis: int, rank: int) -> int | None:
    """Negative axis of the channels, as AIMET counts it there; with one channel, the first that is not cut."""
    long = [axis - len(shape) for axis, size in enumerate(shape) if size > 1]
    if len(long) > 1:
        return None
    free = [axis for axis in range(-rank, 0) if axis % rank != block_axis % rank]
    return long[0] if long else free[0] if free else None


def _nvfp4(encoding: MXEncoding, version: EncodingsVersion, path: str, report: LossReport) -> dict[str, Any] | None:
    if version is not EncodingsVersion.AIMET_2_1_0 or not isinstance(encoding.format, NVFP4Format):
        report.refuse(path, "has blocks with shared scales (MX, NVFP4); only 2.1.0 holds any, and only NVFP4")
        return None
    if encoding.scale is None or encoding.tensor_scale is None:
        report.refuse(path, "is NVFP4 without fixed scales of blocks and tensor; only with both it can be held")
        return None
    report_rounding(encoding, path, report)
    layout = _layout(encoding, path, report)
    if layout is None or layout.block_size != encoding.format.block_size:
        report.refuse(path, f"is NVFP4 with {encoding.granularity}, expected blocks of {encoding.format.block_size}")
        return None
    nested = {"x": encoding.scale.tolist(), "x_scale": encoding.tensor_scale, "input_dtype": "float8e4m3fn"}
    return {"output_dtype": "float4e2m1", "y_scale": nested, **_placed(layout)}
