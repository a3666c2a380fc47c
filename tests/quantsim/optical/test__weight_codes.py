"""What is kept of a weight serves only while weight, range and settings are the same."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from quantsim.optical import OtLinear
from quantsim.optical._weight_codes import LARGEST_KEPT, WeightCodes
from quantsim.quantization.optical import OpticalQuantizeDequantize

ENDS = torch.tensor([-1.0, 1.0])


def weight(rows: int = 100, columns: int = 100) -> nn.Parameter:
    return nn.Parameter(torch.rand(rows, columns, generator=torch.Generator().manual_seed(0)))


def layer() -> tuple[OtLinear, Tensor]:
    torch.manual_seed(0)
    made = OtLinear(100, 100, noise="none").train()
    x = torch.randn(7, 100)
    made(x)
    return made.eval(), x


def test_the_second_unchanged_call_keeps() -> None:
    codes, tensor = WeightCodes(), weight()
    assert codes.of(tensor, ENDS, 256) is None
    kept = codes.of(tensor, ENDS, 256)
    assert kept is not None and not kept
    kept["torch"] = 1
    assert codes.of(tensor, ENDS.clone(), 256) is kept
    for again in (copy.deepcopy(codes), pickle.loads(pickle.dumps(codes))):
        assert again.of(tensor, ENDS, 256) is None


def _in_place(tensor: nn.Parameter) -> None:
    with torch.no_grad():
        tensor[3, 4] += 1.0


def _uncounted(tensor: nn.Parameter) -> None:
    tensor.data[3, 4] += 1.0


def _replaced(tensor: nn.Parameter) -> None:
    tensor.data = tensor.data + 1.0


@pytest.mark.parametrize("change", [_in_place, _uncounted, _replaced])
def test_a_changed_weight_is_quantized_anew(change: Callable[[nn.Parameter], None]) -> None:
    made, x = layer()
    with torch.no_grad():
        before = [made(x) for _ in range(3)]
        assert torch.equal(before[0], before[2])
        assert made._weight_codes._codes, "kept"
        assert isinstance(made.weight, nn.Parameter)
        change(made.weight)
        fresh = copy.deepcopy(made)
        assert not torch.equal(made(x), before[0])
        assert torch.equal(made(x), fresh(x))


def test_another_range_setting_or_error_map_is_quantized_anew() -> None:
    made, x = layer()
    with torch.no_grad():
        for _ in range(3):
            made(x)
        quantizer = made.param_quantizers["weight"]
        assert isinstance(quantizer, OpticalQuantizeDequantize)
        quantizer.set_range(-0.02, 0.03)
        assert torch.equal(made(x), copy.deepcopy(made)(x))
        made(x)
        for factor in (0.5, 2.0):
            made.set_error_map(torch.full((100, 1), factor))
            for _ in range(3):
                assert torch.equal(made(x), copy.deepcopy(made)(x))


def test_training_steps_keep_nothing() -> None:
    made, x = layer()
    made.train()
    for _ in range(4):
        made(x).sum().backward()
        with torch.no_grad():
            assert made.weight.grad is not None
            made.weight.sub_(0.1 * made.weight.grad)
        assert made._weight_codes._codes is None


def test_gradients_with_kept_codes_are_the_same() -> None:
    made, x = layer()
    first = torch.autograd.grad(made(x).square().sum(), list(made.parameters()))
    again = first
    for _ in range(3):
        again = torch.autograd.grad(made(x).square().sum(), list(made.parameters()))
    assert made._weight_codes._codes
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one, other)


def test_what_is_kept_in_inference_mode_serves_training() -> None:
    made, x = layer()
    with torch.inference_mode():
        for _ in range(3):
            made(x)
    made(x).sum().backward()
    assert made.weight.grad is not None


def test_small_large_and_foreign_weights_are_not_kept() -> None:
    codes = WeightCodes()
    others = [weight(2, 2), torch.rand(100, 100), nn.Parameter(torch.empty(LARGEST_KEPT + 1, device="meta"))]
    others.append(nn.Parameter(torch.empty(1, device="cpu").expand(LARGEST_KEPT + 1), requires_grad=False))
    for tensor in others:
        for _ in range(3):
            assert codes.of(tensor, ENDS, 256) is None
