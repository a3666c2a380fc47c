from __future__ import annotations

import pytest

from quantsim_encodings import (
    AffineEncoding,
    EncodingEntry,
    EncodingsDocument,
    EncodingsError,
    EncodingsVersion,
    IntFormat,
    PerTensor,
    TensorReference,
    TensorRole,
)

ENCODING = AffineEncoding(IntFormat(-128, 127), 0.5, 0, True, PerTensor())  # type: ignore[arg-type]
WEIGHT = TensorReference("a.b", TensorRole.PARAM, "weight")
OUTPUT = TensorReference("a.b", TensorRole.OUTPUT, "0")


def test_entries_know_what_they_are() -> None:
    weight, output = EncodingEntry(ENCODING, WEIGHT), EncodingEntry(ENCODING, OUTPUT, name="y")
    named = EncodingEntry(ENCODING, name="y")
    assert [entry.parameter for entry in (weight, output, named)] == [True, False, None]
    assert [entry.label for entry in (weight, output, named)] == ["a.b.weight", "a.b.output[0]", "y"]
    assert [entry.graph_name for entry in (weight, output, named)] == ["a.b.weight", "y", "y"]
    assert EncodingEntry(ENCODING, OUTPUT).graph_name is None
    assert str(TensorReference("", TensorRole.PARAM, "weight")) == "weight"
    assert TensorReference("a", "input", "0").role is TensorRole.INPUT  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("arguments", "count"),
    [
        ({"encoding": ENCODING}, 1),
        ({"encoding": ENCODING, "name": ""}, 1),
        ({"encoding": 0.5, "name": "y"}, 1),
        ({"encoding": 0.5, "samples": -1}, 3),
    ],
)
def test_impossible_entries_are_refused_with_all_reasons(arguments: dict, count: int) -> None:
    with pytest.raises(EncodingsError) as caught:
        EncodingEntry(**arguments)
    assert len(caught.value.problems) == count


def test_document_finds_entries() -> None:
    entries = (EncodingEntry(ENCODING, WEIGHT), EncodingEntry(ENCODING, OUTPUT, name="y"))
    document = EncodingsDocument("quantsim-1", list(entries))  # type: ignore[arg-type]
    assert document.version is EncodingsVersion.QUANTSIM
    assert (len(document), tuple(document), document.entries) == (2, entries, entries)
    assert document.find(WEIGHT) is document.find("a.b.weight") is entries[0]
    assert document.find("y") is document.find("a.b.output[0]") is entries[1]
    with pytest.raises(KeyError, match="no encoding for 'z' among 2 entries"):
        document.find("z")
