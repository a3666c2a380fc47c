"""Gaussian noise: its distribution, and that it depends on seed and element number alone."""

from __future__ import annotations

import pytest
import torch

from quantsim_kernels.reference.normal_noise import normal_noise


def test_normal_noise_has_the_moments_of_the_normal_distribution() -> None:
    values = normal_noise(9, torch.arange(400_000), torch.float64)
    assert values.isfinite().all() and values.abs().max() < 5.9
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        assert float((values**power).mean()) == pytest.approx(moment, abs=0.05)
    assert abs(float((values[1:] * values[:-1]).mean())) < 0.01
    assert float((values.abs() < 1).double().mean()) == pytest.approx(0.6827, abs=0.005)


def test_normal_noise_is_a_function_of_seed_and_number() -> None:
    values = normal_noise(3, torch.arange(100))
    assert values.dtype is torch.float32
    assert torch.equal(values[40:], normal_noise(torch.tensor(3), torch.arange(40, 100)))
    assert not torch.equal(values, normal_noise(4, torch.arange(100)))
