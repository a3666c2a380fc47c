from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantsim_encodings import (
    AffineEncoding,
    Flattened,
    IntFormat,
    PerTensor,
    UnplacedGroupedBlockEncoding,
    read,
    validate,
)

DATA = Path(__file__).parents[1] / "data"
TENSOR = {
    "name": "w",
    "dtype": "INT",
    "bw": 8,
    "is_sym": False,
    "scale": [0.5],
    "offset": [-3],
    "enc_type": "PER_TENSOR",
}
CHANNEL = {**TENSOR, "scale": [0.5, 0.25], "offset": [-3, -4], "enc_type": "PER_CHANNEL"}
BLOCK = {**CHANNEL, "enc_type": "PER_BLOCK", "block_size": 2}
LPBQ = {
    **TENSOR,
    "is_sym": True,
    "scale": [0.5, 0.25],
    "offset": [-128, -128],
    "enc_type": "LPBQ",
    "block_size": 2,
    "compressed_bw": 4,
    "per_block_int_scale": [16, 1, 3, 16],
}
FLOAT = {"name": "w", "dtype": "FLOAT", "bw": 16, "enc_type": "PER_TENSOR"}


def file_with(*items: Any) -> dict[str, Any]:
    return {"version": "1.0.0", "activation_encodings": [], "param_encodings": list(items)}


def test_real_file() -> None:
    document = read(DATA / "m_1.0.0.encodings")
    assert [(entry.name, entry.parameter) for entry in document][:2] == [("in", False), ("/relu/Relu_output_0", False)]
    kinds = {entry.name: entry.encoding for entry in document}
    channel, block, lpbq = kinds["pc.weight"], kinds["bq.weight_0"], kinds["lpbq.weight_0"]
    assert kinds["in"].granularity == PerTensor()
    assert channel.granularity == Flattened(per_channel=True)
    assert block.granularity == Flattened(block_size=2)
    assert isinstance(block, AffineEncoding)
    assert block.format == IntFormat(-8, 7)
    assert not block.offset.any()
    assert isinstance(lpbq, UnplacedGroupedBlockEncoding)
    assert (lpbq.format, lpbq.decompressed_bits) == (IntFormat(-8, 7), 8)
    assert lpbq.per_block_int_scale.tolist() == [16, 9, 9, 16]
    assert lpbq.per_channel_scale.dtype == np.float32


@pytest.mark.parametrize("item", [TENSOR, CHANNEL, BLOCK, LPBQ, FLOAT])
def test_each_kind_can_be_read(item: dict) -> None:
    assert validate(file_with(item)) == []


@pytest.mark.parametrize(
    ("item", "path", "message"),
    [
        ({**TENSOR, "scale": []}, ".offset", "got 1 values, expected 0"),
        ({**TENSOR, "scale": [], "offset": []}, ".scale", "got an empty array"),
        ({**TENSOR, "scale": [0.5, 0.5], "offset": [1, 1]}, ".scale", "expected one for PER_TENSOR"),
        ({**CHANNEL, "offset": [-3]}, ".offset", "got 1 values, expected 2"),
        ({**CHANNEL, "offset": [-3, 0.5]}, ".offset[1]", "expected an integer"),
        ({**CHANNEL, "scale": [0.5, None]}, ".scale[1]", "expected a number"),
        ({**CHANNEL, "scale": [0.5, True]}, ".scale[1]", "expected a number"),
        ({**CHANNEL, "scale": [0.5, -0.5]}, "", "scale: got -0.5"),
        ({**CHANNEL, "scale": 0.5}, ".scale", "expected an array"),
        ({**CHANNEL, "block_size": 2}, ".block_size", "is not expected for PER_CHANNEL"),
        ({**CHANNEL, "offset": [2**63, 0]}, ".offset", "beyond 62 bits"),
        ({**CHANNEL, "zero_point_shift": [0.5]}, ".zero_point_shift", "got 1 values, expected 2"),
        ({**CHANNEL, "zero_point_shift": [0.5, 0.0]}, ".zero_point_shift", "expected the same"),
        ({**BLOCK, "block_size": 0}, ".block_size", "greater than or equal to 1"),
        ({**BLOCK, "block_size": 2**40}, "", "31 bits"),
        ({**BLOCK, "enc_type": "VECTOR"}, ".enc_type", "expected 'PER_TENSOR', 'PER_CHANNEL', 'PER_BLOCK' or 'LPBQ'"),
        ({**CHANNEL, "enc_type": "PER_BLOCK"}, ".block_size", "is missing for PER_BLOCK"),
        ({**LPBQ, "compressed_bw": None}, ".compressed_bw", "is missing for LPBQ"),
        ({**LPBQ, "offset": [0, 0]}, "", "expected is_sym and offsets of -128"),
        ({**LPBQ, "is_sym": False}, "", "expected is_sym"),
        ({**LPBQ, "per_block_int_scale": [17, 1, 1, 1]}, "", "expected integers from 1 to 16"),
        ({**LPBQ, "per_block_int_scale": [16, 1, 1]}, "", "expected a multiple"),
        ({**LPBQ, "compressed_bw": 9}, "", "decompressed_bits"),
        ({**LPBQ, "compressed_bw": 1}, "", "from 2 to 64"),
        ({**FLOAT, "bw": 8}, ".bw", "expected one of [16, 32]"),
        ({**FLOAT, "scale": [1.0]}, ".scale", "is an unknown key"),
        ({**TENSOR, "name": 3}, ".name", "expected a valid string"),
    ],
)
def test_impossible_encodings(item: dict, path: str, message: str) -> None:
    problems = validate(file_with(item))
    assert problems[0].path == f"$.param_encodings[0]{path}"
    assert message in problems[0].message


def test_names_must_differ_over_both_sections() -> None:
    value = file_with(TENSOR, {**TENSOR, "name": "v"})
    value["activation_encodings"] = [TENSOR]
    (problem,) = validate(value)
    assert problem.path == "$.param_encodings[0].name"
    assert "$.activation_encodings[0].name again" in problem.message
