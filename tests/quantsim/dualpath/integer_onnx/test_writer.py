"""The writer's arithmetic in ONNX Runtime against Python's integers, at the numbers where runtimes fail."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest

from quantsim.dualpath.integer_graph import IntegerGraph, Value

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

from quantsim.dualpath.integer_onnx.writer import OnnxWriter, Term, along  # noqa: E402

EDGES = [
    0,
    1,
    2,
    5,
    127,
    128,
    255,
    2**31 - 1,
    2**31,
    2**31 + 1,
    2**32 - 1,
    2**32,
    2**32 + 2**31,
    2**40 + 2**31,
    2**53 + 1,
]
NUMBERS = np.array(sorted({sign * number for number in EDGES for sign in (1, -1)}), np.int64)


def run(x: np.ndarray, write: Callable[[OnnxWriter, Term], Term]) -> np.ndarray:
    graph = IntegerGraph((), {"x": Value("x", x.shape, str(x.dtype))}, ("x",), ())
    writer = OnnxWriter(graph)
    writer.name_output(write(writer, Term("x", str(x.dtype))), "y")
    kinds = [onnx.helper.np_dtype_to_tensor_dtype(x.dtype), onnx.TensorProto.UNDEFINED]
    proto = onnx.helper.make_graph(
        writer.nodes,
        "test",
        [onnx.helper.make_tensor_value_info("x", kinds[0], x.shape)],
        [onnx.ValueInfoProto(name="y")],
        initializer=list(writer.initializers.values()),
    )
    model = onnx.helper.make_model(proto, opset_imports=[onnx.helper.make_opsetid("", 21)], ir_version=10)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def rounded(value: Fraction) -> int:
    """Half away from zero."""
    return int(math.copysign(1, value)) * math.floor(abs(value) + Fraction(1, 2))


@pytest.mark.parametrize("shift", [1, 2, 31, 32, 33, 50, 62])
def test_rounded_shift(shift: int) -> None:
    expected = [rounded(Fraction(int(x), 2**shift)) for x in NUMBERS]
    np.testing.assert_array_equal(run(NUMBERS, lambda writer, x: writer.rounded_shift(x, shift)), expected)


def test_rounded_shift_of_halves() -> None:
    halves = np.arange(-9, 10) * 2**30
    expected = [rounded(Fraction(int(x), 2**31)) for x in halves]
    np.testing.assert_array_equal(run(halves, lambda writer, x: writer.rounded_shift(x, 31)), expected)


@pytest.mark.parametrize("divisor", [1, 2, 3, 7, 2**31, 2**31 + 1, 2**33])
def test_rounded_division(divisor: int) -> None:
    expected = [rounded(Fraction(int(x), divisor)) for x in NUMBERS]
    result = run(NUMBERS, lambda writer, x: writer.rounded_division(x, writer.constant(divisor)))
    np.testing.assert_array_equal(result, expected)


def test_square_root() -> None:
    roots = [*range(1, 50), 2**16, 46341, 2**26 + 1, 94906267, 2**31 - 1, 2**31, 3037000498, 3037000499]
    near = [root * root + offset for root in roots for offset in (-1, 0, 1)]
    numbers = np.array([number for number in (0, *near, 2**63 - 1) if number < 2**63], np.int64)
    result = run(numbers, lambda writer, x: writer.square_root(x))
    np.testing.assert_array_equal(result, [math.isqrt(int(number)) for number in numbers])


@pytest.mark.parametrize(("low", "high"), [(-128, 127), (0, 255), (-(2**31), 2**31 - 1), (5, 2**31 + 7)])
def test_clamped(low: int, high: int) -> None:
    result = run(NUMBERS, lambda writer, x: writer.clamped(x, low, high))
    np.testing.assert_array_equal(result, np.clip(NUMBERS, low, high))


def test_clamped_bytes_stay_bytes() -> None:
    x = np.arange(-128, 128, dtype=np.int8)
    result = run(x, lambda writer, term: writer.clamped(term, -3, 100))
    assert result.dtype == np.int8
    np.testing.assert_array_equal(result, np.clip(x, -3, 100))


def test_row_maximum_and_sum() -> None:
    rows = np.random.default_rng(0).choice(NUMBERS, (50, 3, 8))
    maximum = run(rows, lambda writer, x: writer.row_maximum(x))
    np.testing.assert_array_equal(maximum, rows.max(-1, keepdims=True))
    total = run(rows, lambda writer, x: writer.row_sum(x, 8))
    np.testing.assert_array_equal(total, rows.sum(-1, keepdims=True))


def test_at_least_one() -> None:
    numbers = NUMBERS[NUMBERS >= 0]
    np.testing.assert_array_equal(run(numbers, lambda writer, x: writer.at_least_one(x)), np.maximum(numbers, 1))


def test_unsigned_is_written_once() -> None:
    writer = OnnxWriter(IntegerGraph((), {"x": Value("x", (3,), "int8")}, ("x",), ()))
    first = writer.unsigned(Term("x", "int8"))
    count = len(writer.nodes)
    assert writer.unsigned(Term("x", "int8")) == first and len(writer.nodes) == count
    assert first[0].dtype == "uint8" and first[1] == 128


def test_along_needs_an_axis() -> None:
    assert along(np.arange(3), -1, 4).shape == (3,)
    with pytest.raises(ValueError, match="without an axis"):
        along(np.arange(3), None, 4)


def test_limits_beyond_the_type_change_nothing() -> None:
    x = np.array([-5, 0, 5], np.int8)
    grid = {"multiplier": 1 << 30, "shift": 30, "zero_point": 0, "low": -(2**40), "high": 2**40}
    np.testing.assert_array_equal(run(x, lambda writer, term: writer.finished(term, bound=128, **grid)), x)


def test_constants_must_be_held() -> None:
    writer = OnnxWriter(IntegerGraph((), {}, (), ()))
    assert writer.constant(255, "uint8").dtype == "uint8"
    with pytest.raises(ValueError, match="got numbers from -1 to 256, expected ones that uint8 holds"):
        writer.constant([-1, 256], "uint8")
