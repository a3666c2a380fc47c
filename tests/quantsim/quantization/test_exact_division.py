from __future__ import annotations

import pytest
import torch

from quantsim.quantization.exact_division import dividend_for


@pytest.mark.parametrize("divisor", [1, 3, 14, 15, 255, 65535, 2**32 - 1, 448.0, 6.0])
def test_gives_quotients_of_divisions_back(divisor):
    width = torch.rand(20000) * 10 ** torch.randint(-6, 6, (20000,)).float() + 1e-9
    quotient = width / divisor
    assert torch.equal(dividend_for(quotient, divisor) / divisor, quotient)


@pytest.mark.parametrize("divisor", [3, 255])
def test_other_quotients_miss_by_one_place_at_most(divisor):
    quotient = torch.rand(20000) + 1e-3
    back = dividend_for(quotient, divisor) / divisor
    distance = (back.view(torch.int32) - quotient.view(torch.int32)).abs()
    assert distance.max() <= 1
    assert (distance == 0).float().mean() > 0.7
