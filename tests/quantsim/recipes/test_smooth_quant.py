from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.quantization import affine
from quantsim.recipes.smooth_quant import smooth_quant


class Block(nn.Module):
    def __init__(self, *, post_norm: bool = False) -> None:
        super().__init__()
        self.norm, self.rms = nn.LayerNorm(32), nn.RMSNorm(32)
        self.query, self.key = nn.Linear(32, 32), nn.Linear(32, 32)
        self.up = nn.Linear(32, 64)
        self.post_norm = post_norm

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(x)
        attended = (self.query(y) @ self.key(y).transpose(-1, -2)).softmax(-1) @ x
        x = attended + (y if self.post_norm else x)
        return self.up(self.rms(x))


def with_outliers(*, post_norm: bool = False) -> tuple[Block, list[Tensor]]:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        block = Block(post_norm=post_norm)
    with torch.no_grad():
        block.norm.weight[3], block.norm.bias[5], block.rms.weight[7] = 40.0, 60.0, 80.0
    return block.eval(), [torch.randn(4, 10, 32, generator=generator) for _ in range(2)]


@torch.no_grad()
def quantized_error(linear: nn.Linear, x: Tensor) -> float:
    """Error of W8A8 relative to the result, one scale for the activation."""
    weight, activation = (
        affine.QuantizeDequantize(shape, bitwidth=8, symmetric=True) for shape in ((linear.out_features, 1), ())
    )
    with weight.compute_encodings(), activation.compute_encodings():
        weight(linear.weight)
        activation(x)
    exact = linear(x)
    return float(
        (nn.functional.linear(activation(x), weight(linear.weight), linear.bias) - exact).norm() / exact.norm()
    )


def test_the_function_stays_and_quantization_errors_fall() -> None:
    block, batches = with_outliers()
    before = copy.deepcopy(block)
    report = smooth_quant(block, batches)
    assert report.smoothed == {"norm": ("query", "key"), "rms": ("up",)}
    assert not report.left
    for batch in batches:
        torch.testing.assert_close(block(batch), before(batch), rtol=1e-3, atol=1e-3)
    for name, norm in (("query", "norm"), ("up", "rms")):
        old = quantized_error(before.get_submodule(name), before.get_submodule(norm)(batches[0]))  # pyright: ignore[reportArgumentType]
        new = quantized_error(block.get_submodule(name), block.get_submodule(norm)(batches[0]))  # pyright: ignore[reportArgumentType]
        assert new < 0.5 * old


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_the_scales_are_the_published_ones(strength: float) -> None:
    block, batches = with_outliers()
    before = copy.deepcopy(block)
    smooth_quant(block, batches, strength=strength)
    activations = torch.stack([before.norm(batch).detach().abs().amax((0, 1)) for batch in batches]).amax(0)
    weights = torch.maximum(before.query.weight.abs().amax(0), before.key.weight.abs().amax(0))
    scale = activations**strength / weights ** (1 - strength)
    torch.testing.assert_close(block.norm.weight, before.norm.weight / scale)
    torch.testing.assert_close(block.norm.bias, before.norm.bias / scale)
    torch.testing.assert_close(block.query.weight, before.query.weight * scale)


def test_a_norm_that_the_residual_reads_is_left_alone() -> None:
    block, batches = with_outliers(post_norm=True)
    before = copy.deepcopy(block)
    report = smooth_quant(block, batches)
    assert report.smoothed == {"rms": ("up",)}
    assert "reads its output" in report.left["norm"]
    torch.testing.assert_close(block.norm.weight, before.norm.weight)
    torch.testing.assert_close(block(batches[0]), before(batches[0]), rtol=1e-3, atol=1e-3)


def test_groups_may_be_given() -> None:
    block, batches = with_outliers()
    assert smooth_quant(block, batches, groups={"rms": ["up"]}).smoothed == {"rms": ("up",)}


def test_llama() -> None:
    transformers = pytest.importorskip("transformers")
    config = transformers.LlamaConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=32,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = transformers.LlamaForCausalLM(config).eval()
    report = smooth_quant(model, [{"input_ids": torch.arange(16)[None]}])
    assert report.smoothed["model.layers.0.input_layernorm"] == tuple(
        f"model.layers.0.self_attn.{name}_proj" for name in "qkv"
    )
    assert report.smoothed["model.layers.0.post_attention_layernorm"] == (
        "model.layers.0.mlp.gate_proj",
        "model.layers.0.mlp.up_proj",
    )


def test_misuse() -> None:
    block, batches = with_outliers()
    with pytest.raises(ConfigurationError, match="0 to 1"):
        smooth_quant(block, batches, strength=2.0)
    with pytest.raises(ConfigurationError, match="no batch"):
        smooth_quant(block, [])
    quantizer = affine.QuantizeDequantize((), 8, True)
    quantizer.set_range(-1.0, 1.0)
    with pytest.raises(ConfigurationError, match="before calibration"):
        smooth_quant(nn.Sequential(block, quantizer), batches)


def test_what_is_put_back_is_bit_for_bit_what_it_was() -> None:
    block, batches = with_outliers(post_norm=True)
    before = copy.deepcopy(block.state_dict())
    report = smooth_quant(block, batches)
    assert "norm" in report.left
    for name in ("norm.weight", "norm.bias", "query.weight", "key.weight"):
        assert torch.equal(block.state_dict()[name], before[name])


def test_an_error_in_the_check_leaves_the_model_as_it_was() -> None:
    block, batches = with_outliers()
    before, calls = copy.deepcopy(block.state_dict()), []

    def fail(*_: object) -> None:
        calls.append(0)
        if len(calls) == len(batches) + 2:
            raise RuntimeError("out of memory")

    block.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="out of memory"):
        smooth_quant(block, batches)
    assert all(torch.equal(value, before[name]) for name, value in block.state_dict().items())


@pytest.mark.parametrize("groups", [{"norm": ["quary"]}, {"nurm": ["query"]}, {"norm": ["rms"]}, {"query": ["key"]}])
def test_groups_that_name_nothing_are_refused(groups: dict[str, list[str]]) -> None:
    block, batches = with_outliers()
    with pytest.raises(ConfigurationError, match=r"smooth_quant\(groups"):
        smooth_quant(block, batches, groups=groups)


def test_samples_without_a_batch_and_empty_batches() -> None:
    model = nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 4))
    assert smooth_quant(model, [torch.randn(8), torch.zeros(0, 8)]).smoothed == {"0": ("1",)}
