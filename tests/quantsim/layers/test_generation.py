from __future__ import annotations

import copy
import inspect
import io
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

import quantsim.layers
from quantsim.errors import ConfigurationError
from quantsim.layers import QuantizedLinear, QuantizedLSTM, quantized_layers
from quantsim.layers.generation import FloatPrecisionLayer, layer_signature
from quantsim.layers.table import LAYERS, LayerSpec
from quantsim.nn import QuantizationMixin

ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "Linear": (8, 4),
    "Bilinear": (8, 8, 4),
    "Embedding": (10, 4),
    "EmbeddingBag": (10, 4),
    "LayerNorm": (8,),
    "RMSNorm": (8,),
    "GroupNorm": (2, 4),
    "MultiheadAttention": (8, 2),
    **{f"{kind}{cell}": (8, 4) for kind in ("RNN", "LSTM", "GRU") for cell in ("", "Cell")},
    **{f"{kind}{n}d": (4, 6, 3) for kind in ("Conv", "ConvTranspose") for n in (1, 2, 3)},
    **{f"{kind}{n}d": (4,) for kind in ("BatchNorm", "InstanceNorm") for n in (1, 2, 3)},
    **{f"{kind}Pool{n}d": (2,) for kind in ("Max", "Avg", "AdaptiveMax", "AdaptiveAvg") for n in (1, 2, 3)},
}


KEYWORDS: dict[str, dict[str, Any]] = {name: {"dim": -1} for name in ("Softmax", "LogSoftmax", "Softmin")}


def inputs(name: str) -> tuple[Any, ...]:
    if name.startswith("Embedding"):
        return (torch.tensor([[1, 2, 9], [0, 3, 3]]),)
    if name == "MultiheadAttention":
        return (torch.randn(2, 5, 8),) * 3
    if name == "Bilinear":
        return torch.randn(3, 8), torch.randn(3, 8)
    for n in (1, 2, 3):
        if name.endswith(f"{n}d"):
            return (torch.randn(2, 4, *(6,) * n),)
    if name == "GroupNorm":
        return (torch.randn(2, 4, 6),)
    if name.endswith("Cell"):
        states = torch.randn(2, 4), torch.randn(2, 4)
        return torch.randn(2, 8), states if name == "LSTMCell" else states[0]
    return (torch.randn(2, 5, 8),)


def made(spec: LayerSpec, **settings: Any) -> Any:
    settings = settings or {"exp_bits": 5, "sig_bits": 10}
    name = spec.torch_class.__name__
    return getattr(quantsim.layers, spec.name)(*ARGUMENTS.get(name, ()), **KEYWORDS.get(name, {}), **settings)


def leaves(result: Any) -> list[Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


EVERY_LAYER = pytest.mark.parametrize("spec", LAYERS, ids=lambda spec: spec.name)


@EVERY_LAYER
def test_every_layer_computes_nearly_what_torch_does(spec: LayerSpec) -> None:
    layer, x = made(spec).eval(), inputs(spec.torch_class.__name__)
    original = layer.get_original_module()
    assert type(original) is spec.torch_class
    for got, wanted in zip(leaves(layer(*x)), leaves(original(*x)), strict=True):
        assert got.shape == wanted.shape and got.dtype == wanted.dtype
        torch.testing.assert_close(got, wanted, rtol=0.02, atol=0.02)


@EVERY_LAYER
def test_every_layer_trains_all_its_parameters(spec: LayerSpec) -> None:
    layer, x = made(spec, exp_bits=5, sig_bits=10, gradient_format="bf16"), inputs(spec.torch_class.__name__)
    parameters = dict(layer.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    if not parameters:
        x = tuple(each.requires_grad_() for each in x)
        leaves(layer(*x))[0].sum().backward()
        assert x[0].grad is not None and x[0].grad.shape == x[0].shape
        return
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    target = torch.randn(leaves(layer(*x))[0].shape)
    losses = []
    for _ in range(4):
        loss = nn.functional.mse_loss(leaves(layer(*x))[0], target)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[-1] < losses[0]
    key_bias = slice(8, 16)  # softmax takes away what keys have in common
    for name, parameter in parameters.items():
        moved = parameter.detach() != before[name]
        if name == "in_proj_bias":
            moved = torch.cat((moved[: key_bias.start], moved[key_bias.stop :]))
        assert moved.any(), name


@EVERY_LAYER
def test_every_layer_copies_pickles_and_saves(spec: LayerSpec) -> None:
    layer, x = made(spec, format="e4m3", rmode="stochastic", seed=4).eval(), inputs(spec.torch_class.__name__)
    stream = io.BytesIO()
    torch.save(layer.state_dict(), stream)
    stream.seek(0)
    fresh = made(spec, format="e4m3", rmode="stochastic", seed=77).eval()
    fresh.load_state_dict(torch.load(stream, weights_only=True))
    twins = [copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), fresh]
    torch.manual_seed(0)
    wanted = leaves(layer(*x))
    for twin in twins:
        assert type(twin) is type(layer)
        torch.manual_seed(0)
        for one, other in zip(leaves(twin(*x)), wanted, strict=True):
            assert torch.equal(one, other)


@EVERY_LAYER
def test_every_layer_has_the_parameters_of_torch_and_takes_them_over(spec: LayerSpec) -> None:
    layer = made(spec)
    keywords = {**spec.defaults, **KEYWORDS.get(spec.torch_class.__name__, {})}
    module = spec.torch_class(*ARGUMENTS.get(spec.torch_class.__name__, ()), **keywords)
    assert {name: p.shape for name, p in layer.named_parameters()} == {
        name: p.shape for name, p in module.named_parameters()
    }
    missing, unexpected = layer.load_state_dict(module.state_dict(), strict=False)
    assert unexpected == [] and all("quantizers" in key for key in missing)
    shared = type(layer).from_module(module, 5, 10)
    for name, parameter in module.named_parameters():
        assert shared.get_parameter(name) is parameter
    if not isinstance(layer, nn.RReLU | nn.Dropout):
        x = inputs(spec.torch_class.__name__)
        for one, other in zip(leaves(layer(*x)), leaves(shared(*x)), strict=True):
            assert torch.equal(one, other)
    assert type(layer).from_module(shared) is shared


@EVERY_LAYER
def test_every_layer_is_documented(spec: LayerSpec) -> None:
    layer = getattr(quantsim.layers, spec.name)
    assert layer.__module__ == "quantsim.layers" and layer.__qualname__ == spec.name in quantized_layers.__all__
    assert inspect.signature(layer) == layer_signature(spec)
    for name in layer_signature(spec).parameters:
        assert f"        {name}: " in layer.__doc__, name


def test_arguments_by_position_follow_the_order_of_the_specification() -> None:
    conv = quantsim.layers.QuantizedConv2d(3, 4, 3, 5, 10, 2, 1, "toward_zero")
    assert conv.stride == (2, 2) and conv.padding == (1, 1)
    assert conv.input_quantizers[0].rounding == "toward_zero"
    rnn = quantsim.layers.QuantizedRNN(3, 4, 5, 10, 2, False, "relu", 3)
    assert (rnn.num_layers, rnn.bias, rnn.nonlinearity, rnn.batch_first) == (2, False, "relu", True)
    assert rnn.input_quantizers[0].rounding == "down"
    attention = quantsim.layers.QuantizedMultiheadAttention(8, 2, 5, 10, 0.25, 4)
    assert attention.dropout == 0.25 and attention.batch_first
    norm = quantsim.layers.QuantizedBatchNorm2d(3, 5, 10, 1e-3, 0.2, 1)
    assert (norm.eps, norm.momentum) == (1e-3, 0.2)
    assert quantsim.layers.QuantizedLinearNorm is quantsim.layers.QuantizedLayerNorm


def test_keywords_of_torch() -> None:
    conv = quantsim.layers.QuantizedConv2d(
        4, 4, 3, 5, 10, padding=1, dilation=2, groups=2, bias=False, padding_mode="reflect", dtype=torch.float64
    )
    assert conv.bias is None and conv.padding_mode == "reflect" and conv.weight.dtype is torch.float64
    x = torch.randn(1, 4, 6, 6, dtype=torch.float64)
    cast = conv.input_quantizers[0]
    wanted = conv._conv_forward(cast(x), conv.param_quantizers["weight"](conv.weight), None)
    assert torch.equal(conv(x), wanted)
    lstm = QuantizedLSTM(3, 4, 5, 10, bidirectional=True, dropout=0.5, num_layers=2, proj_size=2, batch_first=False)
    assert lstm(torch.randn(5, 2, 3))[0].shape == (5, 2, 4)
    assert QuantizedLinear(3, 4, 5, 10, device="meta")(torch.randn(2, 3, device="meta")).shape == (2, 4)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: QuantizedLinear(4), TypeError, "QuantizedLinear.*missing.*out_features"),
        (lambda: QuantizedLinear(4, 2, 5, 10, bia=True), TypeError, "QuantizedLinear.*bia"),
        (lambda: QuantizedLinear(4, 2), ConfigurationError, "QuantizedLinear.*exp_bits"),
        (lambda: QuantizedLinear(4, 2, 0, 3), ConfigurationError, "QuantizedLinear.*exp_bits"),
        (lambda: QuantizedLinear(4, 2, 5, 10, 12), ConfigurationError, "QuantizedLinear.*rmode.*12"),
        (lambda: QuantizedLinear.from_module(nn.Linear(4, 2)), ConfigurationError, "from_module.*exp_bits"),
        (lambda: QuantizedLinear.from_module(nn.Conv1d(4, 2, 1), 5, 2), ConfigurationError, "Conv1d.*a Linear"),
    ],
)
def test_wrong_calls_say_what_is_wrong(call: Any, kind: type[Exception], words: str) -> None:
    with pytest.raises(kind, match=words):
        call()


def test_layers_are_quantized_modules() -> None:
    layer = QuantizedLinear(8, 4, 5, 10)
    assert (
        isinstance(layer, FloatPrecisionLayer) and isinstance(layer, QuantizationMixin) and isinstance(layer, nn.Linear)
    )
    assert QuantizationMixin.from_module(layer) is layer
    (encoding,) = layer.export_input_encodings()
    assert encoding.format.max == 65504.0
    assert str(layer.explain_dispatch(torch.randn(2, 8))).startswith("linear: fake-quantization")
    assert not any("quantize" in key for key in layer.get_original_module().state_dict())


def test_building_a_layer_draws_what_torch_draws() -> None:
    torch.manual_seed(3)
    layer = QuantizedLinear(8, 4, 4, 3, "stochastic")
    torch.manual_seed(3)
    assert torch.equal(layer.weight, nn.Linear(8, 4).weight)
