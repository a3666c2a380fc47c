"""How the versions by tensor name take names, sections and annotations from entries."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from quantsim_encodings._problems import ProblemCollector, child
from quantsim_encodings.document import EncodingEntry, EncodingsDocument
from quantsim_encodings.loss import Loss, LossReport


def report_annotations(document: EncodingsDocument, report: LossReport, *, header: bool) -> None:
    """Reports the annotations that no AIMET version holds.

    Args:
        document: What is written.
        report: Takes the losses.
        header: Whether the version holds excluded layers and quantizer arguments.
    """
    if document.model_fingerprint is not None:
        report.lose(Loss.ANNOTATION, "$.model_fingerprint", "cannot be held")
    if not header and document.excluded_layers:
        report.lose(Loss.ANNOTATION, "$.excluded_layers", "cannot be held")
    if not header and document.quantizer_args:
        report.lose(Loss.ANNOTATION, "$.quantizer_args", "cannot be held")
    for index, entry in enumerate(document.entries):
        report.name(child("$.encodings", index), entry.label)
        lost = [
            name
            for name, present in (
                ("frozen", entry.frozen),
                ("not learnable", not entry.learnable),
                (f"from analyzer {entry.analyzer}", entry.analyzer is not None),
                (f"from {entry.samples} samples", entry.samples is not None),
            )
            if present
        ]
        if lost:
            report.lose(Loss.ANNOTATION, child("$.encodings", index), f"is {', '.join(lost)}, which cannot be held")


def named_entries(document: EncodingsDocument, report: LossReport) -> list[tuple[str, str, EncodingEntry]]:
    """Entries with their JSON path and graph name; reports those without a name, and names that occur twice."""
    result: list[tuple[str, str, EncodingEntry]] = []
    seen: dict[str, str] = {}
    for index, entry in enumerate(document.entries):
        path = child("$.encodings", index)
        name = entry.graph_name
        if name is None:
            report.refuse(path, "has no tensor name in an exported graph; give one with with_names()")
            name = entry.label  # The encoding is looked at all the same, so that all problems are reported.
        elif name in seen:
            report.refuse(path, f"has the tensor name of {seen[name]}, {name!r}")
        elif entry.tensor is not None and str(entry.tensor) != name:
            report.lose(
                Loss.ANNOTATION, path, f"has a place in the model, which cannot be held, only its name {name!r}"
            )
        seen.setdefault(name, path)
        result.append((path, name, entry))
    return result


def is_parameter(entry: EncodingEntry, parameters: Collection[str] | None) -> bool | None:
    """Whether an entry belongs to the parameters' section; ``None`` if nobody says."""
    if entry.parameter is not None:
        return entry.parameter
    return entry.graph_name in parameters if parameters is not None else None


def note_duplicates(names: Iterable[tuple[str, str]], problems: ProblemCollector) -> None:
    """Notes names that occur more than once.

    Args:
        names: Pairs of JSON path and name.
        problems: Takes the problems.
    """
    seen: dict[str, str] = {}
    for path, name in names:
        if name in seen:
            problems.add(path, f"describes the tensor of {seen[name]} again, expected one encoding for a tensor")
        seen.setdefault(name, path)
