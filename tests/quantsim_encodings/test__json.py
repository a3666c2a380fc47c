from __future__ import annotations

import json
import os
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from quantsim_encodings import EncodingsError, _json
from quantsim_encodings._json import MAX_DEPTH, check, format_json, parse, read_bytes
from quantsim_encodings._problems import ProblemCollector


def problems_of(text: str | bytes) -> list[str]:
    problems = ProblemCollector()
    parse(text, problems)
    return [str(problem) for problem in problems.problems]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a": 1, "a": 2, "b": {"c": 1, "c": 1, "c": 1}}', ["$.a: occurs more", "$.b.c: occurs more"]),
        ('{"a": [1, NaN, -Infinity]}', ["$.a[1]: got NaN", "$.a[2]: got -Infinity"]),
        ("[1e400, -1e999]", ["$[0]: got 1e400, expected a finite", "$[1]: got -1e999"]),
        ("[1" + "0" * 5000 + "]", ["$[0]: got a number of 5001 characters"]),
        ("[18446744073709551616, -18446744073709551616, 18446744073709551615]", ["$[0]: got 1844", "$[1]: got -1844"]),
        ("[1" + "0" * 30 + "]", ["$[0]: got an integer beyond"]),
        ('["\\ud800"]', ["$[0]: is text with half of a surrogate"]),
        ('{"\\ud800": 1}', ['$["\\ud800"]: is a key with half of a surrogate']),
        ('"\\ud83d\\ude00"', []),
        ("[1, 2.5, true, null, [], {}]", []),
        (b"\xef\xbb\xbf[1]", []),
    ],
)
def test_what_json_allows_and_we_do_not(text: str | bytes, expected: list[str]) -> None:
    got = problems_of(text)
    assert len(got) == len(expected)
    for problem, start in zip(got, expected, strict=True):
        assert problem.startswith(start)


def test_rejected_numbers_are_replaced_so_that_they_are_reported_once() -> None:
    assert parse("[NaN, 1e400, 7]", ProblemCollector()) == [1, 1, 7]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "is not JSON: Expecting value at line 1, column 1"),
        (b'{"a": ', "is not JSON: Expecting value at line 1"),
        (b'{"a": 1', "is not JSON"),
        (b"[1,]", "is not JSON"),
        (b"\xff\xfe[]", "is not UTF-8 text: byte 0"),
        ("[1]".encode("utf-16"), "is not UTF-8 text"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b"[" * 65 + b"]" * 65, f"expected at most {MAX_DEPTH} levels"),
    ],
)
def test_text_that_is_no_json(text: bytes, message: str) -> None:
    with pytest.raises(EncodingsError, match=message):
        parse(text, ProblemCollector())


def test_deepest_allowed_nesting() -> None:
    assert problems_of("[" * MAX_DEPTH + "]" * MAX_DEPTH) == []


def test_check_takes_any_mapping_and_copies_it() -> None:
    inner = [1, 2]
    source = MappingProxyType({"a": (1.5, inner), "b": MappingProxyType({"c": "d"})})
    problems = ProblemCollector()
    result = check(source, problems)
    assert result == {"a": [1.5, [1, 2]], "b": {"c": "d"}}
    assert result["a"][1] is not inner
    assert not problems


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({1: 2}, "has a key of type int"),
        ({"a": np.float64("nan")}, "got nan, expected a finite number"),
        ({"a": [1.0, float("inf")]}, "got inf"),
        ({"a": [1, 2**70]}, "below 2"),
        ({"a": np.zeros(2)}, "got a ndarray, expected a JSON value"),
        ({"a": b"x"}, "got a bytes"),
    ],
)
def test_check_notes_python_values_that_are_no_json(value: object, message: str) -> None:
    problems = ProblemCollector()
    check(value, problems)
    assert [message in problem.message for problem in problems.problems] == [True]


def test_check_survives_cycles() -> None:
    cycle: list[object] = []
    cycle.append(cycle)
    with pytest.raises(EncodingsError, match="nested too deeply"):
        check(cycle, ProblemCollector())


def test_numbers_keep_full_precision() -> None:
    values = [float(np.float32(0.1)), 0.1, 5e-324, 1.7976931348623157e308, -0.0, 2**53 + 1]
    back = json.loads(format_json(values))
    assert [repr(value) for value in back] == [repr(value) for value in values]


@pytest.mark.parametrize("value", [{}, [], {"a": []}, [[]], [{}], {"ä\ud800": "\n"}, [[1, 2], [3]], "x", 1, None])
def test_format_is_json(value: object) -> None:
    text = format_json(value)
    assert json.loads(text) == value
    assert text.isascii()
    assert text.endswith("\n")


def test_arrays_of_scalars_stay_on_one_line() -> None:
    assert format_json({"a": [[1, 2], [3, 4]]}) == '{\n  "a": [\n    [1, 2],\n    [3, 4]\n  ]\n}\n'


def test_format_refuses_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        format_json([float("nan")])


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (tmp_path / "missing", tmp_path, pipe, "/dev/null", "a\0b", ""):
        with pytest.raises(EncodingsError, match=r"cannot be opened|regular file"):
            read_bytes(path)


def test_large_files_are_rejected_before_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**30)  # Sparse: takes no room.
    with pytest.raises(EncodingsError, match="has 1073741824 bytes, expected at most 268435456"):
        read_bytes(path)


def test_growing_files_are_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "growing"
    path.write_bytes(b"12345")
    assert read_bytes(path, max_bytes=5) == b"12345"
    real = os.fstat

    class Small:
        st_size = 3

        def __init__(self, descriptor: int) -> None:
            self.st_mode = real(descriptor).st_mode

    monkeypatch.setattr(_json.os, "fstat", Small)
    with pytest.raises(EncodingsError, match="more than 4 bytes"):
        read_bytes(path, max_bytes=4)
