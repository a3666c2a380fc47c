"""Attention within windows: position bias and masks on both paths."""

from __future__ import annotations

import pytest
import torch

from quantsim.dualpath import QWindowAttention, dequantize
from quantsim.errors import ConfigurationError, ShapeError
from quantsim.nn import compute_encodings


def float_attention(module: QWindowAttention, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Written anew, window by window and pair by pair."""
    height, width = module.window_size
    tokens = height * width
    rows = []
    for number, window in enumerate(x):
        qkv = torch.nn.functional.linear(window, module.qkv.weight, module.qkv.bias)
        q, k, v = qkv.reshape(tokens, 3, module.num_heads, -1).permute(1, 2, 0, 3)
        scores = q @ k.transpose(-2, -1) * module.head_dim**-0.5
        bias = torch.zeros_like(scores)
        for a in range(tokens):
            for b in range(tokens):
                down, right = a // width - b // width + height - 1, a % width - b % width + width - 1
                bias[:, a, b] = module.relative_position_bias_table[down * (2 * width - 1) + right]
        scores = scores + bias + (0 if mask is None else mask[number % len(mask)])
        rows.append((scores.softmax(-1) @ v).transpose(0, 1).reshape(tokens, -1))
    return torch.nn.functional.linear(torch.stack(rows), module.proj.weight, module.proj.bias)


def module_and_inputs(window: int | tuple[int, int], **settings):
    torch.manual_seed(0)
    module = QWindowAttention(24, 3, window_size=window, **settings).eval()
    torch.nn.init.normal_(module.relative_position_bias_table)
    tokens = module.window_area
    mask = torch.where(torch.rand(2, tokens, tokens) > 0.6, -100.0, 0.0)
    mask[:, range(tokens), range(tokens)] = 0.0
    return module, torch.randn(6, tokens, 24), mask


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("window", [4, (2, 3)])
def test_integers_are_near_the_float_module(window, masked: bool) -> None:
    module, x, mask = module_and_inputs(window, wbit=8, abit=8)
    mask = mask if masked else None
    with torch.no_grad():
        exact = float_attention(module, x, mask)
        with compute_encodings(module):
            torch.testing.assert_close(module(x, mask), exact, rtol=0.1, atol=0.05)
        found = dequantize(module.inference()(x, mask), module.output_grid)
    assert float((found - exact).norm() / exact.norm()) < 0.05


def test_without_bits_it_is_the_float_module() -> None:
    module, x, mask = module_and_inputs(3)
    torch.testing.assert_close(module(x, mask), float_attention(module, x, mask), rtol=1e-4, atol=1e-5)


def test_heads_may_have_a_size_of_their_own() -> None:
    module = QWindowAttention(24, 3, head_dim=4, window_size=2, wbit=8, abit=8)
    x = torch.randn(2, 4, 24)
    with compute_encodings(module):
        module(x)
    assert module.qkv.out_features == 36
    assert module.inference()(x).shape == (2, 4, 24)
    with pytest.raises(ConfigurationError, match="head_dim"):
        QWindowAttention(25, 3)


def test_paths_have_the_published_signature() -> None:
    module, x, mask = module_and_inputs(2, wbit=8, abit=8)
    with compute_encodings(module):
        module(x, mask)
    q = torch.randn(6, 3, 4, 8)
    assert module.trainFunc(q, q, q, B=6, N=4, mask=mask).shape == (6, 4, 24)
    codes = module.inference().qqkv(q)
    assert module.evalFunc(codes, codes, codes, B=6, N=4, mask=mask).dtype == torch.int8
    assert module._get_rel_pos_bias().shape == (1, 3, 4, 4)


def test_wrong_windows_are_named() -> None:
    module, x, mask = module_and_inputs(2)
    with pytest.raises(ShapeError, match="4, a window of 2 by 2"):
        module(torch.randn(6, 5, 24))
    with pytest.raises(ShapeError, match="multiple of the windows"):
        module(x, mask[[0, 0, 0, 0]])


def test_boolean_masks_say_what_takes_part_on_both_paths() -> None:
    module, x = QWindowAttention(8, num_heads=2, window_size=2, wbit=8, abit=8).eval(), torch.randn(6, 4, 8)
    keep = (torch.rand(3, 4, 4) < 0.5) | torch.eye(4, dtype=torch.bool)
    with torch.no_grad(), compute_encodings(module):
        module(x, keep)
    with torch.no_grad():
        real = module(x, keep)
        torch.testing.assert_close(real, module(x, torch.where(keep, 0.0, -1e4)))
        codes = module.inference()(x, keep)
    assert float((dequantize(codes, module.output_grid) - real).norm() / real.norm()) < 0.05
