from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from quantsim_encodings import (
    AffineEncoding,
    Encoding,
    EncodingEntry,
    EncodingsVersion,
    Flattened,
    FloatEncoding,
    GroupedBlockEncoding,
    IntFormat,
    Loss,
    MXEncoding,
    NVFP4Format,
    PerBlock,
    PerChannel,
    PerTensor,
    float_format,
)
from quantsim_encodings.loss import LossReport
from quantsim_encodings.versions.aimet_2 import FLOAT_FORMATS
from quantsim_encodings.versions.aimet_2_writing import encode_entries

INT4, UINT8 = IntFormat(-8, 7), IntFormat(0, 255)


def lpbq(channels: Any, integers: Any, axis: int) -> GroupedBlockEncoding:
    return GroupedBlockEncoding.from_scales(
        format=INT4,
        per_channel_scale=channels,
        per_block_int_scale=integers,
        decompressed_bits=8,
        granularity=PerBlock(axis, 4),
    )


def written(encoding: Encoding, version: str = "2.1.0", **changes: Any) -> tuple[dict[str, Any] | None, LossReport]:
    report = LossReport(set())
    entry = EncodingEntry(encoding, name="w", **changes)
    items = encode_entries([("$[0]", "w", entry)], EncodingsVersion(version), FLOAT_FORMATS, report)
    return (items[0] if items else None), report


@pytest.mark.parametrize(
    ("encoding", "fields"),
    [
        (AffineEncoding(UINT8, [0.5], [-3], False, PerTensor()), {"y_scale": 0.5, "y_zero_point": 3}),  # type: ignore[arg-type]
        (
            AffineEncoding(UINT8, [[0.5], [0.25]], [[0], [-3]], False, PerChannel(0)),  # type: ignore[arg-type]
            {"y_scale": [0.5, 0.25], "y_zero_point": [0, 3], "axis": 0},
        ),
        (
            AffineEncoding(UINT8, [[0.5, 0.25]], [[0, 0]], False, PerBlock(-1, 8)),  # type: ignore[arg-type]
            {"y_scale": [[0.5, 0.25]], "axis": -1, "block_size": 8},
        ),
    ],
)
def test_scales_have_the_shape_of_their_granularity(encoding: AffineEncoding, fields: dict[str, Any]) -> None:
    item, report = written(encoding)
    assert item == {"name": "w", "output_dtype": "uint8", **fields}
    assert not report.refused


@pytest.mark.parametrize(
    ("channels", "integers", "axis", "expected"),
    [
        ([[0.5], [0.25]], [[1, 2, 3], [4, 5, 6]], 1, -2),
        ([[0.5, 0.25]], [[1, 2], [3, 4], [5, 6]], 0, -1),
        ([[[[0.5]]], [[[0.25]]]], np.ones((2, 3, 1, 1), np.int64), 1, -4),
        ([[0.5]], [[1, 2, 3]], 1, -2),
    ],
)
def test_channel_axis_of_lpbq_counts_from_the_last(channels: Any, integers: Any, axis: int, expected: int) -> None:
    item, report = written(lpbq(channels, integers, axis))
    assert item is not None
    assert item["y_scale"]["axis"] == expected
    assert item["y_scale"]["x_scale"] == np.ravel(channels).tolist()
    assert not report.refused


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        (AffineEncoding(UINT8, [0.5, 0.25], 0, False, Flattened()), "along which axis"),  # type: ignore[arg-type]
        (AffineEncoding(UINT8, [[0.5, 0.25]], 0, False, PerBlock(5, 8)), "blocks along axis 5 but scales of shape"),  # type: ignore[arg-type]
        (lpbq([[0.5, 0.25]], [[1, 2]], 1), "several groups in a channel"),
        (FloatEncoding(float_format("e3m4")), "is e3m4; only float8e4m3fn"),
        (MXEncoding(NVFP4Format(two_level=False), PerBlock(0, 16), np.ones(2)), "without fixed scales"),
    ],
)
def test_what_cannot_be_written(encoding: Encoding, message: str) -> None:
    item, report = written(encoding)
    assert item is None
    assert any(message in problem.message for problem in report.refused.problems)


def test_section_is_a_loss() -> None:
    encoding = AffineEncoding(INT4, 0.5, 0, True, PerTensor())  # type: ignore[arg-type]
    for parameter, words in ((True, "is a parameter"), (False, "is an activation")):
        _, report = written(encoding, parameter=parameter)
        (problem,) = report.refused.problems
        assert words in problem.message
        assert Loss.ANNOTATION.value in problem.message
