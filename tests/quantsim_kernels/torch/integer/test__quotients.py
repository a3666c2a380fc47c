"""Quotients rounded in float64: ties and what is next to them are divided again, nothing else is."""

from __future__ import annotations

import torch
from torch import Tensor

from quantsim_kernels.torch.integer._quotients import place_quotients


def test_only_what_is_near_a_half_is_divided_again() -> None:
    quotients = torch.tensor([[0.5, 0.5 - 2.0**-30, -2.5, 3.0], [7.25, -0.49, 1e12, 1.5 + 2.0**-26]]).double()
    quotients[0, 1] = 0.5 - 2.0**-30
    quotients[1, 3] = 1.5 + 2.0**-26
    exact = torch.tensor([[1, 0, -3, 3], [7, 0, 0, 2]])
    asked: list[list[int]] = []

    def again(places: tuple[Tensor, ...]) -> Tensor:
        asked.extend(torch.stack(places, 1).tolist())
        return exact[places]

    result = place_quotients(quotients, again, 10, -100, 100)
    assert result.dtype is torch.int8
    assert result.tolist() == [[11, 10, 7, 13], [17, 10, 100, 12]]
    assert sorted(asked) == [[0, 0], [0, 1], [0, 2], [1, 3]]


def test_nothing_is_divided_again_where_nothing_is_near() -> None:
    def never(places: tuple[Tensor, ...]) -> Tensor:
        raise AssertionError(places)

    assert place_quotients(torch.tensor([0.25]).double(), never, 0, 0, 255).tolist() == [0]
    assert place_quotients(torch.zeros(0).double(), never, 0, 0, 255).shape == (0,)
