from __future__ import annotations

import numpy as np
import pytest

from quantsim.dualpath.accumulator_bound import ACCUMULATOR_LIMIT, require_accumulator, weighted_sum_bound
from quantsim.errors import ConfigurationError


def test_the_bound_is_reached_and_never_exceeded() -> None:
    generator = np.random.default_rng(0)
    weight = generator.integers(-128, 128, (5, 3, 2, 2))
    bound = weighted_sum_bound(weight, -128, 127)
    codes = np.where(weight >= 0, -128, 127)
    sums = np.cumsum((codes * weight).reshape(5, -1), axis=1)
    assert np.abs(sums).max() <= bound
    assert weighted_sum_bound(np.full((1, 7), -3), 0, 255) == 7 * 3 * 255


def test_sums_that_just_fit_are_taken() -> None:
    assert require_accumulator(ACCUMULATOR_LIMIT - 1, layer="fc", terms=1, operands="codes") == ACCUMULATOR_LIMIT - 1
    with pytest.raises(ConfigurationError, match=r"fc: .*could overflow.*\(1\).*\(2\).*\(3\)"):
        require_accumulator(ACCUMULATOR_LIMIT, layer="fc", terms=1, operands="codes")
