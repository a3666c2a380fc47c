from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quantsim_encodings import AffineEncoding, EncodingsError, Flattened, IntFormat, PerTensor, loads, read, validate
from quantsim_encodings.versions.legacy import derivable_range, legacy_range

DATA = Path(__file__).parents[1] / "data"
ONE = {"min": -1.5, "max": 126.0, "scale": 0.5, "offset": -3, "bitwidth": 8, "dtype": "int", "is_symmetric": "False"}


def file_with(items: Any) -> dict[str, Any]:
    return {"version": "0.6.1", "activation_encodings": {}, "param_encodings": {"w": items}}


def test_unsigned_and_signed_codes() -> None:
    (entry,) = read(file_with([ONE]))
    encoding = entry.encoding
    assert isinstance(encoding, AffineEncoding)
    assert (encoding.format, int(encoding.offset), encoding.granularity) == (IntFormat(0, 255), -3, PerTensor())
    assert (float(encoding.min), float(encoding.max)) == (-1.5, 126.0)
    signed = {**ONE, "min": -64.0, "max": 63.5, "offset": -128, "is_symmetric": "True"}
    (entry,) = read(file_with([signed, {**signed, "scale": 0.25, "min": -32.0, "max": 31.75}]))
    encoding = entry.encoding
    assert isinstance(encoding, AffineEncoding)
    assert (encoding.format, encoding.offset.tolist(), encoding.granularity) == (
        IntFormat(-128, 127),
        [0, 0],
        Flattened(),
    )


@pytest.mark.parametrize(
    ("items", "path", "message"),
    [
        ([], "", "got an empty array"),
        ([{**ONE, "bitwidth": 0}], "[0].bitwidth", "greater than or equal to 1"),
        ([{**ONE, "bitwidth": 65}], "[0].bitwidth", "less than or equal to 64"),
        ([{**ONE, "bitwidth": 8.0}], "[0].bitwidth", "expected a valid integer"),
        ([{**ONE, "bitwidth": 1, "is_symmetric": "True"}], "", "from 2 to 64"),
        ([{**ONE, "scale": 0.0}], "[0].scale", "greater than 0"),
        ([{**ONE, "scale": "0.5"}], "[0].scale", "expected a valid number"),
        ([{**ONE, "scale": True}], "[0].scale", "expected a valid number"),
        ([{**ONE, "is_symmetric": False}], "[0].is_symmetric", "expected 'True' or 'False'"),
        ([{**ONE, "min": -2.0}], "[0].min", "expected -1.5 from scale, offset and bitwidth"),
        ([{**ONE, "max": 127.0}], "[0].max", "expected 126.0"),
        ([{**ONE, "offset": 2**63}], "", "offset"),
        ([{**ONE, "offset": -(2**63)}], "", "beyond 62 bits"),
        ([{**ONE, "dtype": "complex"}], "[0]", "does not match any of the expected tags: 'int', 'float'"),
        ([ONE, {**ONE, "bitwidth": 4}], "[1].bitwidth", "got 4, expected 8 as in the first"),
        ([ONE, {**ONE, "is_symmetric": "True"}], "[1].is_symmetric", "as in the first"),
        ([ONE, {"bitwidth": 16, "dtype": "float"}], "", "mixes int and float"),
        ([{"bitwidth": 16, "dtype": "float"}] * 2, "", "got 2 float encodings"),
        ([{"bitwidth": 8, "dtype": "float"}], "[0].bitwidth", "expected one of [16, 32]"),
        ([{**ONE, "extra": 1}], "[0].extra", "is an unknown key"),
        (ONE, "", "expected an array"),
        ([7], "[0]", "expected an object"),
    ],
)
def test_impossible_encodings(items: Any, path: str, message: str) -> None:
    problems = validate(file_with(items))
    assert problems[0].path == f"$.param_encodings.w{path}"
    assert message in problems[0].message


def test_redundant_range_may_be_rounded() -> None:
    assert validate(file_with([{**ONE, "min": -1.4999, "max": 126.004}])) == []


def test_huge_widths_do_not_overflow() -> None:
    item = {**ONE, "bitwidth": 64, "scale": 1e300, "offset": 0, "min": 0.0, "max": 1.8446744073709552e19 * 1e300}
    assert validate({**file_with([item])}) != []


def test_a_name_in_both_sections_is_a_duplicate() -> None:
    value = {**file_with([ONE]), "activation_encodings": {"w": [ONE]}}
    (problem,) = validate(value)
    assert problem.path == "$.param_encodings.w"
    assert "$.activation_encodings.w again" in problem.message


def test_truncating_any_key_of_a_real_file_is_noticed() -> None:
    value = json.loads((DATA / "m_0.6.1.encodings").read_text())
    for key in ("min", "max", "scale", "offset", "bitwidth", "dtype", "is_symmetric"):
        broken = copy.deepcopy(value)
        del broken["activation_encodings"]["in"][0][key]
        (problem,) = validate(broken)
        assert problem.path.startswith("$.activation_encodings.in[0]")
        assert key in str(problem)


def test_optional_headers() -> None:
    document = loads(json.dumps(file_with([ONE])))
    assert (document.producer, document.quantizer_args, document.excluded_layers) == (None, None, ())
    with pytest.raises(EncodingsError, match="expected an array"):
        read({**file_with([ONE]), "excluded_layers": "head"})


@pytest.mark.parametrize("bits", [2, 4, 8, 16])
def test_aimet_derives_the_written_scale_again(bits: int) -> None:
    generator = np.random.default_rng(bits)
    low, high = -generator.random(2000, np.float32), generator.random(2000, np.float32)
    steps = np.float32(2**bits - 1)
    scale = (high - low) / steps
    encoding = AffineEncoding(
        IntFormat.from_bits(bits, signed=False),
        scale=scale,
        offset=np.round(low / scale).astype(np.int64),
        symmetric=False,
        granularity=Flattened(),
    )
    minimum, maximum = derivable_range(encoding)
    assert ((maximum - minimum) / steps == scale).all()
    plain_minimum, plain_maximum = legacy_range(encoding)
    if bits > 2:  # why the plain products do not do
        assert ((plain_maximum - plain_minimum) / steps != scale).any()
    assert np.abs(minimum - plain_minimum).max() < 1e-6
    assert np.abs(maximum - plain_maximum).max() < 1e-6
