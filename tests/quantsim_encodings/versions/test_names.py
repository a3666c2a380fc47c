from __future__ import annotations

from quantsim_encodings import (
    AffineEncoding,
    EncodingEntry,
    EncodingsDocument,
    EncodingsVersion,
    IntFormat,
    PerTensor,
    TensorReference,
    TensorRole,
)
from quantsim_encodings._problems import ProblemCollector
from quantsim_encodings.loss import DEFAULT_ALLOWED, LossReport
from quantsim_encodings.versions.names import is_parameter, named_entries, note_duplicates

ENCODING = AffineEncoding(IntFormat(0, 3), 0.5, 0, False, PerTensor())  # type: ignore[arg-type]


def test_named_entries_keep_every_entry() -> None:
    output = TensorReference("a", TensorRole.OUTPUT, "0")
    entries = (
        EncodingEntry(ENCODING, output, name="y"),
        EncodingEntry(ENCODING, output),
        EncodingEntry(ENCODING, name="y"),
    )
    report = LossReport(DEFAULT_ALLOWED)
    document = EncodingsDocument(EncodingsVersion.QUANTSIM, entries)
    assert [name for _, name, _ in named_entries(document, report)] == ["y", "a.output[0]", "y"]
    assert [problem.path for problem in report.refused.problems] == ["$.encodings[1]", "$.encodings[2]"]
    assert [problem.path for problem in report.accepted.problems] == ["$.encodings[0]"]


def test_is_parameter() -> None:
    named = EncodingEntry(ENCODING, name="w")
    assert is_parameter(named, None) is None
    assert is_parameter(named, {"w"}) is True
    assert is_parameter(named, {"v"}) is False
    assert is_parameter(EncodingEntry(ENCODING, TensorReference("w", TensorRole.INPUT, "0")), {"w"}) is False


def test_duplicates_name_the_first() -> None:
    problems = ProblemCollector()
    note_duplicates([("$[0]", "a"), ("$[1]", "b"), ("$[2]", "a"), ("$[3]", "a")], problems)
    assert [problem.path for problem in problems.problems] == ["$[2]", "$[3]"]
    assert all("$[0] again" in problem.message for problem in problems.problems)
