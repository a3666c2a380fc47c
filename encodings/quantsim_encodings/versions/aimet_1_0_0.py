"""AIMET's version 1.0.0: lists by tensor name, flattened scales, LPBQ."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from quantsim_encodings._problems import ProblemCollector, child
from quantsim_encodings.document import EncodingEntry, EncodingsDocument, EncodingsVersion
from quantsim_encodings.encoding import (
    AffineEncoding,
    Encoding,
    FloatEncoding,
    GroupedBlockEncoding,
    UnplacedGroupedBlockEncoding,
)
from quantsim_encodings.formats import IntFormat
from quantsim_encodings.granularity import Flattened, PerTensor
from quantsim_encodings.layout import layout_of
from quantsim_encodings.loss import Loss, LossReport
from quantsim_encodings.versions.aimet_0_6_1 import producer_json, producer_of, quantizer_args_json
from quantsim_encodings.versions.legacy import decode_float_bits, encode_float_bits, legacy_codes
from quantsim_encodings.versions.model import Integers, Model, Numbers, ProducerModel, QuantizerArguments
from quantsim_encodings.versions.names import is_parameter, named_entries, note_duplicates, report_annotations


class IntEncoding(Model):
    """Integer grids of one tensor, flattened. ``offset`` is the negative of the unsigned zero point."""

    name: str
    dtype: Literal["INT"]
    enc_type: Literal["PER_TENSOR", "PER_CHANNEL", "PER_BLOCK", "LPBQ"]
    bw: Annotated[int, Field(ge=1, le=64)]
    is_sym: bool
    scale: Numbers
    offset: Integers
    block_size: Annotated[int, Field(ge=1)] | None = None
    compressed_bw: Annotated[int, Field(ge=1, le=64)] | None = None
    per_block_int_scale: Integers | None = None
    zero_point_shift: Numbers | None = None


class FloatCast(Model):
    """A cast to a floating-point format without scale."""

    name: str
    dtype: Literal["FLOAT"]
    enc_type: Literal["PER_TENSOR"]
    bw: Annotated[int, Field(ge=1, le=64)]


TensorEncoding = Annotated[IntEncoding | FloatCast, Field(discriminator="dtype")]


class File(Model):
    """An encodings file of version 1.0.0."""

    version: Literal["1.0.0"]
    activation_encodings: list[TensorEncoding]
    param_encodings: list[TensorEncoding]
    excluded_layers: list[str] = Field(default_factory=list)
    quantizer_args: QuantizerArguments | None = None
    producer: ProducerModel | None = None


def decode(file: File, problems: ProblemCollector) -> EncodingsDocument:
    """Builds the document; notes what is wrong."""
    entries: list[EncodingEntry] = []
    names: list[tuple[str, str]] = []
    for section, parameter in (("activation_encodings", False), ("param_encodings", True)):
        for index, item in enumerate(getattr(file, section)):
            path = child(f"$.{section}", index)
            names.append((child(path, "name"), item.name))
            encoding = (
                _decode_int(item, path, problems)
                if isinstance(item, IntEncoding)
                else decode_float_bits(item.bw, child(path, "bw"), problems)
            )
            if encoding is not None:
                with problems.guard(path):
                    entries.append(EncodingEntry(encoding, name=item.name, parameter=parameter))
    note_duplicates(names, problems)
    return EncodingsDocument(
        version=EncodingsVersion.AIMET_1_0_0,
        entries=tuple(entries),
        producer=producer_of(file.producer),
        excluded_layers=tuple(file.excluded_layers),
        quantizer_args=file.quantizer_args,
    )


_KEYS_BY_TYPE = {
    "PER_TENSOR": frozenset[str](),
    "PER_CHANNEL": frozenset[str](),
    "PER_BLOCK": frozenset({"block_size"}),
    "LPBQ": frozenset({"block_size", "compressed_bw", "per_block_int_scale"}),
}


def _decode_int(item: IntEncoding, path: str, problems: ProblemCollector) -> Encoding | None:
    sound = _check_lengths(item, path, problems)
    for key in ("block_size", "compressed_bw", "per_block_int_scale"):
        wanted = key in _KEYS_BY_TYPE[item.enc_type]
        if wanted != (getattr(item, key) is not None):
            sound = False
            problems.add(child(path, key), f"is {'missing' if wanted else 'not expected'} for {item.enc_type}")
    if not sound:
        return None
    with problems.guard(path):
        if item.enc_type == "LPBQ":
            return _decode_lpbq(item, path, problems)
        format = IntFormat.from_bits(item.bw, signed=item.is_sym)
        offset = np.asarray(item.offset) - format.qmin
        single = item.enc_type == "PER_TENSOR"
        granularity = (
            PerTensor() if single else Flattened(block_size=item.block_size, per_channel=item.block_size is None)
        )
        return AffineEncoding(
            format,
            scale=np.asarray(item.scale[0] if single else item.scale),
            offset=offset[0] if single else offset,
            symmetric=item.is_sym,
            granularity=granularity,
            zero_point_shift=float(item.zero_point_shift[0]) if item.zero_point_shift else 0.0,
        )
    return None


def _check_lengths(item: IntEncoding, path: str, problems: ProblemCollector) -> bool:
    count = len(item.scale)
    sound = count > 0
    if not sound:
        problems.add(child(path, "scale"), "got an empty array, expected at least one scale")
    if item.enc_type == "PER_TENSOR" and count > 1:
        sound = False
        problems.add(child(path, "scale"), f"got {count} scales, expected one for PER_TENSOR")
    for key in ("offset", "zero_point_shift"):
        values = getattr(item, key)
        if values is not None and len(values) != count:
            sound = False
            problems.add(child(path, key), f"got {len(values)} values, expected {count}, one for each scale")
    if item.zero_point_shift and len(set(item.zero_point_shift)) > 1:
        sound = False
        problems.add(child(path, "zero_point_shift"), "got different shifts, expected the same for all scales")
    if any(abs(value) >= 2**62 for value in item.offset):
        sound = False
        problems.add(child(path, "offset"), "got an offset beyond 62 bits")
    return sound


def _decode_lpbq(item: IntEncoding, path: str, problems: ProblemCollector) -> UnplacedGroupedBlockEncoding | None:
    expected = -(2 ** (item.bw - 1))
    if not item.is_sym or any(offset != expected for offset in item.offset) or item.zero_point_shift:
        problems.add(path, f"is LPBQ with offset or zero-point shift, expected is_sym and offsets of {expected}")
        return None
    assert item.compressed_bw is not None
    return UnplacedGroupedBlockEncoding(
        format=IntFormat.from_bits(item.compressed_bw, signed=True),
        granularity=Flattened(block_size=item.block_size),
        decompressed_bits=item.bw,
        per_channel_scale=np.asarray(item.scale),
        per_block_int_scale=np.asarray(item.per_block_int_scale),
    )


def encode(document: EncodingsDocument, report: LossReport, parameters: Collection[str] | None) -> dict[str, Any]:
    """Builds the file's JSON value; reports what it cannot hold."""
    report_annotations(document, report, header=True)
    sections: dict[bool, list[Any]] = {False: [], True: []}
    for path, name, entry in named_entries(document, report):
        parameter = is_parameter(entry, parameters)
        if parameter is None:
            report.refuse(path, "may be an activation or a parameter; name the parameters with parameters=")
        sections[bool(parameter)].append({"name": name, **_encode_one(entry.encoding, path, report)})
    return {
        **producer_json(document),
        "version": "1.0.0",
        "activation_encodings": sections[False],
        "param_encodings": sections[True],
        "excluded_layers": list(document.excluded_layers),
        **quantizer_args_json(document),
    }


def _encode_one(encoding: Encoding, path: str, report: LossReport) -> dict[str, Any]:
    if isinstance(encoding, FloatEncoding):
        return {"dtype": "FLOAT", "bw": encode_float_bits(encoding, path, report), "enc_type": "PER_TENSOR"}
    if isinstance(encoding, UnplacedGroupedBlockEncoding):
        return _encode_lpbq(encoding, encoding.granularity.block_size)
    if not isinstance(encoding, AffineEncoding):
        report.refuse(path, f"has an encoding of kind {encoding.label}, which cannot be held")
        return {}
    symmetric, offsets = legacy_codes(encoding, path, report)
    layout = layout_of(encoding.granularity, encoding.block_size, encoding.scale.shape)
    if layout is None:
        report.refuse(path, f"is {encoding.granularity}, which cannot be held")
        return {}
    blocks = layout.block_size is not None
    if not layout.known and not blocks and not _is_per_channel(encoding):
        report.refuse(path, "does not say whether its scales are of channels or of blocks; use place()")
    if layout.axis is not None:
        report.lose(Loss.LAYOUT, path, f"is {encoding.granularity}; only its scales in row-major order can be held")
    if isinstance(encoding, GroupedBlockEncoding):
        if not encoding.symmetric or encoding.offset.any() or encoding.zero_point_shift or not encoding.format.signed:
            report.refuse(path, "is LPBQ that is not symmetric and signed, which cannot be held")
        rank = encoding.scale.ndim
        if layout.axis is None or not blocks or not -rank <= layout.axis < rank:
            report.refuse(path, f"is LPBQ with {encoding.granularity}, expected blocks along one axis")
        elif encoding.per_channel_scale.shape[layout.axis] != 1:
            report.refuse(path, "is LPBQ with several groups in a channel, which cannot be held")
        return _encode_lpbq(encoding, layout.block_size)
    shift = {"zero_point_shift": [encoding.zero_point_shift] * offsets.size} if encoding.zero_point_shift else {}
    return {
        "dtype": "INT",
        "bw": encoding.format.bits,
        "is_sym": symmetric,
        "scale": encoding.scale.reshape(-1).tolist(),
        "offset": offsets.tolist(),
        **shift,
        "enc_type": "PER_TENSOR" if layout.per_tensor else "PER_BLOCK" if blocks else "PER_CHANNEL",
        **({"block_size": layout.block_size} if blocks else {}),
    }


def _is_per_channel(encoding: AffineEncoding) -> bool:
    return isinstance(encoding.granularity, Flattened) and encoding.granularity.per_channel


def _encode_lpbq(
    encoding: GroupedBlockEncoding | UnplacedGroupedBlockEncoding, block_size: int | None
) -> dict[str, Any]:
    scale = encoding.per_channel_scale.reshape(-1).tolist()
    return {
        "dtype": "INT",
        "bw": encoding.decompressed_bits,
        "is_sym": True,
        "scale": scale,
        "offset": [-(2 ** (encoding.decompressed_bits - 1))] * len(scale),
        "enc_type": "LPBQ",
        "block_size": block_size,
        "compressed_bw": encoding.format.bits,
        "per_block_int_scale": encoding.per_block_int_scale.reshape(-1).tolist(),
    }
