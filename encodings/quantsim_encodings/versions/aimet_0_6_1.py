"""AIMET's version 0.6.1: objects by tensor name, a dictionary for each scale."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field

from quantsim_encodings._problems import ProblemCollector, child
from quantsim_encodings.document import EncodingEntry, EncodingsDocument, EncodingsVersion, Producer
from quantsim_encodings.loss import LossReport
from quantsim_encodings.versions.legacy import LegacyEncoding, decode_legacy, encode_legacy
from quantsim_encodings.versions.model import Model, ProducerModel, QuantizerArguments
from quantsim_encodings.versions.names import is_parameter, named_entries, note_duplicates, report_annotations


class File(Model):
    """An encodings file of version 0.6.1."""

    version: Literal["0.6.1"]
    activation_encodings: dict[str, list[LegacyEncoding]]
    param_encodings: dict[str, list[LegacyEncoding]]
    excluded_layers: list[str] = Field(default_factory=list)
    quantizer_args: QuantizerArguments | None = None
    producer: ProducerModel | None = None


def decode(file: File, problems: ProblemCollector) -> EncodingsDocument:
    """Builds the document; notes what is wrong."""
    entries: list[EncodingEntry] = []
    names: list[tuple[str, str]] = []
    for section, parameter in (("activation_encodings", False), ("param_encodings", True)):
        for name, items in getattr(file, section).items():
            path = child(f"$.{section}", name)
            names.append((path, name))
            encoding = decode_legacy(items, path, problems)
            if encoding is not None:
                with problems.guard(path):
                    entries.append(EncodingEntry(encoding, name=name, parameter=parameter))
    note_duplicates(names, problems)
    return EncodingsDocument(
        version=EncodingsVersion.AIMET_0_6_1,
        entries=tuple(entries),
        producer=producer_of(file.producer),
        excluded_layers=tuple(file.excluded_layers),
        quantizer_args=file.quantizer_args,
    )


def producer_of(model: ProducerModel | None) -> Producer | None:
    """The producer as a plain value."""
    return None if model is None else Producer(model.package, model.version)


def producer_json(document: EncodingsDocument) -> dict[str, Any]:
    """The producer as a key of the file, if known."""
    producer = document.producer
    return {} if producer is None else {"producer": {"package": producer.package, "version": producer.version}}


def quantizer_args_json(document: EncodingsDocument) -> dict[str, Any]:
    """AIMET's global settings as a key of the file, if known."""
    return {} if document.quantizer_args is None else {"quantizer_args": dict(document.quantizer_args)}


def encode(document: EncodingsDocument, report: LossReport, parameters: Collection[str] | None) -> dict[str, Any]:
    """Builds the file's JSON value; reports what it cannot hold."""
    report_annotations(document, report, header=True)
    sections: dict[bool, dict[str, Any]] = {False: {}, True: {}}
    for path, name, entry in named_entries(document, report):
        parameter = is_parameter(entry, parameters)
        if parameter is None:
            report.refuse(path, "may be an activation or a parameter; name the parameters with parameters=")
        sections[bool(parameter)][name] = encode_legacy(entry.encoding, path, report)
    return {
        **producer_json(document),
        "version": "0.6.1",
        "activation_encodings": sections[False],
        "param_encodings": sections[True],
        "excluded_layers": list(document.excluded_layers),
        **quantizer_args_json(document),
    }
