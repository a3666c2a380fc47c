from __future__ import annotations

from collections.abc import Callable
from typing import Any

from quantsim.dualpath.coverage import IntegerCoverage, OperationCoverage


def test_counts_and_text() -> None:
    coverage = IntegerCoverage(
        (OperationCoverage("a", "linear", True, "", 30), OperationCoverage("b", "fft", False, "no form", 10)),
        (("b.output_quantizers.0", "blocks"),),
    )
    assert (coverage.integer, coverage.total, coverage.is_complete) == (1, 2, False)
    assert coverage.integer_multiplications == 30
    assert [each.module for each in coverage.floating] == ["b"]
    assert str(coverage).splitlines() == [
        "integer coverage: 1 of 2 operations, 75.0 % of 40 multiply-accumulates",
        "  float: fft of 'b': no form",
        "  quantizer without integers: b.output_quantizers.0: blocks",
    ]


def test_multiplications_are_those_of_the_model(converted: Callable[[str], Any]) -> None:
    coverage = converted("vgg").integer.coverage
    found = {each.operation: each.multiplications for each in coverage.operations if each.module == "0"}
    assert found == {"conv2d": 2 * 8 * 16 * 16 * 3 * 9}
    attention = [each for each in converted("bert").integer.coverage.operations if each.operation == "matmul"]
    assert [each.multiplications for each in attention] == [2 * 4 * 9 * 9 * 8] * 2
