from __future__ import annotations

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.nn import BaseQuantizationMixin, QuantizationMixin, QuantizedLinear
from quantsim.sim.replacement import quantized_counterpart, swap_modules


class Doubling(nn.Linear):
    """Overrides forward, takes other arguments, keeps an attribute."""

    def __init__(self, size: int) -> None:
        super().__init__(size, size)
        self.factor = 2.0

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) * self.factor


def test_the_counterpart_shares_everything() -> None:
    linear = nn.Linear(3, 2)
    seen = []
    linear.register_forward_hook(lambda *_: seen.append(1))
    linear.register_buffer("extra", torch.ones(1))
    quantized = quantized_counterpart("fc", linear)
    assert type(quantized) is QuantizedLinear
    assert quantized.weight is linear.weight
    assert quantized.extra is linear.extra
    x = torch.randn(4, 3)
    assert torch.equal(quantized(x), linear(x))
    assert len(seen) == 2


def test_a_subclass_keeps_its_forward() -> None:
    module = Doubling(3)
    quantized = quantized_counterpart("fc", module)
    assert isinstance(quantized, BaseQuantizationMixin) and isinstance(quantized, Doubling)
    x = torch.randn(4, 3)
    assert torch.equal(quantized(x), module(x))
    assert torch.equal(quantized(x), nn.functional.linear(x, module.weight, module.bias) * 2)


def test_a_quantized_module_is_its_own_counterpart() -> None:
    module = QuantizedLinear(2, 2)
    assert quantized_counterpart("fc", module) is module


def test_every_holder_gets_the_replacement() -> None:
    shared, new = nn.Linear(2, 2), nn.Linear(2, 2)
    model = nn.ModuleDict({"a": shared, "b": nn.Sequential(nn.ReLU(), shared), "none": nn.Linear(2, 2)})
    model["none"].register_module("empty", None)
    assert swap_modules(model, {shared: new}) is model
    assert model["a"] is model["b"][1] is new
    assert swap_modules(new, {new: shared}) is shared
    assert swap_modules(model, {}) is model


class Unfitting(nn.Linear):
    """Stands for a class whose quantized class cannot be made."""


class QuantizedUnfitting:
    """What `wrap` gives for it here."""

    @staticmethod
    def from_module(module: nn.Module) -> nn.Module:
        raise TypeError("its forward takes no tensors")


def test_a_module_that_cannot_be_quantized_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QuantizationMixin, "wrap", lambda cls: QuantizedUnfitting)
    with pytest.raises(ConfigurationError) as caught:
        quantized_counterpart("a.b", Unfitting(2, 2))
    for words in ("a.b", "Unfitting", "takes no tensors", "QuantizedUnfitting", "exclude=['a.b']"):
        assert words in str(caught.value)
