"""The choice of what computes a module: cheap refusals, operands, and accumulators of low precision."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.nn import (
    DispatchSource,
    FakeQuantizedLinear,
    QuantizationMixin,
    QuantizedBmm,
    QuantizedConv1d,
    QuantizedConv2d,
    QuantizedConv3d,
    QuantizedConvTranspose2d,
    QuantizedDynamicConv2d,
    QuantizedDynamicLinear,
    QuantizedLayerNorm,
    QuantizedLinear,
    QuantizedLSTM,
    QuantizedMatMul,
    QuantizedScaledDotProductAttention,
)
from quantsim.nn.dispatch import accumulates, may_choose_kernel, to_operand
from quantsim.quantization import affine
from quantsim.quantization.float import FloatQuantizeDequantize
from quantsim.quantization.mx import MXQuantizeDequantize
from quantsim_kernels import Backend, Scheme, force_backend, registry
from quantsim_kernels.accumulation import Accumulation
from quantsim_kernels.float_matmul import (
    accumulated_attention,
    accumulated_convolution,
    accumulated_linear,
    accumulated_matmul,
)
from quantsim_kernels.operands import DeferredOperand

SUMS = Accumulation("fp16", chunk=4)
EXACT = Accumulation(chunk=None)


def cast(format: str = "e4m3fn", **settings: Any) -> FloatQuantizeDequantize:
    return FloatQuantizeDequantize(format=format, scaled=False, **settings)


@pytest.fixture
def linear() -> Any:
    torch.manual_seed(0)
    module = QuantizedLinear(32, 8)
    module.input_quantizers[0] = cast()
    module.param_quantizers["weight"] = cast()
    return module


X = torch.randn(5, 32, generator=torch.Generator().manual_seed(0))


# ---------------------------------------------------------------- refusing cheaply


def test_nothing_is_prepared_where_no_kernel_can_run(linear: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quantsim.nn.dispatch.choose", lambda *_: pytest.fail("choose was called"))
    assert not may_choose_kernel(linear, (X,))
    linear(X)
    linear.input_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    linear.input_quantizers[0].set_range(-1.0, 1.0)
    linear(X)
    QuantizedLinear(32, 8)(X)


def test_kernels_without_a_screen_are_asked(linear: Any) -> None:
    def kernel(x: Any, weight: Any, bias: Any, output_encodings: Any = None) -> Tensor:
        return F.linear(x.values, weight.values, bias) + 1000

    def only_small(x: Any, *operands: Any, **arguments: Any) -> str | None:
        return None if x.shape[0] < 6 else "too many rows"

    registry.register(op="linear", scheme=Scheme.FLOAT, backend=Backend.INTEGER, priority=99, predicate=only_small)(
        kernel
    )
    try:
        assert may_choose_kernel(linear, (X,))
        assert linear(X).min() > 900
        assert linear(X.repeat(2, 1)).max() < 900
        assert not may_choose_kernel(QuantizedLinear(32, 8), (X,))
    finally:
        registry.unregister(kernel)


def test_operands_are_quantized_only_when_a_kernel_reads_them(linear: Any) -> None:
    """A stochastic quantizer whose kernel declines gives the noise it would have given without the kernel."""

    def kernel(x: Any, weight: Any, bias: Any, output_encodings: Any = None) -> Tensor:
        raise AssertionError("must not be called")

    linear.input_quantizers[0] = cast(rounding="stochastic", seed=3)
    expected = copy.deepcopy(linear)(X)
    registry.register(op="linear", scheme=Scheme.FLOAT, backend=Backend.INTEGER, predicate=lambda *_, **__: "no")(
        kernel
    )
    try:
        assert torch.equal(linear(X), expected)
    finally:
        registry.unregister(kernel)


def test_operands_of_float_quantizers_say_what_is_cast() -> None:
    operand = to_operand(cast("e5m2", rounding="up", saturate=False), X)
    assert isinstance(operand, DeferredOperand)
    assert operand.cast is not None
    assert (operand.cast.rounding.value, operand.cast.saturate, operand.cast.scale) == ("up", False, None)
    assert torch.equal(operand.values, cast("e5m2", rounding="up", saturate=False)(X))
    scaled = FloatQuantizeDequantize(dtype=torch.float8_e4m3fn)
    scaled.set_range(7.0)
    scale = to_operand(scaled, X).cast.scale
    assert scale is not None
    assert scale.item() == pytest.approx(7 / 448)
    assert to_operand(cast(rounding="stochastic"), X).cast is None
    block = to_operand(MXQuantizeDequantize("mxfp4", axis=0, rounding="up"), X).cast
    assert (block.format.name, block.axis, block.rounding.value) == ("mxfp4", 0, "up")
    hooked = cast()
    hooked.register_forward_hook(lambda *_: None)
    assert to_operand(hooked, X).cast is None


def test_arguments_of_forward_that_are_no_inputs_reach_the_kernel() -> None:
    convolution = QuantizedDynamicConv2d()
    for slot in range(2):
        convolution.input_quantizers[slot] = cast()
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(6, 2, 3, 3)
    seen: dict[str, Any] = {}

    def kernel(x: Any, weight: Any, bias: Any, output_encodings: Any = None, **settings: Any) -> Tensor:
        seen.update(settings)
        return F.conv2d(x.values, weight.values, bias, **settings)

    expected = convolution(x, weight, None, 2, groups=2)
    convolution.set_kernel(kernel)
    assert torch.equal(convolution(x, weight, None, 2, groups=2), expected)
    assert seen == {"stride": 2, "groups": 2}


# ---------------------------------------------------------------- accumulation


def test_linear_accumulates_what_its_quantizers_give(linear: Any) -> None:
    plain = linear(X)
    linear.set_accumulation(SUMS)
    got = linear(X)
    assert torch.equal(got, accumulated_linear(cast()(X), cast()(linear.weight), linear.bias, SUMS))
    assert not torch.equal(got, plain)
    linear.output_quantizers[0] = cast("e5m2")
    assert torch.equal(linear(X), cast("e5m2")(got))
    linear.set_accumulation(None)
    linear.output_quantizers[0] = None
    assert torch.equal(linear(X), plain)


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (QuantizedConv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
        (QuantizedConv2d(4, 6, 3, padding="same", dilation=2), (2, 4, 7, 8)),
        (QuantizedConv2d(4, 6, (3, 2), padding=(2, 1), padding_mode="circular"), (2, 4, 7, 8)),
        (QuantizedConv2d(4, 6, 3, padding="same", padding_mode="reflect"), (4, 7, 8)),
        (QuantizedConv3d(2, 4, (1, 2, 3), padding=(0, 1, 2), stride=(1, 2, 1)), (1, 2, 4, 5, 6)),
    ],
)
def test_convolutions(module: Any, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    module.input_quantizers[0], module.param_quantizers["weight"] = cast(), cast()
    plain = module(x)
    module.set_accumulation(EXACT)
    torch.testing.assert_close(module(x), plain, atol=1e-5, rtol=1e-5)
    module.set_accumulation(SUMS)
    assert torch.equal(module(x), module(x).half().float())
    if module.padding_mode == "zeros":
        settings = {name: getattr(module, name) for name in ("stride", "padding", "dilation", "groups")}
        operands = cast()(x), cast()(module.weight), module.bias
        assert torch.equal(module(x), accumulated_convolution(*operands, SUMS, **settings))


def test_module_forms_of_functions() -> None:
    a, b = torch.randn(2, 3, 9), torch.randn(2, 9, 4)
    for module in (QuantizedMatMul(), QuantizedBmm()):
        module.input_quantizers[1] = cast()
        module.set_accumulation(SUMS)
        assert torch.equal(module(a, b), accumulated_matmul(a, cast()(b), SUMS))
    linear = QuantizedDynamicLinear()
    linear.set_accumulation(SUMS)
    assert torch.equal(linear(a, b[0].T), accumulated_linear(a, b[0].T, None, SUMS))
    convolution = QuantizedDynamicConv2d()
    convolution.set_accumulation(SUMS)
    x, weight = torch.randn(1, 4, 8, 8), torch.randn(6, 2, 3, 3)
    expected = accumulated_convolution(x, weight, None, SUMS, stride=2, groups=2)
    assert torch.equal(convolution(x, weight, None, 2, groups=2), expected)
    attention: Any = QuantizedScaledDotProductAttention()
    attention.set_accumulation(SUMS)
    q = torch.randn(1, 2, 4, 8)
    assert torch.equal(
        attention(q, q, q, is_causal=True), accumulated_attention(q, q, q, is_causal=True, accumulation=SUMS)
    )


def test_attention_hands_it_to_its_parts() -> None:
    torch.manual_seed(0)
    attention: Any = QuantizationMixin.from_module(nn.MultiheadAttention(16, 4, batch_first=True))
    x = torch.randn(2, 5, 16)
    plain, _ = attention(x, x, x)
    attention.set_accumulation(EXACT)
    torch.testing.assert_close(attention(x, x, x)[0], plain, atol=1e-5, rtol=1e-5)
    attention.set_accumulation(Accumulation("e5m2"))
    coarse, _ = attention(x, x, x)
    assert not torch.allclose(coarse, plain, atol=1e-3)
    assert torch.equal(coarse, cast("e5m2", saturate=None)(coarse))
    assert attention.q_proj.get_accumulation() == attention.qkv_matmul.get_accumulation() == Accumulation("e5m2")
    coarse.sum().backward()
    assert all(parameter.grad is not None for parameter in attention.parameters())
    attention.set_accumulation(None)
    assert torch.equal(attention(x, x, x)[0], plain)


def test_integer_quantizers_may_accumulate_in_a_float_format() -> None:
    torch.manual_seed(0)
    linear: Any = QuantizedLinear(32, 8)
    linear.input_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    linear.param_quantizers["weight"] = affine.QuantizeDequantize((8, 1), 8, True)
    linear.set_accumulation(SUMS)
    with linear.compute_encodings():
        calibrating = linear(X)
    assert torch.equal(calibrating, calibrating.half().float())
    quantized = linear.input_quantizers[0](X), linear.param_quantizers["weight"](linear.weight), linear.bias
    assert torch.equal(linear(X), accumulated_linear(*quantized, SUMS))


def test_block_formats() -> None:
    linear: Any = QuantizedLinear(32, 8)
    linear.input_quantizers[0] = MXQuantizeDequantize("mxfp8_e4m3")
    linear.param_quantizers["weight"] = MXQuantizeDequantize("mxfp4")
    plain = linear(X)
    linear.set_accumulation(EXACT)
    torch.testing.assert_close(linear(X), plain)
    linear.set_accumulation(SUMS)
    quantized = linear.input_quantizers[0](X), linear.param_quantizers["weight"](linear.weight), linear.bias
    assert torch.equal(linear(X), accumulated_linear(*quantized, SUMS))


def test_weights_are_served_from_the_cache() -> None:
    linear: Any = QuantizedLinear(128, 128, bias=False)
    calls: list[int] = []
    linear.param_quantizers["weight"] = cast()
    linear.set_accumulation(Accumulation("fp16", chunk=64))
    original = FloatQuantizeDequantize.map_to_grid

    class Counting(FloatQuantizeDequantize):
        def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
            calls.append(1)
            return original(self, x, owned=owned)

    linear.param_quantizers["weight"].__class__ = Counting
    with torch.no_grad():
        assert torch.equal(linear(torch.ones(1, 128)), linear(torch.ones(1, 128)))
    assert calls == [1]


def test_gradients(linear: Any) -> None:
    x = X.clone().requires_grad_()
    expected = torch.autograd.grad(linear(x).square().sum() * 0 + linear(x).sum(), (x, linear.weight, linear.bias))
    linear.set_accumulation(SUMS)
    got = torch.autograd.grad(linear(x).sum(), (x, linear.weight, linear.bias))
    assert all(torch.equal(ours, plain) for ours, plain in zip(got, expected, strict=True))


def test_copies_and_texts(linear: Any) -> None:
    before = set(linear.state_dict())
    linear.set_accumulation(SUMS)
    expected = linear(X)
    for copied in (copy.deepcopy(linear), pickle.loads(pickle.dumps(linear))):
        assert copied.get_accumulation() == SUMS
        assert torch.equal(copied(X), expected)
    assert set(linear.state_dict()) == before
    assert "in_features=32, out_features=8, bias=True, accumulation=Accumulation('fp16'" in repr(linear)
    assert "accumulation" not in repr(linear.get_original_module())
    report = linear.explain_dispatch(X)
    assert report.source is DispatchSource.REGISTRY
    assert "set_accumulation() was called with Accumulation('fp16', 'nearest_even', chunk=4)" in str(report)
    with force_backend("reference"):
        assert torch.equal(linear(X), expected)
        assert "reference (priority 0): chosen" in str(linear.explain_dispatch())
    linear.set_accumulation(None)
    assert linear.get_accumulation() is None
    assert "accumulation" not in repr(linear)
    assert "fake quantization computes the same numbers" in str(linear.explain_dispatch(X))


def test_kernels_that_were_set_win_and_get_the_accumulation(linear: Any) -> None:
    seen: dict[str, Any] = {}

    def kernel(x: Any, weight: Any, bias: Any, **arguments: Any) -> Tensor:
        seen.update(arguments)
        return F.linear(x.values, weight.values, bias)

    linear.set_kernel(kernel)
    linear(X)
    assert "accumulation" not in seen
    linear.set_accumulation(SUMS)
    linear(X)
    assert seen["accumulation"] == SUMS
    assert linear.explain_dispatch(X).source is DispatchSource.INSTANCE


def test_modules_without_partial_sums_refuse() -> None:
    class Own(QuantizedLinear):
        def forward(self, input: Tensor) -> Tensor:
            return input

    for module in (QuantizedLayerNorm(4), QuantizedLSTM(2, 2), QuantizedConvTranspose2d(1, 1, 1), Own(2, 2)):
        assert not accumulates(module)
        if not isinstance(module, QuantizedLSTM):
            with pytest.raises(ConfigurationError, match="no partial sums"):
                module.set_accumulation(SUMS)
    assert not hasattr(FakeQuantizedLinear, "set_accumulation")
    with pytest.raises(TypeError, match="Accumulation or None"):
        QuantizedLinear(2, 2).set_accumulation("fp16")  # type: ignore[arg-type]


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.parametrize("accumulation", [None, SUMS], ids=["float32", "accumulated"])
def test_compiles_and_exports(linear: Any, accumulation: Accumulation | None, fresh_compiler: None) -> None:
    del fresh_compiler
    linear.set_accumulation(accumulation)
    compiled = torch.compile(linear, fullgraph=True, backend="aot_eager")
    x = X.clone().requires_grad_()
    torch.testing.assert_close(compiled(x), linear(x), rtol=0, atol=0)
    got = torch.autograd.grad(compiled(x).sum(), (x, linear.weight))
    expected = torch.autograd.grad(linear(x).sum(), (x, linear.weight))
    assert all(torch.equal(ours, eager) for ours, eager in zip(got, expected, strict=True))
    exported = torch.export.export(linear.eval(), (X,)).module()
    assert torch.equal(exported(X), linear(X))


def test_compiled_convolutions_and_noise(fresh_compiler: None) -> None:
    del fresh_compiler
    convolution: Any = QuantizedConv2d(2, 3, 3, padding="same")
    x = torch.randn(2, 2, 5, 5)
    convolution.set_accumulation(SUMS)
    compiled = torch.compile(convolution, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), convolution(x))
    convolution.set_accumulation(Accumulation("e5m2", "stochastic"))
    compiled = torch.compile(convolution, fullgraph=True, backend="aot_eager")
    assert not torch.equal(compiled(x), compiled(x))  # no seed is baked into the graph


def test_runs_on_meta(linear: Any) -> None:
    linear.set_accumulation(SUMS)
    assert linear.to("meta")(X.to("meta")).shape == (5, 8)


def test_kernels_that_run_on_request_are_not_named_without_inputs() -> None:
    layer = QuantizedLinear(4, 2)
    layer.input_quantizers[0] = affine.QuantizeDequantize((), 8, symmetric=False)
    layer.param_quantizers["weight"] = affine.QuantizeDequantize((2, 1), 8, symmetric=True)
    with layer.compute_encodings():
        layer(torch.randn(8, 4))
    assert layer.explain_dispatch().kernel is None
    with force_backend("integer"):
        assert layer.explain_dispatch().kernel is not None
