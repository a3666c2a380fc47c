from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantsim_encodings import (
    AffineEncoding,
    FloatEncoding,
    GroupedBlockEncoding,
    IntFormat,
    MXEncoding,
    NVFP4Format,
    PerBlock,
    PerChannel,
    PerTensor,
    dumps,
    float_format,
    loads,
    read,
    validate,
)
from quantsim_encodings.versions.aimet_2 import int_format

DATA = Path(__file__).parents[1] / "data"
TENSOR = {"name": "w", "output_dtype": "uint8", "y_scale": 0.5, "y_zero_point": 3}
CHANNEL = {"name": "w", "output_dtype": "int8", "y_scale": [0.5, 0.25], "axis": 0}
BLOCK = {"name": "w", "output_dtype": "int4", "y_scale": [[0.5, 0.25, 1.0]], "axis": 1, "block_size": 2}
LPBQ_20 = {
    "name": "w",
    "output_dtype": "int4",
    "axis": 1,
    "block_size": 2,
    "per_block_int_scale": [[1, 16, 3], [16, 2, 2]],
    "per_channel_float_scale": [[0.5], [0.25]],
}
LPBQ_21 = {
    "name": "w",
    "output_dtype": "int4",
    "axis": 1,
    "block_size": 2,
    "y_scale": {"x": [[1, 16, 3], [16, 2, 2]], "x_scale": [0.5, 0.25], "axis": -2},
}
NVFP4 = {
    "name": "w",
    "output_dtype": "float4e2m1",
    "axis": -1,
    "block_size": 16,
    "y_scale": {"x": [[1.5, 448.0], [0.0, 2.0]], "x_scale": 0.01, "input_dtype": "float8e4m3fn"},
}


def file_with(*items: Any, version: str = "2.0.0") -> dict[str, Any]:
    return {"version": version, "encodings": list(items)}


def nested(item: dict, **changes: Any) -> dict:
    return {**item, "y_scale": {**item["y_scale"], **changes}}


def test_real_file() -> None:
    kinds = {entry.name: entry.encoding for entry in read(DATA / "wide_2.0.0.encodings")}
    conv, lin, bias, f8, f8c = (
        kinds[n] for n in ("conv.weight", "lin.weight_0", "conv.bias", "f8.weight_0", "f8c.weight_0")
    )
    assert isinstance(conv, GroupedBlockEncoding)
    assert (conv.granularity, conv.block_size) == (PerBlock(1, 4), (1, 4, 1, 1))
    assert (conv.scale.shape, conv.per_channel_scale.shape) == ((6, 2, 1, 1), (6, 1, 1, 1))
    assert isinstance(lin, GroupedBlockEncoding)
    assert (lin.granularity, lin.block_size, lin.scale.shape) == (PerBlock(0, 2), (2, 1), (3, 10))
    assert isinstance(bias, AffineEncoding)
    assert (bias.format, bias.symmetric, bias.granularity) == (IntFormat(-(2**31), 2**31 - 1), True, PerChannel(0))
    assert isinstance(f8, FloatEncoding)
    assert (f8.format, f8.granularity) == (float_format("e4m3fn"), PerTensor())
    assert f8c.granularity == PerChannel(1)
    assert kinds["tc.weight"].granularity == PerChannel(1)


@pytest.mark.parametrize("version", ["2.0.0", "2.1.0"])
@pytest.mark.parametrize("item", [TENSOR, CHANNEL, BLOCK, LPBQ_20, LPBQ_21, NVFP4], ids=str)
def test_each_kind_is_written_as_it_was_read(item: dict, version: str) -> None:
    value = file_with(item, version=version)
    problems = validate(value)
    fits = {"2.0.0": item not in (LPBQ_21, NVFP4), "2.1.0": item is not LPBQ_20}[version]
    assert (problems == []) == fits
    if fits:
        document = read(value)
        assert loads(dumps(document)) == document
        assert json.loads(dumps(document)) == value


def test_nvfp4() -> None:
    (entry,) = read(file_with(NVFP4, version="2.1.0"))
    encoding = entry.encoding
    assert isinstance(encoding, MXEncoding)
    assert encoding.format == NVFP4Format(16)
    assert (encoding.tensor_scale, encoding.granularity) == (0.01, PerBlock(-1, 16))
    assert encoding.block_size == (1, 16)


def test_lpbq_of_both_versions_is_the_same() -> None:
    (older,), (newer,) = read(file_with(LPBQ_20)), read(file_with(LPBQ_21, version="2.1.0"))
    assert older.encoding == newer.encoding
    assert isinstance(older.encoding, GroupedBlockEncoding)
    assert np.array_equal(older.encoding.scale, [[0.5, 8.0, 1.5], [4.0, 0.5, 0.5]])


@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("int8", IntFormat(-128, 127)),
        ("uint2", IntFormat(0, 3)),
        ("uint1", IntFormat(0, 1)),
        ("int1", None),
        ("int0", None),
        ("int65", None),
        ("xint8", None),
        ("int08", None),
        ("int8 ", None),
        ("int٨", None),
    ],
)
def test_names_of_integer_types(name: str, format: IntFormat | None) -> None:
    assert int_format(name) == format


@pytest.mark.parametrize(
    ("item", "path", "message"),
    [
        ({**TENSOR, "y_scale": 0.0}, "", "only positive"),
        ({**TENSOR, "y_scale": []}, ".y_scale", "got an empty array"),
        ({**TENSOR, "y_scale": [[]]}, ".y_scale[0]", "got an empty array"),
        ({**TENSOR, "y_scale": "x"}, ".y_scale", "expected a number or an array"),
        ({**TENSOR, "y_scale": [0.5]}, ".axis", "is missing, expected one for scales of shape [1]"),
        ({**TENSOR, "y_scale": [[0.5], 0.5], "axis": 0, "block_size": 1}, ".y_scale[1]", "expected an array of 1"),
        ({**TENSOR, "y_scale": [0.5, [0.5]], "axis": 0}, ".y_scale[1]", "expected a number"),
        ({**TENSOR, "block_size": 2}, ".axis", "is missing, expected one with block_size"),
        ({**TENSOR, "axis": 0}, ".y_scale", "expected one dimension with axis"),
        ({**TENSOR, "y_zero_point": [3]}, ".y_zero_point", "got shape [1], expected y_scale's []"),
        ({**TENSOR, "y_zero_point": 0.25}, ".y_zero_point", "fractions"),
        ({**TENSOR, "y_zero_point": 1e300}, ".y_zero_point", "fractions"),
        ({**TENSOR, "y_zero_point": 2**63}, ".y_zero_point", "beyond 63 bits"),
        ({**TENSOR, "output_dtype": "float16"}, ".output_dtype", "float8e4m3fn"),
        ({**TENSOR, "output_dtype": "float8e4m3fn"}, ".y_zero_point", "not expected"),
        ({**CHANNEL, "axis": 16}, ".axis", "less than or equal to 15"),
        ({**CHANNEL, "y_zero_point": [0.5, 0.0]}, ".y_zero_point", "fractions"),
        ({**BLOCK, "axis": 2}, ".axis", "expected an axis of the scales' shape [1, 3]"),
        ({**BLOCK, "y_scale": 0.5}, ".axis", "expected an axis"),
        ({**BLOCK, "block_size": 2**31}, "", "31 bits"),
        ({**LPBQ_20, "output_dtype": "uint4"}, ".output_dtype", "expected a signed int for LPBQ"),
        ({**LPBQ_20, "output_dtype": "float8e4m3fn"}, ".output_dtype", "pattern"),
        ({**LPBQ_20, "axis": 3}, ".axis", "expected an axis"),
        ({**LPBQ_20, "per_block_int_scale": [[17, 1, 1]]}, "", "from 1 to 16"),
        ({**LPBQ_20, "per_channel_float_scale": [[0.5], [0.5], [0.5]]}, "", "broadcasts"),
        ({**LPBQ_20, "per_channel_float_scale": [[0.5, 1, 2], [1, 1, 1]]}, "", "differ along the blocks' axis 1"),
        ({**LPBQ_20, "per_block_int_scale": [[1.5]]}, ".per_block_int_scale[0][0]", "expected an integer"),
    ],
)
def test_impossible_encodings(item: dict, path: str, message: str) -> None:
    problems = validate(file_with(item))
    assert problems[0].path == f"$.encodings[0]{path}"
    assert message in problems[0].message


@pytest.mark.parametrize(
    ("item", "path", "message"),
    [
        (nested(LPBQ_21, axis=1, x_scale=[0.5, 1, 2]), "", "differ along the blocks' axis 1"),
        (nested(LPBQ_21, axis=5), ".y_scale.axis", "expected the channels' axis in x"),
        (nested(LPBQ_21, axis=None), ".y_scale.axis", "expected the channels' axis in x"),
        (nested(LPBQ_21, x_scale=[[0.5, 0.5]]), ".y_scale.axis", "expected the channels' axis in x"),
        (nested(LPBQ_21, x_scale=[0.5]), ".y_scale.x_scale", "got 1 scales, expected 2"),
        (nested(LPBQ_21, x=[[1.5]]), ".y_scale.x", "expected integers for LPBQ"),
        (nested(LPBQ_21, input_dtype="int8"), ".y_scale.input_dtype", "not expected for LPBQ"),
        (nested(NVFP4, input_dtype=None), ".y_scale.input_dtype", "expected 'float8e4m3fn' for NVFP4"),
        (nested(NVFP4, x_scale=[0.01]), ".y_scale.x_scale", "expected one scale for NVFP4"),
        (nested(NVFP4, axis=0), ".y_scale.x_scale", "expected one scale for NVFP4"),
        (nested(NVFP4, x=[[-1.0]]), "", "no negative numbers"),
        (nested(NVFP4, x_scale=0), "", "expected a finite positive number"),
        ({**NVFP4, "axis": 4}, ".axis", "expected an axis"),
    ],
)
def test_impossible_nested_encodings(item: dict, path: str, message: str) -> None:
    problems = validate(file_with(item, version="2.1.0"))
    assert problems[0].path == f"$.encodings[0]{path}"
    assert message in problems[0].message


def test_names_must_differ() -> None:
    (problem,) = validate(file_with(TENSOR, CHANNEL))
    assert (problem.path, "$.encodings[0].name again" in problem.message) == ("$.encodings[1].name", True)


def test_symmetry_follows_from_sign_and_zero_point() -> None:
    items = [
        {"name": "a", "output_dtype": "int8", "y_scale": 0.5},
        {"name": "b", "output_dtype": "int8", "y_scale": 0.5, "y_zero_point": 1},
        {"name": "c", "output_dtype": "uint8", "y_scale": 0.5},
    ]
    assert [entry.encoding.symmetric for entry in read(file_with(*items))] == [True, False, False]  # type: ignore[attr-defined]
