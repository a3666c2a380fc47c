from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.nn import QuantizedLinear
from quantsim.nn._parameter_cache import SMALLEST_CACHED
from quantsim.quantization import affine
from quantsim.quantization.float import FloatQuantizeDequantize

SIZE = 128
assert SIZE * SIZE >= SMALLEST_CACHED


@pytest.fixture
def linear() -> QuantizedLinear:
    torch.manual_seed(0)
    module = QuantizedLinear(SIZE, SIZE)
    module.param_quantizers["weight"] = affine.QuantizeDequantize((SIZE, 1), 4, True)
    module.compute_param_encodings()
    return module


X = torch.randn(3, SIZE, generator=torch.Generator().manual_seed(0))


def expected(linear: Any) -> Tensor:
    """The result without any cache."""
    return nn.functional.linear(X, linear.param_quantizers["weight"](linear.weight), linear.bias)


def count_calls(linear: Any) -> list[int]:
    """Counts how often the weight is quantized."""
    quantizer, calls = linear.param_quantizers["weight"], []
    original = type(quantizer).forward

    class Counting(type(quantizer)):
        def forward(self, *args: Any) -> Tensor:
            calls.append(1)
            return original(self, *args)

    quantizer.__class__ = Counting
    return calls


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_weights_are_quantized_once(linear: QuantizedLinear, mode: Any) -> None:
    calls = count_calls(linear)
    with mode():
        results = [linear(X) for _ in range(4)]
    assert len(calls) == 1
    assert torch.equal(results[0], results[3])
    assert torch.equal(results[3], expected(linear))


def test_training_never_uses_a_kept_value(linear: QuantizedLinear) -> None:
    with torch.no_grad():
        linear(X)
    calls = count_calls(linear)
    linear(X).sum().backward()
    linear(X).sum().backward()
    assert len(calls) == 2
    assert linear.weight.grad is not None


def test_kept_value_of_inference_mode_works_with_autograd(linear: QuantizedLinear) -> None:
    with torch.inference_mode():
        linear(X)
    linear.requires_grad_(False)
    calls = count_calls(linear)
    x = X.clone().requires_grad_()
    linear(x).sum().backward()  # the weight is a constant of this graph
    linear(x).sum().backward()
    assert x.grad is not None
    assert len(calls) <= 1


def sgd_step(linear: Any) -> None:
    linear.weight.grad = torch.ones_like(linear.weight)
    torch.optim.SGD([linear.weight], lr=0.1).step()


def fused_adam_step(linear: Any) -> None:
    linear.weight.grad = torch.ones_like(linear.weight)
    torch.optim.Adam([linear.weight], lr=0.1, fused=True).step()


def state_dict(linear: Any) -> None:
    state = {name: value.clone() for name, value in linear.state_dict().items()}
    state["weight"] *= -1
    linear.load_state_dict(state)


def assigned_state_dict(linear: Any) -> None:
    state = {name: value.clone() for name, value in linear.state_dict().items()}
    state["weight"] *= -1
    linear.load_state_dict(state, assign=True)


def new_parameter(linear: Any) -> None:
    linear.weight = nn.Parameter(-linear.weight.detach())


def copy_no_grad(linear: Any) -> None:
    with torch.no_grad():
        linear.weight.copy_(-linear.weight)


def data_assignment(linear: Any) -> None:
    linear.weight.data = -linear.weight.data


def swapped_memory(linear: Any) -> None:
    """Two assignments, so that the second can get the memory of the first."""
    for _ in range(20):
        linear.weight.data = torch.randn(SIZE, SIZE)


def wider_range(linear: Any) -> None:
    quantizer = linear.param_quantizers["weight"]
    quantizer.set_range(3 * quantizer.get_min(), 3 * quantizer.get_max())


def other_bitwidth(linear: Any) -> None:
    linear.param_quantizers["weight"].bitwidth = 3


def other_quantizer(linear: Any) -> None:
    linear.param_quantizers["weight"] = affine.QuantizeDequantize((), 3, True)
    linear.compute_param_encodings()


def recalibration(linear: Any) -> None:
    copy_no_grad(linear)
    linear.compute_param_encodings()


def trained_range(linear: Any) -> None:
    quantizer = linear.param_quantizers["weight"]
    for end in (quantizer.min, quantizer.max):
        end.grad = torch.ones_like(end)
    torch.optim.SGD(quantizer.parameters(), lr=0.1).step()


def hidden_write(linear: Any) -> None:
    """Writes past the version counter, as much user code does."""
    linear.weight.data.copy_(linear.weight.data.flip(0))


def hidden_negation(linear: Any) -> None:
    linear.weight.data.neg_()


def hidden_permutation(linear: Any) -> None:
    linear.weight.data.copy_(linear.weight.data[:, torch.randperm(SIZE)])


def hidden_single_element(linear: Any) -> None:
    linear.weight.data[5, 7] += 1.0


CHANGES: list[Callable[[Any], None]] = [
    sgd_step,
    fused_adam_step,
    state_dict,
    assigned_state_dict,
    new_parameter,
    copy_no_grad,
    data_assignment,
    swapped_memory,
    wider_range,
    other_bitwidth,
    other_quantizer,
    recalibration,
    trained_range,
    hidden_write,
    hidden_negation,
    hidden_permutation,
    hidden_single_element,
]


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_no_change_goes_unnoticed(linear: Any, change: Callable[[Any], None], training: bool, frozen: bool) -> None:
    if frozen:
        linear.param_quantizers["weight"].requires_grad_(False)
    linear.train(training)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            before = linear(X).detach()
            assert torch.equal(before, expected(linear))
    change(linear)
    for grad in (False, True):
        with torch.set_grad_enabled(grad):
            after = linear(X).detach()
            assert torch.equal(after, expected(linear))
    assert not torch.equal(after, before)


def test_observation_is_not_cached(linear: QuantizedLinear) -> None:
    quantizer = linear.param_quantizers["weight"]
    with torch.no_grad():
        linear(X)
        with quantizer.compute_encodings():
            assert torch.equal(linear(X), nn.functional.linear(X, linear.weight, linear.bias))
        assert torch.equal(linear(X), expected(linear))


def test_hooks_of_the_quantizer_run_each_time(linear: QuantizedLinear) -> None:
    calls: list[int] = []
    linear.param_quantizers["weight"].register_forward_hook(lambda *_: calls.append(1))
    with torch.no_grad():
        linear(X)
        linear(X)
    assert calls == [1, 1]


def test_stochastic_quantizers_are_not_cached(linear: QuantizedLinear) -> None:
    linear.param_quantizers["weight"] = FloatQuantizeDequantize(format="e4m3fn", rounding="stochastic", scaled=False)
    with torch.no_grad():
        first, second = linear(X), linear(X)
    assert not torch.equal(first, second)
    linear.param_quantizers["weight"] = FloatQuantizeDequantize(format="e4m3fn", rounding="nearest", scaled=False)
    with torch.no_grad():
        assert torch.equal(linear(X), linear(X))


def test_quantizers_that_say_they_are_stochastic_are_run_each_time(
    linear: QuantizedLinear, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(linear.param_quantizers["weight"]), "is_stochastic", True)
    calls = count_calls(linear)
    with torch.no_grad():
        linear(X)
        linear(X)
    assert len(calls) == 2


def test_small_parameters_are_not_cached() -> None:
    small = QuantizedLinear(4, 4)
    small.param_quantizers["weight"] = affine.QuantizeDequantize((), 4, True)
    with torch.no_grad():
        small(torch.randn(2, 4))
    assert "_quantized_parameter_cache" not in vars(small)


def test_models_made_in_inference_mode_work() -> None:
    with torch.inference_mode():
        module = QuantizedLinear(SIZE, SIZE)
        module.param_quantizers["weight"] = affine.QuantizeDequantize((), 4, True)
        first = module(X)
        module.weight.neg_()
        module.compute_param_encodings()
        assert not torch.equal(module(X), first)


def test_vmap_over_parameters(linear: QuantizedLinear) -> None:
    linear.param_quantizers["weight"].requires_grad_(False)
    with torch.no_grad():
        linear(X)
        weights = torch.stack([linear.weight, -linear.weight])
        got = torch.func.vmap(lambda weight: torch.func.functional_call(linear, {"weight": weight}, (X,)))(weights)
        for row, weight in zip(got, weights, strict=True):
            want = nn.functional.linear(X, linear.param_quantizers["weight"](weight), linear.bias)
            torch.testing.assert_close(row, want)
