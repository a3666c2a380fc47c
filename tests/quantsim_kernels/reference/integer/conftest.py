"""Exact arithmetic in Python's integers and fractions, the oracle of the integer ops."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest


def half_away(value: Fraction | int) -> int:
    whole = math.floor(abs(value) + Fraction(1, 2))
    return whole if value >= 0 else -whole


def on_grid(value: Fraction | int, zero_point: int, low: int, high: int) -> int:
    return min(max(half_away(value) + zero_point, low), high)


@pytest.fixture
def rounded() -> Callable[[Fraction | int], int]:
    """Rounds a fraction half away from zero."""
    return half_away


@pytest.fixture
def placed() -> Callable[[Fraction | int, int, int, int], int]:
    """Rounds a fraction, adds the zero point, clamps."""
    return on_grid


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(7)
