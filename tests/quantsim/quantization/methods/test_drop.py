from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.quantization.methods import LSQQuantizeDequantize, QDropQuantizeDequantize

X = torch.randn(20000, generator=torch.Generator().manual_seed(0))


def made(**arguments: Any) -> QDropQuantizeDequantize:
    quantizer = QDropQuantizeDequantize(shape=(), bitwidth=4, symmetric=True, **arguments)
    quantizer.set_range(-2.4, 2.1)
    return quantizer


@pytest.mark.parametrize("drop", [0.0, 0.25, 0.5, 1.0])
def test_the_share_is_kept_and_the_rest_is_quantized(drop: float) -> None:
    quantizer = made(drop=drop, seed=3)
    everything = copy.deepcopy(quantizer).eval()(X)
    y = quantizer(X)
    assert torch.equal(y[y != X], everything[y != X])
    assert float((y == X).float().mean()) == pytest.approx(drop, abs=4 * (0.25 / 20000) ** 0.5)


def test_evaluation_and_frozen_quantizers_drop_nothing() -> None:
    quantizer = made()
    assert quantizer.is_stochastic
    assert not torch.equal(quantizer(X), quantizer(X))
    encoding = quantizer.get_encodings()
    assert encoding is not None
    plain = LSQQuantizeDequantize.from_encodings(encoding)(X)
    quantizer.eval()
    assert not quantizer.is_stochastic
    assert torch.equal(quantizer(X), plain)
    quantizer.train()
    quantizer.freeze()
    assert torch.equal(quantizer(X), plain)


def test_the_noise_is_its_own() -> None:
    state = torch.random.get_rng_state()
    first, second = made(seed=5), made(seed=5)
    assert torch.equal(first(X), second(X))
    assert torch.equal(first(X), second(X))  # the second draw, too
    assert torch.equal(torch.random.get_rng_state(), state)
    assert not torch.equal(made()(X), made()(X))
    third = made(seed=9)
    third.load_state_dict(first.state_dict())
    assert torch.equal(third(X), first(X))


def test_gradients_reach_step_and_input() -> None:
    quantizer = made(seed=1)
    x = X.clone().requires_grad_()
    quantizer(x).sum().backward()
    assert x.grad is not None
    assert quantizer.step.grad is not None
    assert float(quantizer.step.grad.abs()) > 0
    assert bool((x.grad[X.abs() < 2] == 1).all())
    beyond = X > 3
    assert 0.3 < float(x.grad[beyond].mean()) < 0.7  # dropped elements are not clipped


def test_the_share_is_checked() -> None:
    with pytest.raises(ConfigurationError, match="0 to 1"):
        made(drop=1.5)
