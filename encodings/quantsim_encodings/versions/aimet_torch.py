"""AIMET's torch-side JSON, by module and parameter name: what its ``load_encodings`` reads."""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Any

from pydantic import Discriminator, Field, Tag

from quantsim_encodings._problems import ProblemCollector, child
from quantsim_encodings.document import (
    EncodingEntry,
    EncodingsDocument,
    EncodingsVersion,
    TensorReference,
    TensorRole,
)
from quantsim_encodings.loss import Loss, LossReport
from quantsim_encodings.versions.aimet_0_6_1 import producer_json, producer_of, quantizer_args_json
from quantsim_encodings.versions.legacy import LegacyEncoding, decode_legacy, encode_legacy
from quantsim_encodings.versions.model import Model, ProducerModel, QuantizerArguments
from quantsim_encodings.versions.names import report_annotations


def _one_or_several(value: Any) -> str:
    return "<several>" if isinstance(value, list) else "<one>"


ActivationEncoding = Annotated[
    Annotated[LegacyEncoding, Tag("<one>")] | Annotated[list[LegacyEncoding], Tag("<several>")],
    Discriminator(_one_or_several),
]


class ModuleEncodings(Model):
    """Encodings of one module's activations, by index."""

    input: dict[str, ActivationEncoding] = Field(default_factory=dict)
    output: dict[str, ActivationEncoding] = Field(default_factory=dict)


class File(Model):
    """A torch-side encodings file."""

    activation_encodings: dict[str, ModuleEncodings]
    param_encodings: dict[str, list[LegacyEncoding]]
    version: str | None = None
    excluded_layers: list[str] = Field(default_factory=list)
    quantizer_args: QuantizerArguments | None = None
    producer: ProducerModel | None = None


def decode(file: File, problems: ProblemCollector) -> EncodingsDocument:
    """Builds the document; notes what is wrong."""
    entries: list[EncodingEntry] = []

    def add(items: Any, reference: TensorReference, path: str) -> None:
        several = items if isinstance(items, list) else [items]
        encoding = decode_legacy(several, path, problems)
        if encoding is not None:
            with problems.guard(path):
                entries.append(EncodingEntry(encoding, tensor=reference))

    for module, activations in file.activation_encodings.items():
        module_path = child("$.activation_encodings", module)
        for role in (TensorRole.INPUT, TensorRole.OUTPUT):
            for key, items in getattr(activations, role.value).items():
                path = child(child(module_path, role.value), key)
                if not (key.isascii() and key.isdecimal()):
                    problems.add(path, f"got index {key!r}, expected a number such as '0'")
                add(items, TensorReference(module, role, key), path)
    for name, items in file.param_encodings.items():
        module, _, key = name.rpartition(".")
        path = child("$.param_encodings", name)
        if not key:
            problems.add(path, "names no parameter, expected module.parameter")
        add(items, TensorReference(module, TensorRole.PARAM, key), path)
    return EncodingsDocument(
        version=EncodingsVersion.AIMET_TORCH,
        entries=tuple(entries),
        producer=producer_of(file.producer),
        excluded_layers=tuple(file.excluded_layers),
        quantizer_args=file.quantizer_args,
        declared_version=file.version,
    )


def encode(document: EncodingsDocument, report: LossReport, parameters: Collection[str] | None) -> dict[str, Any]:
    """Builds the file's JSON value; reports what it cannot hold."""
    del parameters  # The references say which tensors are parameters.
    report_annotations(document, report, header=True)
    activations: dict[str, dict[str, dict[str, Any]]] = {}
    params: dict[str, Any] = {}
    for index, entry in enumerate(document.entries):
        path = child("$.encodings", index)
        tensor = entry.tensor
        if tensor is None:
            report.refuse(path, "has no place in the torch model; give one with with_tensors()")
            continue
        if entry.name is not None and entry.name != str(tensor):
            report.lose(Loss.ANNOTATION, path, f"has the tensor name {entry.name!r}, which cannot be held")
        items = encode_legacy(entry.encoding, path, report)
        if tensor.role is TensorRole.PARAM:
            # The leading dot of the root module's own parameters is AIMET's.
            section, key, value = params, f"{tensor.module}.{tensor.key}", items
        else:
            section = activations.setdefault(tensor.module, {}).setdefault(tensor.role.value, {})
            key, value = tensor.key, items[0] if len(items) == 1 else items
        if key in section:
            report.refuse(path, "is described twice")
        section[key] = value
    # Without activations a version would make the file look like one by tensor name.
    header = {"version": document.declared_version} if activations and document.declared_version else {}
    excluded = {"excluded_layers": list(document.excluded_layers)} if document.excluded_layers or header else {}
    return {
        **producer_json(document),
        **header,
        "activation_encodings": activations,
        "param_encodings": params,
        **excluded,
        **quantizer_args_json(document),
    }
