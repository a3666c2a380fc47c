"""Attention of vision transformers."""

from __future__ import annotations

import pytest
import torch

from quantsim.dualpath import IntMatMul, MulShift, QAttention, dequantize
from quantsim.errors import ConfigurationError
from quantsim.nn import compute_encodings
from quantsim.quantization import affine


def float_attention(module: QAttention, x: torch.Tensor) -> torch.Tensor:
    batch, tokens, channels = x.shape
    qkv = torch.nn.functional.linear(x, module.qkv.weight, module.qkv.bias)
    q, k, v = qkv.reshape(batch, tokens, 3, module.num_heads, -1).permute(2, 0, 3, 1, 4)
    probabilities = ((q @ k.transpose(-2, -1)) * (channels // module.num_heads) ** -0.5).softmax(-1)
    x = (probabilities @ v).transpose(1, 2).reshape(batch, tokens, channels)
    return torch.nn.functional.linear(x, module.proj.weight, module.proj.bias)


@pytest.mark.parametrize("tokens", [17, 197])
def test_integers_are_near_the_float_module(tokens: int) -> None:
    torch.manual_seed(0)
    module, x = QAttention(48, 3, qkv_bias=True, wbit=8, abit=8).eval(), torch.randn(2, tokens, 48) * 2
    exact = float_attention(module, x).detach()
    with compute_encodings(module), torch.no_grad():
        assert torch.allclose(module(x), exact, atol=0.05)
    found = dequantize(module.inference()(x), module.output_grid)
    assert float((found - exact).norm() / exact.norm()) < 0.05


def test_without_bits_it_is_the_float_module() -> None:
    module, x = QAttention(16, 2, qk_norm=False), torch.randn(3, 5, 16)
    torch.testing.assert_close(module(x), float_attention(module, x))


def test_parts_have_the_published_meaning() -> None:
    module = QAttention(16, 2, wbit=8, abit=8)
    assert isinstance(module.qk, IntMatMul)
    assert isinstance(module.attnv, IntMatMul)
    assert isinstance(module.attn_scale, MulShift)
    assert float(module.attn_scale.scale) == pytest.approx(8**-0.5)
    x = torch.randn(2, 7, 16)
    with compute_encodings(module):
        module(x)
    q = torch.randn(2, 2, 7, 8)
    real = module.trainFunc(q, q, q)
    assert real.is_floating_point()
    steps = real.detach() / module.qproj.scale  # the product is on the grid of qproj
    torch.testing.assert_close(steps, steps.round(), rtol=0, atol=1e-3)
    module.inference()
    codes = module.qqkv(q)
    found = module.evalFunc(codes, codes, codes)
    assert (codes.dtype, found.dtype) == (torch.int8, torch.int8)


def test_quantizers_of_ones_own_kind() -> None:
    module, x = QAttention(16, 2, wbit=8), torch.randn(2, 7, 16)
    module.xq = affine.QuantizeDequantize((), bitwidth=8, symmetric=False)
    module.qqkv = affine.QuantizeDequantize((), bitwidth=8, symmetric=False)
    module.qproj = affine.QuantizeDequantize((), bitwidth=8, symmetric=False)
    with compute_encodings(module):
        module(x)
    real = module(x).detach()
    found = dequantize(module.inference()(x), module.output_grid)
    assert float((found - real).norm() / real.norm()) < 0.03


def test_gradients_reach_all_weights() -> None:
    module, x = QAttention(16, 2, qkv_bias=True, qk_norm=True, wbit=8, abit=8), torch.randn(2, 7, 16)
    with compute_encodings(module):
        module(x)
    module(x).square().sum().backward()
    for name, parameter in module.named_parameters():
        assert parameter.grad is not None, name
        assert float(parameter.grad.abs().sum()) > 0, name


def test_normalised_queries_have_no_integers_here() -> None:
    module, x = QAttention(16, 2, qk_norm=True, wbit=8, abit=8), torch.randn(2, 7, 16)
    with compute_encodings(module):
        module(x)
    with pytest.raises(ConfigurationError, match="to_integer"):
        module.inference()
    assert torch.isfinite(module(x)).all()


def test_heads_must_divide_channels() -> None:
    with pytest.raises(ConfigurationError, match="multiple of num_heads"):
        QAttention(10, 3)


def test_empty_batches_on_both_paths() -> None:
    module = QAttention(8, num_heads=2, wbit=8, abit=8).eval()
    with compute_encodings(module):
        module(torch.randn(3, 4, 8))
    assert module(torch.zeros(0, 4, 8)).shape == (0, 4, 8)
    assert module.inference()(torch.zeros(0, 4, 8)).shape == (0, 4, 8)
