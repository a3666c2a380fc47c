"""Attention of Llama, in transformers' place: rotary positions, grouped heads, causal masks and the cache."""

from __future__ import annotations

import pytest
import torch

from quantsim.dualpath import QLlamaAttention, dequantize
from quantsim.nn import compute_encodings

transformers = pytest.importorskip("transformers")
from transformers.models.llama.modeling_llama import LlamaAttention, LlamaRotaryEmbedding  # noqa: E402


@pytest.fixture
def config():
    torch.manual_seed(0)
    made = transformers.LlamaConfig(
        vocab_size=50,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    made._attn_implementation = "eager"
    return made


def positions(config, x: torch.Tensor, start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    numbers = torch.arange(start, start + x.shape[1])[None].expand(x.shape[0], -1)
    return LlamaRotaryEmbedding(config)(x, numbers)


def causal(tokens: int) -> torch.Tensor:
    return torch.full((tokens, tokens), torch.finfo(torch.float32).min).triu(1)[None, None]


def pair(config, **settings):
    original, module = LlamaAttention(config, 0).eval(), QLlamaAttention(config, 0, **settings).eval()
    assert module.load_state_dict(original.state_dict(), strict=False).unexpected_keys == []
    return original, module


def test_without_bits_it_is_the_module_of_transformers(config) -> None:
    original, module = pair(config)
    x = torch.randn(2, 9, 32)
    expected = original(x, positions(config, x), causal(9))
    for mask in (causal(9), None, causal(9) == 0):
        found = module(x, positions(config, x), mask)
        torch.testing.assert_close(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1])


@pytest.mark.parametrize("tokens", [5, 64])
def test_integers_are_near_it(config, tokens: int) -> None:
    original, module = pair(config, wbit=8, abit=8)
    x = torch.randn(2, tokens, 32)
    rotation = positions(config, x)
    with torch.no_grad():
        exact = original(x, rotation, causal(tokens))[0]
        with compute_encodings(module):
            module(x, rotation)
        sums, probabilities = module.inference()(x, rotation)
    assert probabilities is None
    assert sums.dtype == torch.int32
    found = dequantize(sums, module.output_grid)
    assert float((found - exact).norm() / exact.norm()) < 0.05
    assert torch.equal(module(x, rotation, causal(tokens))[0], sums)


def test_rotation_on_integers_is_within_one_step(config) -> None:
    _, module = pair(config, wbit=8, abit=8)
    x = torch.randn(2, 20, 32)
    with compute_encodings(module):
        module(x, positions(config, x))
    cosines, sines = positions(config, x, start=1000)
    q = torch.randn(2, 4, 20, 8)
    k = torch.randn(2, 2, 20, 8)
    q, k = module.q_proj.yq(q), module.k_proj.yq(k)
    real = [
        quantizer(each)
        for quantizer, each in zip((module.qquery, module.qkey), module._rotated(q, k, cosines, sines), strict=True)
    ]
    module.inference()
    codes = module._rotated(module.q_proj.yq(q), module.k_proj.yq(k), cosines, sines)
    for found, expected, quantizer in zip(codes, real, (module.qquery, module.qkey), strict=True):
        assert found.dtype == torch.int8
        steps = (found - expected / quantizer.scale).abs()
        assert float(steps.max()) < 1.001
        assert float((steps > 0.5).float().mean()) < 0.02


def test_a_cache_holds_codes_and_gives_what_one_pass_gives(config) -> None:
    _, module = pair(config, wbit=8, abit=8)
    x = torch.randn(2, 8, 32)
    with compute_encodings(module):
        module(x, positions(config, x))
    whole = module.inference()(x, positions(config, x))[0]
    cache = transformers.DynamicCache()
    first = module(x[:, :5], positions(config, x[:, :5]), past_key_values=cache)[0]
    rest = module(x[:, 5:], positions(config, x[:, 5:], start=5), past_key_values=cache)[0]
    assert cache.layers[0].keys.dtype == torch.int8
    assert torch.equal(torch.cat([first, rest], 1), whole)


def test_it_takes_its_place_in_a_model(config) -> None:
    model = transformers.LlamaModel(config).eval()
    ids = torch.randint(0, 50, (2, 9))
    with torch.no_grad():
        expected = model(ids, use_cache=False).last_hidden_state
        original = model.layers[0].self_attn
        module = QLlamaAttention(config, 0, wbit=8, abit=8).eval()
        module.load_state_dict(original.state_dict(), strict=False)
        model.layers[0].self_attn = module
        with compute_encodings(model):
            model(ids, use_cache=False)
        found = model(ids, use_cache=False).last_hidden_state
    assert float((found - expected).norm() / expected.norm()) < 0.05


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_on_both_paths(config, dtype: torch.dtype) -> None:
    module = QLlamaAttention(config, wbit=8, abit=8).eval().to(dtype)
    x = torch.randn(2, 7, 32).to(dtype)
    angles = tuple(each.to(dtype) for each in positions(config, x))
    with torch.no_grad(), compute_encodings(module):
        module(x, angles)
    with torch.no_grad():
        real = module(x, angles)[0]
        codes = module.inference()(x, angles)[0]
    assert real.dtype == dtype
    assert float((dequantize(codes, module.output_grid) - real).norm() / real.norm()) < 0.05
