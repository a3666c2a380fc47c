"""Whatever the bytes or the structure of a file, reading and validating it raise nothing but EncodingsError."""

from __future__ import annotations

import copy
import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quantsim_encodings import EncodingsError, EncodingsVersion, convert, dumps, loads, read, validate

DATA = Path(__file__).parent / "data"
AIMET_FILES = {path.name: path.read_text() for path in sorted(DATA.iterdir()) if path.stem.startswith(("m_", "torch"))}
SHIFTED_FILES = {path.name: path.read_text() for path in sorted(DATA.iterdir()) if path.stem.startswith("shift")}
OWN_FILES = {f"{name}.quantsim": dumps(convert(loads(text), "quantsim-1")) for name, text in AIMET_FILES.items()}
TEXTS = {**AIMET_FILES, **SHIFTED_FILES, **OWN_FILES}
VALUES = {name: json.loads(text) for name, text in TEXTS.items()}

NASTY_NUMBERS = st.one_of(
    st.sampled_from([0, -1, 1, 2, 3, 65, -128, 2**31, 2**53 + 1, 2**63, 2**64, 10**400, -(10**30)]),
    st.sampled_from([0.0, -0.0, 0.5, -1e-3, 5e-324, 1e-46, 1e38, 1e39, 1e308, math.inf, -math.inf, math.nan]),
)
NASTY_TEXT = st.one_of(
    st.sampled_from(["", "0", "a", "\ud800", "é\0", "x" * 500, "True", "INT", "FLOAT", "LPBQ", "affine_encoding"]),
    st.sampled_from(["int8", "uint8", "int0", "int64", "uint65", "float8e4m3fn", "float4e2m1", "per_block"]),
    st.sampled_from(["PER_TENSOR", "PER_CHANNEL", "PER_BLOCK", *(version.value for version in EncodingsVersion)]),
)
SCALARS = st.one_of(NASTY_NUMBERS, NASTY_TEXT, st.booleans(), st.none(), st.text(max_size=5), st.floats())
JSON_VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.text(max_size=4), inner, max_size=4)),
    max_leaves=8,
)


def outcome(source: Any) -> EncodingsError | None:
    """Reads and validates; the two must agree, and what is read must be consistent with itself."""
    loader = read if isinstance(source, dict) else loads
    try:
        document = loader(source)
    except EncodingsError as error:
        assert error.problems
        assert all(problem.path.startswith("$") and problem.message for problem in error.problems)
        str(error).encode()
        if isinstance(source, dict):
            assert validate(source) == list(error.problems)
        return error
    assert loads(dumps(document)) == document
    assert convert(convert(document, "quantsim-1"), document.version) == document
    return None


def places(value: Any) -> list[tuple[Any, Any]]:
    """All (container, key) pairs in a JSON value."""
    found: list[tuple[Any, Any]] = []
    stack = [value]
    while stack:
        current = stack.pop()
        keys = list(current) if isinstance(current, dict) else range(len(current)) if isinstance(current, list) else ()
        for key in keys:
            found.append((current, key))
            stack.append(current[key])
    return found


@st.composite
def mutated_values(draw: st.DrawFn) -> Any:
    value = copy.deepcopy(VALUES[draw(st.sampled_from(sorted(VALUES)))])
    for _ in range(draw(st.integers(1, 3))):
        candidates = places(value)
        if not candidates:
            break
        container, key = candidates[draw(st.integers(0, len(candidates) - 1))]
        action = draw(st.sampled_from(["replace", "number", "delete", "duplicate", "rename", "wrap", "swap"]))
        if action == "replace":
            container[key] = draw(JSON_VALUES)
        elif action == "number":
            container[key] = draw(NASTY_NUMBERS)
        elif action == "delete":
            del container[key]
        elif action == "duplicate" and isinstance(container, list):
            container.append(copy.deepcopy(container[key]))
        elif action == "rename" and isinstance(container, dict):
            container[draw(NASTY_TEXT)] = container.pop(key)
        elif action == "wrap":
            container[key] = draw(st.sampled_from([lambda item: [item], lambda item: {"x": item}]))(container[key])
        elif action == "swap":
            other, other_key = candidates[draw(st.integers(0, len(candidates) - 1))]
            container[key] = copy.deepcopy(other[other_key])
    return value


@st.composite
def mutated_bytes(draw: st.DrawFn) -> bytes:
    data = bytearray(TEXTS[draw(st.sampled_from(sorted(TEXTS)))].encode())
    for _ in range(draw(st.integers(1, 5))):
        position = draw(st.integers(0, max(len(data) - 1, 0)))
        action = draw(st.sampled_from(["flip", "delete", "insert", "truncate", "token", "copy"]))
        if action == "flip" and data:
            data[position] ^= 1 << draw(st.integers(0, 7))
        elif action == "delete":
            del data[position : position + draw(st.integers(1, 40))]
        elif action == "insert":
            data[position:position] = draw(st.binary(min_size=1, max_size=6))
        elif action == "truncate":
            del data[position:]
        elif action == "token":
            tokens = [
                b"NaN",
                b"Infinity",
                b"1e999",
                b"-",
                b"[" * 3000,
                b'{"a":' * 3000,
                b"9" * 6000,
                b"null",
                b'"\\ud800"',
            ]
            data[position:position] = draw(st.sampled_from(tokens))
        else:
            data[position:position] = data[position : position + draw(st.integers(1, 200))]
    return bytes(data)


FEW = settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
MANY = settings(max_examples=5000, deadline=None, suppress_health_check=list(HealthCheck))


@FEW
@given(mutated_values())
def test_mutated_structure(value: Any) -> None:
    outcome(value)


@FEW
@given(mutated_bytes())
def test_mutated_bytes(data: bytes) -> None:
    outcome(data)


@FEW
@given(st.one_of(st.binary(max_size=60), st.text(max_size=60), JSON_VALUES.map(lambda value: json.dumps(value))))
def test_anything(data: bytes | str) -> None:
    assert outcome(data) is not None


@pytest.mark.slow
@MANY
@given(mutated_values())
def test_mutated_structure_at_length(value: Any) -> None:
    outcome(value)


@pytest.mark.slow
@MANY
@given(mutated_bytes())
def test_mutated_bytes_at_length(data: bytes) -> None:
    outcome(data)


@pytest.mark.parametrize("name", TEXTS)
def test_unmutated_files_can_be_read(name: str) -> None:
    assert outcome(TEXTS[name].encode()) is None
    assert outcome(VALUES[name]) is None


@pytest.mark.parametrize("name", ["m_2.1.0.encodings", "m_0.6.1.encodings.quantsim"])
def test_every_truncation_of_a_file_is_refused(name: str) -> None:
    data = TEXTS[name].rstrip().encode()
    for length in range(0, len(data), 7):
        assert outcome(data[:length]) is not None
