from __future__ import annotations

import copy
import io
from typing import Any

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.nn import QuantizationMixin, QuantizedLinear, compute_param_encodings
from quantsim.nn.pruning_masks import (
    apply_pruning_masks,
    pruning_mask,
    pruning_masks,
    remove_pruning_mask,
    set_pruning_mask,
)
from quantsim.quantization import affine

MASK = torch.rand(4, 8, generator=torch.Generator().manual_seed(0)) < 0.5
X = torch.randn(16, 8, generator=torch.Generator().manual_seed(1))


def pruned(module: nn.Module | None = None) -> nn.Linear:
    module = nn.Linear(8, 4) if module is None else module
    set_pruning_mask(module, MASK)
    assert isinstance(module, nn.Linear)
    return module


def zeros_hold(module: nn.Module) -> bool:
    weight = module._parameters["weight"]
    assert weight is not None
    return bool((weight.detach()[~MASK] == 0).all()) and bool((weight.detach()[MASK] != 0).any())


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_masks_hold_in_training_whatever_optimizers_do(optimizer: Any) -> None:
    linear = nn.Linear(8, 4)
    steps = optimizer(linear.parameters(), lr=0.05)
    for _ in range(3):  # momentum from before the mask
        linear(X).square().sum().backward()
        steps.step()
    pruned(linear)
    kept = linear.weight.detach()[MASK].clone()
    for _ in range(5):
        steps.zero_grad()
        y = linear(X)
        torch.testing.assert_close(y, nn.functional.linear(X, linear.weight * MASK, linear.bias))
        y.square().sum().backward()
        steps.step()
    assert not torch.equal(kept, linear.weight.detach()[MASK])
    with torch.no_grad():
        linear(X)
    assert zeros_hold(linear)


def test_gradients_stay_dense_for_regrowth() -> None:
    linear = pruned()
    linear(X).square().sum().backward()
    assert linear.weight.grad is not None
    assert bool((linear.weight.grad[~MASK] != 0).all())


def test_a_module_may_run_twice_before_one_backward() -> None:
    linear = pruned(nn.Linear(8, 4))
    (linear(X) + linear(2 * X)).square().sum().backward()


def test_quantized_modules_made_from_pruned_ones_stay_pruned() -> None:
    linear = pruned()
    quantized: Any = QuantizationMixin.from_module(linear)
    quantized.param_quantizers["weight"] = affine.QuantizeDequantize((4, 1), bitwidth=4, symmetric=True)
    linear.weight.data.add_(1.0)
    compute_param_encodings(quantized)
    assert zeros_hold(quantized)
    linear.weight.data.add_(1.0)
    with torch.no_grad():
        y = quantized(X)
    assert zeros_hold(quantized)
    assert quantized.param_quantizers["weight"] is not None
    weight = quantized.param_quantizers["weight"](linear.weight)
    assert bool((weight[~MASK] == 0).all())
    torch.testing.assert_close(y, nn.functional.linear(X, weight, linear.bias))
    assert zeros_hold(quantized.get_original_module())


def test_state_dicts_copies_and_pickles_hold_mask_and_zeros() -> None:
    linear = pruned()
    linear.weight.data.add_(1.0)
    state = linear.state_dict()
    assert bool((state["weight"][~MASK] == 0).all())
    fresh = nn.Linear(8, 4)
    set_pruning_mask(fresh, torch.ones(4, 8))
    fresh.load_state_dict(state)
    buffer = io.BytesIO()
    torch.save(linear, buffer)
    buffer.seek(0)
    for other in (fresh, copy.deepcopy(linear), torch.load(buffer, weights_only=False)):
        other.weight.data.add_(1.0)
        other(X)
        assert zeros_hold(other)


def test_compiled_training_and_exports() -> None:
    linear = pruned()
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    linear.weight.data.add_(1.0)
    compiled(X).square().sum().backward()
    assert zeros_hold(linear)
    linear.weight.data.add_(1.0)
    apply_pruning_masks(linear)
    exported = torch.export.export(linear.eval(), (X,), strict=False).module()
    torch.testing.assert_close(exported(X), nn.functional.linear(X, linear.weight * MASK, linear.bias))


def test_masks_are_replaced_listed_and_removed() -> None:
    model: Any = nn.Sequential(nn.Linear(8, 4), QuantizedLinear(8, 4))
    for module in model:
        set_pruning_mask(module, MASK)
        set_pruning_mask(module, ~MASK)
        assert len(module._forward_pre_hooks) == 1
        assert bool((module.weight.detach() == 0).all())  # weights that come back start at 0
        assert torch.equal(pruning_mask(module), ~MASK)  # pyright: ignore[reportArgumentType]
    assert [(path, name) for path, _, name, _ in pruning_masks(model)] == [("0", "weight"), ("1", "weight")]
    for module in model:
        remove_pruning_mask(module)
        module.weight.data.fill_(1.0)
        module(X)
        assert bool((module.weight.detach() == 1).all())
    assert list(pruning_masks(model)) == []


def test_misuse() -> None:
    with pytest.raises(ConfigurationError, match="no such parameter"):
        set_pruning_mask(nn.Linear(8, 4), MASK, "weights")
    with pytest.raises(ConfigurationError, match=r"\(4, 8\)"):
        set_pruning_mask(nn.Linear(8, 4), MASK[0])
