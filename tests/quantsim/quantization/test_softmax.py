from __future__ import annotations

import copy
import pickle

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.quantization.softmax import UnnormalizedSoftmaxQuantizeDequantize


@pytest.mark.parametrize("tokens", [17, 197, 512, 2048])
def test_attention_over_many_tokens_keeps_its_value(tokens: int) -> None:
    generator = torch.Generator().manual_seed(tokens)
    scores = torch.randn(64, tokens, generator=generator)
    values = torch.randn(tokens, 32, generator=generator)
    probabilities = scores.softmax(-1)
    exact = probabilities @ values
    ours = UnnormalizedSoftmaxQuantizeDequantize(8)(probabilities) @ values
    rounded = (probabilities * 255).round() / 255 @ values
    error = ((ours - exact).norm() / exact.norm()).item()
    assert error <= 0.015
    if tokens > 17:
        assert ((rounded - exact).norm() / exact.norm()).item() > 5 * error


def test_rows_sum_to_one_and_empty_rows_stay_empty() -> None:
    x = torch.stack([torch.tensor([0.5, 0.25, 0.25]), torch.zeros(3)])
    y = UnnormalizedSoftmaxQuantizeDequantize(8)(x)
    assert y[0].sum().item() == pytest.approx(1.0)
    assert y[1].tolist() == [0.0, 0.0, 0.0]


def test_the_gradient_passes_straight_through() -> None:
    x = torch.rand(4, 5).softmax(-1).requires_grad_()
    weight = torch.randn(4, 5)
    (UnnormalizedSoftmaxQuantizeDequantize(8)(x) * weight).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, weight)


def test_it_is_copied_saved_and_compiled() -> None:
    quantizer = UnnormalizedSoftmaxQuantizeDequantize(6)
    other = UnnormalizedSoftmaxQuantizeDequantize(8)
    other.load_state_dict(quantizer.state_dict())
    x = torch.randn(3, 7).softmax(-1)
    for same in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer)), other):
        assert same.bitwidth == 6
        assert torch.equal(same(x), quantizer(x))
    compiled = torch.compile(quantizer, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), quantizer(x))
    assert quantizer.get_encodings() is None
    assert quantizer(torch.arange(3)).dtype == torch.int64


@pytest.mark.parametrize("bits", [1, 17])
def test_impossible_widths_are_refused(bits: int) -> None:
    with pytest.raises(ConfigurationError, match="2 to 16"):
        UnnormalizedSoftmaxQuantizeDequantize(bits)
