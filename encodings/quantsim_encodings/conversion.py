"""Converting documents between versions, and giving tensors the names that a version needs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from quantsim_encodings._problems import ProblemCollector
from quantsim_encodings.document import EncodingEntry, EncodingsDocument, EncodingsVersion, TensorReference
from quantsim_encodings.errors import EncodingsError, Problem
from quantsim_encodings.loss import DEFAULT_ALLOWED, Loss, LossReport
from quantsim_encodings.versions import codec_for

__all__ = ["convert", "losses", "with_names", "with_tensors"]


def to_json(
    document: EncodingsDocument,
    version: EncodingsVersion | str | None = None,
    *,
    allow: Collection[Loss] = DEFAULT_ALLOWED,
    parameters: Collection[str] | None = None,
) -> dict[str, Any]:
    """The JSON value of a document in a version; arguments and errors as in :func:`convert`."""
    value, report, target = _encode(document, version, allow, parameters)
    report.refused.raise_if_any(f"encodings version {target.value} cannot hold these encodings")
    return value


def _encode(
    document: EncodingsDocument,
    version: EncodingsVersion | str | None,
    allow: Collection[Loss],
    parameters: Collection[str] | None,
) -> tuple[dict[str, Any], LossReport, EncodingsVersion]:
    target = document.version if version is None else _version(version)
    report = LossReport(allow)
    value = codec_for(target).encode(replace(document, version=target), report, parameters)
    return value, report, target


def _version(version: EncodingsVersion | str) -> EncodingsVersion:
    try:
        return EncodingsVersion(version)
    except ValueError:
        expected = ", ".join(EncodingsVersion)
        raise EncodingsError(
            "unknown encodings version", [Problem("$.version", f"got {version!r}, expected one of {expected}")]
        ) from None


def convert(
    document: EncodingsDocument,
    version: EncodingsVersion | str,
    *,
    allow: Collection[Loss] = DEFAULT_ALLOWED,
    parameters: Collection[str] | None = None,
) -> EncodingsDocument:
    """Gives the document as a file of another version holds it.

    Args:
        document: What to convert.
        version: The version to hold it in.
        allow: Kinds of information that may be lost, besides annotations (how the encodings came about) and the
            layout of scales where a version only lists them; an empty collection refuses these too. :func:`losses`
            says what would be lost.
        parameters: Names of the tensors that are parameters, for versions that list parameters apart, where the
            document does not say (2.0.0 and 2.1.0 do not).

    Returns:
        A new document.

    Raises:
        EncodingsError: With the list of what the version cannot hold.
    """
    value = to_json(document, version, allow=allow, parameters=parameters)
    target = _version(version)
    codec = codec_for(target)
    problems = ProblemCollector()
    converted = codec.decode(codec.model.model_validate(value), problems)
    problems.raise_if_any(f"encodings version {target.value} cannot hold these encodings")
    return converted


def losses(
    document: EncodingsDocument,
    version: EncodingsVersion | str,
    *,
    allow: Collection[Loss] = DEFAULT_ALLOWED,
    parameters: Collection[str] | None = None,
) -> tuple[Problem, ...]:
    """Lists what converting loses: first what raises, then what ``allow`` accepts.

    Raises:
        EncodingsError: If there is no such version.
    """
    _, report, _ = _encode(document, version, allow, parameters)
    return (*report.refused.problems, *report.accepted.problems)


def with_names(document: EncodingsDocument, names: Mapping[str, str]) -> EncodingsDocument:
    """Gives tensors names in an exported graph.

    Args:
        document: The document.
        names: Graph name by label (``"encoder.0.output[0]"``, ``"encoder.0.weight"``, or the old name).

    Raises:
        EncodingsError: If a label is not in the document.
    """
    _require_labels(document, names)
    return _with_entries(document, {label: {"name": name} for label, name in names.items()})


def with_tensors(document: EncodingsDocument, tensors: Mapping[str, TensorReference]) -> EncodingsDocument:
    """Gives tensors their place in the torch model.

    Args:
        document: The document.
        tensors: Place by label or graph name.

    Raises:
        EncodingsError: If a label is not in the document.
    """
    _require_labels(document, tensors)
    return _with_entries(document, {label: {"tensor": tensor} for label, tensor in tensors.items()})


def _labels(entry: EncodingEntry) -> tuple[str, ...]:
    return (entry.label, entry.name) if entry.name is not None else (entry.label,)


def _require_labels(document: EncodingsDocument, mapping: Mapping[str, Any]) -> None:
    known = {label for entry in document.entries for label in _labels(entry)}
    problems = ProblemCollector()
    for label in mapping:
        if label not in known:
            problems.add("$.encodings", f"has no tensor {label!r} to be named")
    problems.raise_if_any("cannot name tensors")


def _with_entries(document: EncodingsDocument, changes: Mapping[str, dict[str, Any]]) -> EncodingsDocument:
    entries = []
    for entry in document.entries:
        change = next((changes[label] for label in _labels(entry) if label in changes), None)
        entries.append(entry if change is None else replace(entry, **change))
    return replace(document, entries=tuple(entries))
