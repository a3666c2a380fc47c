"""quantsim's own version 1: holds every format, granularity, encoding and annotation.

The JSON mirrors the value types field by field; ``kind`` says which type an object is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final

import numpy as np

from quantsim_encodings import encoding as encodings
from quantsim_encodings import formats, granularity
from quantsim_encodings._problems import ProblemCollector, child
from quantsim_encodings.document import (
    EncodingEntry,
    EncodingsDocument,
    EncodingsVersion,
    TensorReference,
    TensorRole,
)
from quantsim_encodings.loss import LossReport
from quantsim_encodings.versions.aimet_0_6_1 import producer_json, producer_of, quantizer_args_json
from quantsim_encodings.versions.names import note_duplicates
from quantsim_encodings.versions.quantsim_1_model import ArrayModel, EntryModel, File

__all__ = ["File", "decode", "encode"]

_TYPES: Final[Mapping[str, Callable[..., Any]]] = MappingProxyType(
    {
        "int": formats.IntFormat,
        "float": formats.FloatFormat,
        "mx": formats.MXFormat,
        "nvfp4": formats.NVFP4Format,
        "optical": formats.OpticalFormat,
        "fixed_point": formats.FixedPointFormat,
        "per_tensor": granularity.PerTensor,
        "per_channel": granularity.PerChannel,
        "per_block": granularity.PerBlock,
        "per_blocks": granularity.PerBlocks,
        "per_token": granularity.PerToken,
        "flattened": granularity.Flattened,
        "affine_encoding": encodings.AffineEncoding,
        "grouped_block_encoding": encodings.GroupedBlockEncoding,
        "unplaced_grouped_block_encoding": encodings.UnplacedGroupedBlockEncoding,
        "float_encoding": encodings.FloatEncoding,
        "mx_encoding": encodings.MXEncoding,
        "optical_encoding": encodings.OpticalEncoding,
        "fixed_point_encoding": encodings.FixedPointEncoding,
        "dynamic_encoding": encodings.DynamicEncoding,
    }
)
_KINDS: Final = MappingProxyType({cls: kind for kind, cls in _TYPES.items()})


class _FlawError(Exception):
    """A problem below an entry, with the rest of its path."""

    def __init__(self, path: str, message: str) -> None:
        super().__init__(message)
        self.path = path


def decode(file: File, problems: ProblemCollector) -> EncodingsDocument:
    """Builds the document; notes what is wrong."""
    entries: list[EncodingEntry] = []
    tensors: list[tuple[str, str]] = []
    names: list[tuple[str, str]] = []
    for index, item in enumerate(file.encodings):
        path = child("$.encodings", index)
        if item.tensor is not None:
            tensors.append((child(path, "tensor"), repr((item.tensor.module, item.tensor.role, item.tensor.key))))
        if item.name is not None:
            names.append((child(path, "name"), item.name))
        try:
            with problems.guard(path):
                entries.append(_entry(item, path))
        except _FlawError as flaw:
            problems.add(flaw.path, str(flaw))
    note_duplicates(tensors, problems)
    note_duplicates(names, problems)
    return EncodingsDocument(
        version=EncodingsVersion.QUANTSIM,
        entries=tuple(entries),
        producer=producer_of(file.producer),
        model_fingerprint=file.model_fingerprint,
        excluded_layers=tuple(file.excluded_layers),
        quantizer_args=file.quantizer_args,
        declared_version=file.declared_version,
    )


def _entry(item: EntryModel, path: str) -> EncodingEntry:
    tensor = None
    if item.tensor is not None:
        role = TensorRole(item.tensor.role)
        tensor = TensorReference(item.tensor.module, role, item.tensor.key)
        if item.parameter is not None and item.parameter != (role is TensorRole.PARAM):
            raise _FlawError(child(path, "parameter"), f"got {item.parameter}, expected what the tensor's role says")
    return EncodingEntry(
        encoding=_value(item.encoding, child(path, "encoding")),
        tensor=tensor,
        name=item.name,
        frozen=item.frozen,
        learnable=item.learnable,
        analyzer=item.analyzer,
        samples=item.samples,
        parameter=item.parameter,
    )


def _value(value: Any, path: str) -> Any:
    """Rebuilds a value type from its model."""
    if isinstance(value, ArrayModel):
        count = math.prod(value.shape)
        if count != len(value.values):
            raise _FlawError(
                child(path, "values"), f"got {len(value.values)} values, expected {count} for {value.shape}"
            )
        return np.asarray(value.values).reshape(value.shape)
    kind = getattr(value, "kind", None)
    if kind is not None:
        arguments = {name: getattr(value, name) for name in type(value).model_fields if name != "kind"}
        return _build(kind, {name: _value(item, child(path, name)) for name, item in arguments.items()}, path)
    return tuple(value) if isinstance(value, list) else value


def _build(kind: str, arguments: dict[str, Any], path: str) -> Any:
    problems = ProblemCollector()
    with problems.guard(path):
        return _TYPES[kind](**arguments)
    problem = problems.problems[0]
    raise _FlawError(problem.path, problem.message)


def encode(document: EncodingsDocument, report: LossReport, parameters: Collection[str] | None) -> dict[str, Any]:
    """Builds the file's JSON value; everything can be held, but two entries may not describe one tensor."""
    items: list[dict[str, Any]] = []
    seen: dict[object, str] = {}
    for index, entry in enumerate(document.entries):
        path = child("$.encodings", index)
        for key in (entry.tensor, entry.name):
            if key is not None and seen.setdefault(key, path) != path:
                report.refuse(path, f"{entry.label} is described by {seen[key]} too")
        parameter = entry.parameter
        if parameter is None and parameters is not None:
            parameter = entry.name in parameters
        tensor = entry.tensor
        items.append(
            {
                "tensor": None
                if tensor is None
                else {"module": tensor.module, "role": tensor.role.value, "key": tensor.key},
                "name": entry.name,
                "parameter": parameter,
                "frozen": entry.frozen,
                "learnable": entry.learnable,
                "analyzer": entry.analyzer,
                "samples": entry.samples,
                "encoding": _plain(entry.encoding),
            }
        )
    declared = {} if document.declared_version is None else {"declared_version": document.declared_version}
    return {
        "version": EncodingsVersion.QUANTSIM.value,
        **producer_json(document),
        "model_fingerprint": document.model_fingerprint,
        "excluded_layers": list(document.excluded_layers),
        **quantizer_args_json(document),
        **declared,
        "encodings": items,
    }


def _plain(value: Any) -> Any:
    """JSON value of a value type, array or scalar."""
    if is_dataclass(value) and not isinstance(value, type):
        return {
            "kind": _KINDS[type(value)],
            **{field.name: _plain(getattr(value, field.name)) for field in fields(value)},
        }
    if isinstance(value, np.ndarray):
        return {"shape": list(value.shape), "values": value.reshape(-1).tolist()}
    if isinstance(value, StrEnum):
        return value.value
    return list(value) if isinstance(value, tuple) else value
