from __future__ import annotations

from itertools import pairwise

import pytest

from quantsim.report.axes import inverse_hyperbolic_axis, linear_axis, nice_ticks, short_number


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-3.7, 12.2), (1e-6, 3e-6), (-1e5, 2e6), (0.995, 1.0)])
def test_ticks_are_round_rising_and_inside(low: float, high: float) -> None:
    ticks = nice_ticks(low, high)
    assert 2 <= len(ticks) <= 7
    assert list(ticks) == sorted(set(ticks))
    assert low - 1e-12 <= ticks[0]
    assert ticks[-1] <= high + abs(high) * 1e-9


def test_an_empty_range_has_one_tick() -> None:
    assert nice_ticks(2.0, 2.0) == (2.0,)


@pytest.mark.parametrize(
    ("value", "words"), [(0.0, "0"), (-0.5, "−0.5"), (1234.5, "1234"), (98765, "98.77k"), (2e6, "2M")]
)
def test_numbers_are_short(value: float, words: str) -> None:
    assert short_number(value) == words


def test_a_linear_axis_maps_its_ends_and_holds_what_lies_beyond() -> None:
    axis = linear_axis(0.0, 10.0, 100.0, 0.0)
    assert [axis(value) for value in (0, 5, 10, 20, -5)] == [100, 50, 0, 0, 100]


def test_equal_ends_do_not_divide_by_zero() -> None:
    assert linear_axis(3.0, 3.0, 0.0, 10.0)(3.0) == 5.0


def test_the_asinh_axis_is_monotone_odd_and_ticks_decades() -> None:
    axis = inverse_hyperbolic_axis(-100.0, 100.0, 0.0, 800.0, unit=1.0)
    assert axis(0.0) == 400.0
    assert axis(10.0) - 400 == pytest.approx(400 - axis(-10.0))
    places = [axis(value) for value in (-100, -10, -1, 0, 1, 10, 100)]
    assert places == sorted(places)
    assert {-100.0, -10.0, -1.0, 0.0, 1.0, 10.0, 100.0} <= set(axis.ticks)
    assert min(axis(high) - axis(low) for low, high in pairwise(axis.ticks)) >= 40
    assert axis(1.0) - axis(0.0) > 2 * (axis(91.0) - axis(90.0))


@pytest.mark.parametrize(("low", "high"), [(0.0, 3.0), (-0.4, 0.6), (-1e-9, 1e-9), (-3e4, 1.0)])
def test_the_asinh_axis_has_ticks_whatever_the_range(low: float, high: float) -> None:
    axis = inverse_hyperbolic_axis(low, high, 0.0, 500.0, unit=max(-low, high) / 8)
    assert len(axis.ticks) >= 3
