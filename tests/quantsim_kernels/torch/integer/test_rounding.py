"""Rounding in torch against the reference; the float64 way of the last step at its edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from quantsim_kernels.reference import integer as law
from quantsim_kernels.torch.integer import rounding as ours


def numbers(generator: np.random.Generator, bits: int, count: int = 4000) -> np.ndarray:
    """Of all magnitudes up to ``2^bits``, of both signs."""
    magnitudes = generator.integers(0, 2**62, count) >> generator.integers(62 - bits, 62, count)
    return np.where(generator.random(count) < 0.5, -magnitudes, magnitudes)


def test_shift_division_root(generator: np.random.Generator, device: torch.device) -> None:
    p, d = numbers(generator, 61), np.maximum(np.abs(numbers(generator, 61)), 1)
    shift = generator.integers(1, 62, p.size)
    on = lambda values: torch.as_tensor(values, device=device)  # noqa: E731
    assert ours.rounded_shift(on(p), on(shift)).tolist() == law.rounded_shift(p, shift).tolist()
    assert ours.rounded_division(on(p), on(d)).tolist() == law.rounded_division(p, d).tolist()
    halves = np.array([sign * (2 * k + 1) * (1 << 20) for sign in (1, -1) for k in range(50)])
    assert ours.rounded_shift(on(halves), 21).tolist() == law.rounded_shift(halves, 21).tolist()
    ties = ours.rounded_division(on(halves), on(np.full_like(halves, 1 << 21)))
    assert ties.tolist() == law.rounded_division(halves, 1 << 21).tolist()
    roots = np.abs(numbers(generator, 62))
    squares = generator.integers(0, 3037000499, 1000) ** 2
    roots = np.concatenate([roots, squares, squares[squares > 0] - 1, squares + 1, [2**63 - 1]])
    assert ours.square_root(on(roots)).tolist() == law.square_root(roots).tolist()


@pytest.mark.parametrize("grid", [(0, 0, 255), (-128, -128, 127), (0, -127, 127), (3, -(2**15), 2**15 - 1)])
@pytest.mark.parametrize("shift", [1, 20, 34, 42, 43, 44, 50, 61])
def test_finish_at_halves_and_beside_them(
    grid: tuple[int, int, int], shift: int, generator: np.random.Generator, device: torch.device
) -> None:
    zero_point, low, high = grid
    for multiplier in (1 << 30, (1 << 30) + 1, 2**31 - 1, -(1 << 30) - 3, 1, 3, 0, 12345):
        # Accumulators whose products come next to a half of the result, and any others.
        targets = (np.arange(-600, 600) * 2 + 1) * 0.5
        near = np.rint(targets * 2.0**shift / max(abs(multiplier), 1))
        near = near[np.abs(near) < 2**31 - 2].astype(np.int64)
        accumulators = np.concatenate([near - 1, near, near + 1, numbers(generator, 30, 500), [2**31 - 1, -(2**31)]])
        expected = law.requantize(
            accumulators, multiplier=multiplier, shift=shift, zero_point_in=0, zero_point=zero_point, low=low, high=high
        )
        result = ours.finish(torch.as_tensor(accumulators, device=device), 0, multiplier, shift, zero_point, low, high)
        assert result.dtype is ours.narrowest(low, high)
        np.testing.assert_array_equal(result.cpu().numpy(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32, torch.int64])
@pytest.mark.parametrize(("shape", "axis"), [((700, 300), 1), ((2, 1000, 300), 1), ((40, 9, 7, 700), 1), ((5,), 0)])
def test_finish_in_pieces(
    shape: tuple[int, ...], axis: int, dtype: torch.dtype, generator: np.random.Generator, device: torch.device
) -> None:
    accumulators = generator.integers(-(2**23), 2**23, shape)
    channels = shape[axis]
    bias = generator.integers(-(2**30), 2**30, channels) >> 8
    multiplier, shift = generator.integers(1 << 30, 1 << 31, channels), generator.integers(38, 46, channels)
    along = [1] * len(shape)
    along[axis] = -1
    expected = law.requantize(
        accumulators + bias.reshape(along),
        multiplier=multiplier,
        shift=shift,
        axis=axis,
        zero_point_in=0,
        zero_point=1,
        low=-128,
        high=127,
    )
    source = torch.as_tensor(accumulators, device=device).to(dtype)
    before = source.clone()
    for most in (46, 42):
        if most == 42:
            shift = np.minimum(shift, 42)
            expected = law.requantize(
                accumulators + bias.reshape(along),
                multiplier=multiplier,
                shift=shift,
                axis=axis,
                zero_point_in=0,
                zero_point=1,
                low=-128,
                high=127,
            )
        result = ours.finish(source, bias, multiplier, shift, 1, -128, 127, axis)
        np.testing.assert_array_equal(result.cpu().numpy(), expected)
    assert torch.equal(source, before)
    # Not contiguous, and one dimension before the channels from the end.
    turned = ours.finish(source.transpose(0, -1), 0, 1 << 30, 40, 1, -128, 127)
    straight = ours.finish(source, 0, 1 << 30, 40, 1, -128, 127)
    assert torch.equal(turned.transpose(0, -1), straight)


def test_numbers_and_dtypes() -> None:
    assert [ours.number(value) for value in (3, np.array(4), np.array([5]), torch.tensor(6))] == [3, 4, 5, 6]
    assert ours.number(np.array([1, 2])) is None
    assert ours.bounds(torch.zeros(2, dtype=torch.uint8)) == (0, 255)
    assert ours.bounds(torch.tensor([-3, 9])) == (-3, 9)
    assert ours.bounds(torch.zeros(0, dtype=torch.int32)) == (0, 0)
    assert ours.narrowest(-129, 0) is torch.int16
    assert ours.narrowest(0, 2**16) is torch.int32
    assert ours.narrowest(0, 2**31) is torch.int64
