from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from quantsim_encodings import (
    AffineEncoding,
    Encoding,
    EncodingEntry,
    EncodingsDocument,
    EncodingsVersion,
    Flattened,
    FloatEncoding,
    IntFormat,
    OpticalEncoding,
    OpticalFormat,
    PerBlock,
    PerBlocks,
    PerChannel,
    PerTensor,
    PerToken,
    Producer,
    TensorReference,
    TensorRole,
    diff,
    float_format,
    read,
)

DATA = Path(__file__).parent / "data"
UINT8 = AffineEncoding(IntFormat(0, 255), 0.5, -3, False, PerTensor())  # type: ignore[arg-type]
INT8 = IntFormat(-128, 127)


def document_of(*entries: EncodingEntry, **changes) -> EncodingsDocument:
    return EncodingsDocument(EncodingsVersion.QUANTSIM, entries, **changes)


def between(left: Encoding, right: Encoding, **arguments) -> list[str]:
    documents = (document_of(EncodingEntry(encoding, name="x")) for encoding in (left, right))
    return [str(difference) for difference in diff(*documents, **arguments)]


def test_a_document_equals_itself() -> None:
    for name in ("m_0.6.1.encodings", "m_1.0.0.encodings", "m_2.1.0.encodings", "torch_side.json"):
        document = read(DATA / name)
        assert diff(document, document) == []


def test_every_changed_field_is_named() -> None:
    changed = replace(UINT8, scale=0.25, offset=-4, symmetric=True, format=IntFormat(0, 15))
    assert between(UINT8, changed) == [
        "x: format: IntFormat(qmin=0, qmax=255) -> IntFormat(qmin=0, qmax=15)",
        "x: scale: [0] 0.5 -> [0] 0.25",
        "x: offset: [0] -3 -> [0] -4",
        "x: symmetric: false -> true",
    ]


def test_arrays_are_shown_by_their_first_difference() -> None:
    left = AffineEncoding(INT8, np.arange(1.0, 9.0), 0, True, PerChannel(0))  # type: ignore[arg-type]
    scale = left.scale.copy()
    scale[[2, 5]] = 0.5
    assert between(left, replace(left, scale=scale)) == ["x: scale: [2] 3.0 -> [2] 0.5 (and 1 more)"]
    shorter = AffineEncoding(INT8, np.arange(1.0, 5.0), 0, True, PerChannel(0))  # type: ignore[arg-type]
    assert between(left, shorter) == [
        "x: scale: 8 values -> 4 values",
        "x: offset: 8 values -> 4 values",
    ]


def test_tolerance_is_relative() -> None:
    near = replace(UINT8, scale=0.5 * (1 + 1e-7))
    assert len(between(UINT8, near)) == 1
    assert between(UINT8, near, relative_tolerance=1e-6) == []
    assert len(between(UINT8, near, relative_tolerance=1e-8)) == 1


def test_equal_layouts_written_differently_are_equal() -> None:
    column = AffineEncoding(INT8, [[0.5], [0.25]], 0, True, PerChannel(0))  # type: ignore[arg-type]
    assert between(column, AffineEncoding(INT8, [0.5, 0.25], 0, True, PerChannel(0))) == []  # type: ignore[arg-type]
    assert between(UINT8, replace(UINT8, scale=[[0.5]], offset=[[-3]])) == []
    blocks = AffineEncoding(INT8, [[0.5, 1.0], [0.25, 2.0]], 0, True, PerBlock(1, 4), (1, 4))  # type: ignore[arg-type]
    assert between(blocks, replace(blocks, granularity=PerBlocks((1, 4)))) == []
    flat = AffineEncoding(INT8, [0.5, 1.0, 0.25, 2.0], 0, True, Flattened())  # type: ignore[arg-type]
    assert between(blocks, flat) == between(flat, blocks) == []
    assert between(blocks, replace(blocks, granularity=PerBlock(0, 4), block_size=(4, 1))) == [
        "x: granularity: PerBlock(axis=1, block_size=4) -> PerBlock(axis=0, block_size=4)"
    ]
    turned = AffineEncoding(INT8, [[0.5, 0.25], [1.0, 2.0]], 0, True, PerBlocks((2, 2)))  # type: ignore[arg-type]
    assert between(turned, replace(turned, scale=turned.scale.reshape(4, 1), offset=0, granularity=PerToken())) == [
        "x: granularity: PerBlocks(block_size=(2, 2)) -> PerToken()",
        "x: scale: shape (2, 2) -> shape (4, 1)",
        "x: offset: shape (2, 2) -> shape (4, 1)",
    ]


def test_kinds_differ() -> None:
    cast = FloatEncoding(float_format("fp16"))
    assert between(UINT8, cast) == ["x: kind: AffineEncoding -> FloatEncoding"]
    assert between(cast, replace(cast, scale=1.0)) == []
    assert between(cast, replace(cast, scale=2.0)) == ["x: scale: null -> 2.0"]
    optical = OpticalEncoding(OpticalFormat(), -1.0, 1.0)  # type: ignore[arg-type]
    assert between(optical, replace(optical, quantiles=(0.1, 0.9))) == ["x: quantiles: null -> (0.1, 0.9)"]


def test_presence_and_order() -> None:
    a, b, c = (EncodingEntry(UINT8, name=name) for name in "abc")
    assert diff(document_of(a, b), document_of(b, a)) == []
    assert [str(item) for item in diff(document_of(a, b), document_of(b, c))] == [
        "a: presence: present -> absent",
        "c: presence: absent -> present",
    ]
    assert len(diff(document_of(a, a), document_of(a))) == 1


def test_tensors_are_matched_by_place_first_then_by_name() -> None:
    place = TensorReference("m", TensorRole.OUTPUT, "0")
    both = EncodingEntry(UINT8, place, name="y")
    by_place, by_name = EncodingEntry(UINT8, place), EncodingEntry(UINT8, name="y")
    for other in (by_place, by_name):
        assert diff(document_of(both), document_of(other)) == []
        assert diff(document_of(other), document_of(both)) == []
    assert len(diff(document_of(by_place), document_of(by_name))) == 2


def test_annotations_count_between_our_own_documents_only() -> None:
    left = document_of(EncodingEntry(UINT8, name="x", frozen=True, analyzer="mse", samples=3, learnable=False))
    right = document_of(EncodingEntry(UINT8, name="x"), producer=Producer("quantsim", "1"), model_fingerprint="f")
    assert [(item.tensor, item.field) for item in diff(left, right)] == [
        ("x", "frozen"),
        ("x", "learnable"),
        ("x", "analyzer"),
        ("x", "samples"),
        ("", "producer"),
        ("", "model_fingerprint"),
    ]
    assert str(diff(left, right)[-1]) == 'document: model_fingerprint: null -> "f"'
    assert diff(left, replace(right, version=EncodingsVersion.AIMET_2_0_0)) == []


@pytest.mark.parametrize("relative_tolerance", [0.0, 1e-3])
def test_large_integers_are_compared_exactly(relative_tolerance: float) -> None:
    left = replace(UINT8, format=IntFormat(0, 2**64 - 1), offset=-(2**62))
    right = replace(left, offset=-(2**62) - 1)
    assert bool(between(left, right, relative_tolerance=relative_tolerance)) is (relative_tolerance == 0.0)
