from __future__ import annotations

import copy
import itertools
import math
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.nn import (
    QuantizationMixin,
    QuantizedMultiheadAttention,
    compute_encodings,
    decompose_attention,
    disable_fused_paths,
)
from quantsim.quantization import affine

OPTIONS = [
    {"bias": bias, "batch_first": first, "add_bias_kv": kv, "add_zero_attn": zero, "kdim": size, "vdim": size}
    for bias, first, kv, zero, size in itertools.product(
        (True, False), (True, False), (True, False), (True, False), (None, 6)
    )
]


def attention(**options: Any) -> nn.MultiheadAttention:
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, **options)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.4)
    return module


def inputs(module: nn.MultiheadAttention) -> tuple[Tensor, Tensor, Tensor]:
    shapes = ((4, 3, 8), (5, 3, module.kdim), (5, 3, module.vdim))
    generator = torch.Generator().manual_seed(1)
    made = tuple(torch.randn(shape, generator=generator) for shape in shapes)
    return tuple(x.transpose(0, 1) for x in made) if module.batch_first else made  # type: ignore[return-value]


def assert_same(one: Any, other: Any) -> None:
    torch.testing.assert_close(one[0], other[0], atol=2e-6, rtol=1e-5)
    assert (one[1] is None) == (other[1] is None)
    if one[1] is not None:
        torch.testing.assert_close(one[1], other[1], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize(
    "options", OPTIONS, ids=lambda o: "-".join(name for name, value in o.items() if value) or "plain"
)
def test_without_quantizers_equals_torch(options: dict[str, Any], grad: bool) -> None:
    module = attention(**options).eval()
    quantized = QuantizationMixin.from_module(module)
    q, k, v = inputs(module)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2, [False, True] + [False] * 3])
    causal = torch.triu(torch.ones(4, 5, dtype=torch.bool), diagonal=2)
    additive = torch.randn(4, 5)
    per_head = torch.randn(3 * 2, 4, 5)
    with torch.set_grad_enabled(grad):
        for arguments in (
            {},
            {"need_weights": False},
            {"average_attn_weights": False},
            {"key_padding_mask": padding},
            {"attn_mask": causal},
            {"attn_mask": additive},
            {"attn_mask": per_head, "key_padding_mask": torch.zeros(3, 5).masked_fill(padding, -math.inf)},
            {"attn_mask": additive, "key_padding_mask": torch.zeros(3, 5).masked_fill(padding, -math.inf)},
        ):
            assert_same(quantized(q, k, v, **arguments), module(q, k, v, **arguments))


def test_unbatched_inputs_and_causal_hint() -> None:
    module = attention()
    quantized = QuantizationMixin.from_module(module)
    x = torch.randn(5, 8)
    mask = nn.Transformer.generate_square_subsequent_mask(5)
    assert_same(quantized(x, x, x), module(x, x, x))
    padding = torch.tensor([False] * 4 + [True])
    assert_same(quantized(x, x, x, key_padding_mask=padding), module(x, x, x, key_padding_mask=padding))
    assert_same(
        quantized(x, x, x, attn_mask=mask, is_causal=True, need_weights=False),
        module(x, x, x, attn_mask=mask, is_causal=True, need_weights=False),
    )
    with pytest.raises(RuntimeError, match="attn_mask"):
        quantized(x, x, x, is_causal=True)


def test_dropout_in_training() -> None:
    quantized = QuantizationMixin.from_module(attention(dropout=0.5)).train()
    x = torch.randn(5, 1, 8)
    assert not torch.equal(quantized(x, x, x)[0], quantized(x, x, x)[0])
    quantized.eval()
    assert torch.equal(quantized(x, x, x)[0], quantized(x, x, x)[0])


@pytest.mark.parametrize("size", [None, 6])
def test_parameters_and_state_dict_are_those_of_the_float_module(size: int | None) -> None:
    module = attention(add_bias_kv=True, kdim=size, vdim=size)
    quantized = QuantizationMixin.from_module(module)
    assert {id(p) for p in quantized.parameters()} == {id(p) for p in module.parameters()}
    assert list(quantized.state_dict()) == list(module.state_dict())
    quantized.load_state_dict(attention(add_bias_kv=True, kdim=size, vdim=size).state_dict())
    original = quantized.get_original_module()
    assert type(original) is nn.MultiheadAttention
    assert type(original.out_proj) is type(module.out_proj)
    assert set(original._modules) == {"out_proj"}
    assert list(original.state_dict()) == list(module.state_dict())
    assert_same(original(*inputs(module)), module(*inputs(module)))


def quantize(module: nn.Module) -> Any:
    quantized: Any = QuantizationMixin.from_module(module)
    for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
        projection = getattr(quantized, name)
        projection.param_quantizers["weight"] = affine.QuantizeDequantize((8, 1), 4, True)
        projection.input_quantizers[0] = affine.QuantizeDequantize((), 8, False)
        projection.output_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    for name in ("qk_matmul", "softmax", "qkv_matmul"):
        getattr(quantized, name).output_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    return quantized


@pytest.mark.parametrize("size", [None, 6])
def test_every_part_is_quantized(size: int | None) -> None:
    module = attention(kdim=size, vdim=size)
    quantized = quantize(module)
    q, k, v = inputs(module)
    with quantized.compute_encodings() as report:
        quantized(q, k, v)
    assert len(report.calibrated) == 11
    expected, _ = quantized(q, k, v)
    # By hand, with a float attention that has the quantized weights.
    weights = [
        getattr(quantized, name).param_quantizers["weight"](getattr(quantized, name).packed_rows("weight"))
        for name in ("q_proj", "k_proj", "v_proj")
    ]
    biases = module.in_proj_bias.chunk(3)
    projected = []
    for name, x, weight, bias in zip(("q_proj", "k_proj", "v_proj"), (q, k, v), weights, biases, strict=True):
        part = getattr(quantized, name)
        y = part.output_quantizers[0](nn.functional.linear(part.input_quantizers[0](x), weight, bias))
        projected.append(y.reshape(-1, 3, 2, 4).permute(1, 2, 0, 3))
    scores = quantized.qk_matmul.output_quantizers[0](projected[0] * 0.5 @ projected[1].transpose(-1, -2))
    probabilities = quantized.softmax.output_quantizers[0](scores.softmax(-1))
    context = quantized.qkv_matmul.output_quantizers[0](probabilities @ projected[2])
    context = context.permute(2, 0, 1, 3).reshape(4, 3, 8)
    out = quantized.out_proj
    weight = out.param_quantizers["weight"](out.weight)
    y = out.output_quantizers[0](nn.functional.linear(out.input_quantizers[0](context), weight, out.bias))
    torch.testing.assert_close(expected, y)


def test_packed_weights_train_through_the_projections() -> None:
    module = attention()
    quantized = quantize(module)
    q, k, v = inputs(module)
    with quantized.compute_encodings():
        quantized(q, k, v)
    quantized(q, k, v)[0].sum().backward()
    assert module.in_proj_weight.grad is not None
    assert all(float(part.abs().sum()) > 0 for part in module.in_proj_weight.grad.chunk(3))
    with torch.no_grad():
        before = quantized(q, k, v)[0]
        module.in_proj_weight.neg_()
        quantized.compute_param_encodings()
        assert not torch.equal(quantized(q, k, v)[0], before)


def test_rows_of_large_packed_weights_are_quantized_once() -> None:
    torch.manual_seed(0)
    quantized: Any = QuantizationMixin.from_module(nn.MultiheadAttention(128, 2))
    quantized.k_proj.param_quantizers["weight"] = affine.QuantizeDequantize((), 4, True)
    x = torch.randn(3, 1, 128)
    quantized(x, x, x)
    calls: list[int] = []
    quantizer = quantized.k_proj.param_quantizers["weight"]
    original = type(quantizer).forward

    class Counting(type(quantizer)):  # type: ignore[misc]
        def forward(self, *args: Any) -> Tensor:
            calls.append(1)
            return original(self, *args)

    quantizer.__class__ = Counting
    with torch.no_grad():
        first = quantized(x, x, x)[0]
        assert torch.equal(quantized(x, x, x)[0], first)
        assert len(calls) == 1
        quantized.in_proj_weight.data[130] += 1
        assert not torch.equal(quantized(x, x, x)[0], first)
        assert len(calls) == 2


def test_copies_fold_and_pickle() -> None:
    module = attention()
    quantized = quantize(module)
    q, k, v = inputs(module)
    with quantized.compute_encodings():
        quantized(q, k, v)
    expected = quantized(q, k, v)[0]
    for other in (copy.deepcopy(quantized), pickle.loads(pickle.dumps(quantized))):
        assert torch.equal(other(q, k, v)[0], expected)
        with torch.no_grad():
            other.in_proj_weight.zero_()  # the copy's projections read the copy's weights
            assert not torch.equal(other(q, k, v)[0], expected)
    assert torch.equal(quantized(q, k, v)[0], expected)
    with quantized.k_proj.fold_param_quantizers():
        assert torch.equal(quantized(q, k, v)[0], expected)
        assert quantized.k_proj.param_quantizers["weight"] is None
    assert torch.equal(quantized(q, k, v)[0], expected)
    assert quantized.k_proj._parameters["weight"] is None


def test_extra_key_and_value() -> None:
    module = attention(add_bias_kv=True)
    quantized: Any = QuantizationMixin.from_module(module)
    assert list(quantized.param_quantizers) == ["bias_k", "bias_v"]
    q, k, v = inputs(module)
    before = quantized(q, k, v)[0]
    quantized.param_quantizers["bias_k"] = affine.QuantizeDequantize((), 2, True)
    assert not torch.equal(quantized(q, k, v)[0], before)


@pytest.mark.parametrize("nested", [False, True])
def test_fused_encoder_does_not_go_past_the_quantizers(nested: bool) -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    model: Any = nn.TransformerEncoder(layer, 2).eval() if nested else layer.eval()
    first = model.layers[0] if nested else model
    x = torch.randn(2, 5, 8)
    arguments = {"src_key_padding_mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2])} if nested else {}
    with torch.no_grad():
        expected = model(x, **arguments)
        decomposed = decompose_attention(model)
        assert decomposed is model
        torch.testing.assert_close(model(x, **arguments)[0, :3], expected[0, :3], atol=1e-5, rtol=1e-5)
        first.self_attn.q_proj.param_quantizers["weight"] = affine.QuantizeDequantize((), 2, True)
        assert float((model(x, **arguments)[0, :3] - expected[0, :3]).abs().max()) > 1e-3


def test_quantized_attention_alone_keeps_a_layer_off_the_fused_path() -> None:
    layer: Any = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    layer.self_attn = QuantizationMixin.from_module(layer.self_attn)
    calls: list[int] = []
    layer.self_attn.softmax.output_quantizers[0] = quantizer = affine.QuantizeDequantize((), 8, False)
    quantizer.set_range(0.0, 1.0)
    original = layer.self_attn.forward
    layer.self_attn.forward = lambda *args, **kwargs: (calls.append(1), original(*args, **kwargs))[1]
    with torch.no_grad():
        layer(torch.randn(2, 5, 8))
    assert calls == [1]


def test_decompose_replaces_shared_and_root_modules() -> None:
    shared = attention()
    model = nn.ModuleList([shared, nn.ModuleList([shared])])
    decompose_attention(model)
    assert model[0] is model[1][0]
    assert type(decompose_attention(attention())).__name__ == "QuantizedMultiheadAttention"
    disable_fused_paths(model)


def test_whole_transformer_is_calibrated() -> None:
    torch.manual_seed(0)
    model = decompose_attention(nn.Transformer(8, 2, 1, 1, 16, batch_first=True)).eval()
    for module in model.modules():
        if type(module).__name__ == "QuantizedMatMul":
            module.output_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    x = torch.randn(2, 5, 8)
    with compute_encodings(model) as report:
        model(x, x)
    assert len(report.calibrated) == 6


@pytest.mark.parametrize("strict", [False, True])
def test_export_equals_eager(strict: bool) -> None:
    module = attention(batch_first=True)
    quantized = quantize(module).eval()
    q, k, v = inputs(module)
    with torch.no_grad():
        with quantized.compute_encodings():
            quantized(q, k, v)
        expected = quantized(q, k, v)
        exported = torch.export.export(quantized, (q, k, v), strict=strict).module()
        torch.testing.assert_close(exported(q, k, v)[0], expected[0])


@pytest.mark.parametrize("dims", [{}, {"kdim": 6, "vdim": 10}], ids=["packed", "separate"])
def test_a_constructed_one_has_the_parameters_of_torch(dims: dict[str, int]) -> None:
    quantized, module = QuantizedMultiheadAttention(8, 2, **dims), nn.MultiheadAttention(8, 2, **dims)
    assert [(name, p.shape) for name, p in quantized.named_parameters()] == [
        (name, p.shape) for name, p in module.named_parameters()
    ]
    quantized.load_state_dict(module.state_dict(), strict=False)
    query, key, value = (torch.randn(3, 2, size) for size in (8, dims.get("kdim", 8), dims.get("vdim", 8)))
    torch.testing.assert_close(quantized(query, key, value), module(query, key, value))
    assert type(quantized.get_original_module()(query, key, value)) is tuple
