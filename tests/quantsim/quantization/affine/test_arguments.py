from __future__ import annotations

import pytest

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.quantization import affine
from quantsim.quantization.analyzers import MinMaxEncodingAnalyzer, PercentileEncodingAnalyzer

Q = affine.QuantizeDequantize


@pytest.mark.parametrize(
    ("quantizer", "expected"),
    [
        (lambda: Q((4, 1), 8, True), (-128, 127, True)),
        (lambda: Q((4, 1), 8, False), (0, 255, False)),
        (lambda: Q((4, 1), bitwidth=4, symmetric=True), (-8, 7, True)),
        (lambda: Q(shape=(4, 1), bitwidth=4, symmetric=False), (0, 15, False)),
        (lambda: Q((4, 1), -7, 7, True), (-7, 7, True)),
        (lambda: Q((4, 1), qmin=-7, qmax=7, symmetric=True), (-7, 7, True)),
        (lambda: Q((4, 1), 0, 15, symmetric=True), (0, 15, True)),
        (lambda: Q((4, 1), 0, qmax=15, symmetric=True), (0, 15, True)),
    ],
)
def test_both_ways_of_writing(quantizer, expected):
    made = quantizer()
    assert (made.qmin, made.qmax, made.symmetric) == expected
    assert made.shape == (4, 1)


def test_later_positional_arguments():
    analyzer = MinMaxEncodingAnalyzer((4, 2), (1, 8))
    by_bits = Q((4, 2), 8, True, analyzer, (1, 8), 0.5)
    by_grid = Q((4, 2), -128, 127, True, analyzer, (1, 8), 0.5)
    for made in (by_bits, by_grid):
        assert made.encoding_analyzer is analyzer
        assert made.block_size == (1, 8)
        assert made.zero_point_shift == 0.5


def test_shapes():
    assert Q(4, 8, True).shape == (4,)
    assert Q((), 8, True).shape == ()
    assert Q([4, 1], 8, True).shape == (4, 1)
    with pytest.raises(ShapeError, match="positive integers"):
        Q((0, 1), 8, True)


@pytest.mark.parametrize(
    "call",
    [
        lambda: Q((1,)),
        lambda: Q((1,), 8),
        lambda: Q((1,), 0, 255),
        lambda: Q((1,), 8, True, colour="red"),
        lambda: Q((1,), 8, symmetric=True, qmin=0),
    ],
)
def test_wrong_arguments_show_both_ways(call):
    with pytest.raises(TypeError, match=r"qmin, qmax, symmetric.*bitwidth, symmetric"):
        call()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: Q((1,), 0, True), "1 to 32|2 to 32"),
        (lambda: Q((1,), 1, True), "2 to 32"),
        (lambda: Q((1,), 33, False), "1 to 32"),
        (lambda: Q((1,), 2.5, False), "1 to 32"),
        (lambda: Q((1,), 7, -7, True), "qmin < qmax"),
        (lambda: Q((1,), 0.0, 7.5, True), "qmin < qmax"),
        (lambda: Q((1,), 8, True, zero_point_shift=0.25), "0.0 or 0.5"),
        (lambda: Q((4, 2), 8, True, block_size=(8,)), "one size for each"),
        (lambda: Q((4, 1), 8, True, MinMaxEncodingAnalyzer((5, 1))), "shape=\\(4, 1\\)"),
    ],
)
def test_values_that_make_no_sense(call, match):
    with pytest.raises(ConfigurationError, match=match):
        call()


def test_one_bit_is_unsigned():
    assert (Q((), 1, False).qmin, Q((), 1, False).qmax) == (0, 1)


def test_analyzer_takes_the_block_size_over():
    analyzer = PercentileEncodingAnalyzer((4, 2))
    Q((4, 2), 8, True, analyzer, block_size=(1, 8))
    assert analyzer.block_size == (1, 8)
    with pytest.raises(ConfigurationError, match="analyzer"):
        Q((4, 2), 8, True, MinMaxEncodingAnalyzer((2, 4)))
