from __future__ import annotations

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.quantization import affine
from quantsim.quantization.methods import PACTQuantizeDequantize, RCFQuantizeDequantize

X = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 2


def test_pact_is_the_published_formula() -> None:
    alpha = 2.5
    quantizer = PACTQuantizeDequantize(shape=(), bitwidth=4, symmetric=False)
    quantizer.set_range(0.0, alpha)
    x = X.clone().requires_grad_()
    y = quantizer(x)
    clipped = 0.5 * (X.abs() - (X - alpha).abs() + alpha)
    torch.testing.assert_close(y, (clipped * (15 / alpha)).round() * (alpha / 15))
    arriving = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    y.backward(arriving)
    assert x.grad is not None
    assert quantizer.alpha.grad is not None
    torch.testing.assert_close(x.grad, torch.where((X > 0) & (alpha > X), arriving, 0.0))
    torch.testing.assert_close(quantizer.alpha.grad, arriving[alpha < X].sum())


def test_signed_pact_clips_on_both_sides() -> None:
    quantizer = PACTQuantizeDequantize(shape=(), bitwidth=4, symmetric=True)
    quantizer.set_range(-7.0, 7.0)
    y = quantizer(torch.tensor([-9.0, -7.4, 0.2, 9.0]))
    assert y.tolist() == [-7.0, -7.0, 0.0, 7.0]
    y.sum().backward()
    assert quantizer.alpha.grad is not None
    assert float(quantizer.alpha.grad) == -1.0  # two below, one above
    assert (quantizer.qmin, quantizer.qmax, quantizer.bitwidth) == (-7, 7, 4)


@pytest.mark.parametrize("symmetric", [True, False])
def test_rcf_counts_rounding_in_the_gradient(symmetric: bool) -> None:
    quantizer = RCFQuantizeDequantize(shape=(), bitwidth=4, symmetric=symmetric)
    quantizer.set_range(-7 * 0.3 if symmetric else 0.0, 7 * 0.3 if symmetric else 15 * 0.3)
    alpha = float(quantizer.alpha.detach())
    steps, low = (7, -1.0) if symmetric else (15, 0.0)
    ratio = X.double() / alpha
    expected = ratio.clamp(low, 1.0).mul(steps).round() / steps
    slope = torch.where((ratio > low) & (ratio < 1), expected - ratio, ratio.clamp(low, 1.0))
    y = quantizer(X)
    torch.testing.assert_close(y, (expected * alpha).float())
    arriving = torch.randn(5000, generator=torch.Generator().manual_seed(1))
    y.backward(arriving)
    assert quantizer.alpha.grad is not None
    # Half a step beyond the end still rounds to it; there the two ways of writing the slope differ.
    near = ((ratio.abs() - 1).abs() < 0.5 / steps) | ((ratio < 0) & (not symmetric) & (ratio > -0.5 / steps))
    assert float(near.float().mean()) < 0.2
    doubtful = arriving[near].abs().sum() * 1.5 / steps
    assert abs(float(quantizer.alpha.grad) - float((slope * arriving).sum())) <= float(doubtful)


def test_unsigned_calibration_ignores_what_is_negative() -> None:
    quantizer = PACTQuantizeDequantize(shape=(), bitwidth=8, symmetric=False)
    with quantizer.compute_encodings():
        quantizer(X - 1)
    assert float(quantizer.get_offset()) == 0.0  # pyright: ignore[reportArgumentType]
    assert 0 < float(quantizer.alpha.detach()) <= float((X - 1).max()) * 1.01


def test_weight_decay_shrinks_a_clip_that_loses_nothing() -> None:
    quantizer = PACTQuantizeDequantize(shape=(), bitwidth=8, symmetric=False)
    quantizer.set_range(0.0, 10.0)
    optimizer = torch.optim.SGD(quantizer.parameters(), lr=0.1, weight_decay=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        quantizer(torch.rand(100)).mean().backward()
        optimizer.step()
    assert float(quantizer.alpha.detach()) < 9.0


def test_zero_points_are_refused() -> None:
    source = affine.QuantizeDequantize((), bitwidth=8, symmetric=False)
    source.set_range(-1.0, 2.0)
    quantizer = PACTQuantizeDequantize(shape=(), bitwidth=8, symmetric=False)
    with pytest.raises(ConfigurationError, match="no zero point"):
        quantizer.set_encodings(source.get_encodings())  # pyright: ignore[reportArgumentType]
    assert not quantizer.is_initialized()
    with pytest.raises(ConfigurationError, match="LSQQuantizeDequantize"):
        RCFQuantizeDequantize(shape=(), qmin=-100, qmax=120, symmetric=False)
