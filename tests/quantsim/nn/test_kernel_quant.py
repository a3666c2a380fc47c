from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.nn import (
    DispatchSource,
    OutputGrid,
    QuantizationMixin,
    QuantizedAdd,
    QuantizedConcat,
    QuantizedConv2d,
    QuantizedLinear,
    QuantizedMaxPool2d,
    QuantizedMultiply,
    QuantizedReLU,
)
from quantsim.quantization import affine
from quantsim_kernels.operands import QuantizedOperand
from quantsim_kernels.registry import Backend, Scheme, registry


def activation() -> affine.QuantizeDequantize:
    return affine.QuantizeDequantize((), 8, False)


def calibrated(module: Any, *inputs: Tensor, outputs: bool = True) -> Any:
    for index in range(len(module.input_quantizers)):
        module.input_quantizers[index] = activation()
    if "weight" in module.param_quantizers:
        shape = (len(module.weight), *(1,) * (module.weight.dim() - 1))
        module.param_quantizers["weight"] = affine.QuantizeDequantize(shape, 8, True)
    if outputs:
        module.output_quantizers[0] = activation()
    with module.compute_encodings(), torch.no_grad():
        module(*inputs)
    return module


def integer_multiply(a: Any, b: Any, output_encodings: Any = None) -> Any:
    """Multiplies codes, in the manner of AIMET's documentation, and returns codes on the output grid."""
    real = (a.values + a.offset) * (b.values + b.offset) * (a.scale * b.scale)
    grid = output_encodings
    codes = torch.clamp(torch.round(real / grid.scale) - grid.offset, grid.format.qmin, grid.format.qmax)
    return QuantizedOperand(values=codes, scale=grid.scale, offset=grid.offset, format=grid.format)


def integer_linear(input: Any, weight: Any, bias: Tensor | None, *, output_encodings: Any = None) -> Tensor:
    assert isinstance(input, QuantizedOperand)
    assert isinstance(weight, QuantizedOperand)
    codes = (input.values + input.offset).double()
    accumulated = codes @ (weight.values + weight.offset).double().T
    y = (accumulated * (input.scale * weight.scale.T)).float()
    return y if bias is None else y + bias


@pytest.fixture
def multiply() -> Any:
    torch.manual_seed(0)
    return calibrated(QuantizedMultiply(), torch.randn(64), torch.randn(64))


@pytest.fixture
def clean_classes() -> Iterator[None]:
    yield
    for cls in (QuantizedMultiply, QuantizedLinear):
        cls.set_default_kernel(None)
        del cls._default_kernel


def test_kernel_of_the_instance_gives_what_fake_quantization_gives(multiply: Any) -> None:
    a, b = torch.randn(50), torch.randn(50)
    expected = multiply(a, b)
    calls: list[int] = []

    def kernel(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return integer_multiply(*args, **kwargs)

    multiply.set_kernel(kernel)
    got = multiply(a, other=b)
    assert calls == [1]
    assert type(got) is Tensor
    assert float((got - expected).abs().max()) <= float(multiply.output_quantizers[0].get_scale()) * 1.001
    assert multiply.explain_dispatch(a, b).source is DispatchSource.INSTANCE
    multiply.set_kernel(None)
    assert torch.equal(multiply(a, b), expected)
    assert calls == [1]


def test_instance_beats_class_beats_registry(multiply: Any, clean_classes: None) -> None:
    del clean_classes
    calls: list[str] = []

    def of(name: str) -> Any:
        def kernel(a: Any, b: Any, output_encodings: Any = None) -> Any:
            calls.append(name)
            return integer_multiply(a, b, output_encodings)

        return kernel

    a, b = torch.randn(50), torch.randn(50)
    in_registry = of("registry")
    registry.register(op="multiply", scheme=Scheme.AFFINE, backend=Backend.REFERENCE)(in_registry)
    try:
        assert multiply.get_kernel() is None
        multiply(a, b)
        assert multiply.explain_dispatch(a, b).source is DispatchSource.REGISTRY
        assert multiply.explain_dispatch().source is DispatchSource.REGISTRY
        in_class = of("class")
        QuantizedMultiply.set_default_kernel(in_class)
        assert multiply.get_kernel() is QuantizedMultiply.get_default_kernel() is in_class
        multiply(a, b)
        assert multiply.explain_dispatch(a, b).source is DispatchSource.CLASS
        multiply.set_kernel(of("instance"))
        multiply(a, b)
        assert calls == ["registry", "class", "instance"]
        assert QuantizedAdd.get_default_kernel() is None
    finally:
        registry.unregister(in_registry)


def test_predicates_see_the_operands(multiply: Any) -> None:
    seen: list[Any] = []

    def predicate(a: Any, b: Any, **arguments: Any) -> str | None:
        seen.append((a, b, arguments))
        return "too small" if a.values.numel() < 10 else None

    def kernel(a: Any, b: Any, output_encodings: Any) -> Any:
        return integer_multiply(a, b, output_encodings)

    registry.register(op="multiply", scheme=Scheme.AFFINE, backend=Backend.INTEGER, predicate=predicate)(kernel)
    try:
        multiply(torch.randn(5), torch.randn(5))
        report = multiply.explain_dispatch(torch.randn(5), torch.randn(5))
        assert report.source is DispatchSource.FAKE_QUANTIZATION
        assert "too small" in str(report)
        report = multiply.explain_dispatch(torch.randn(50), torch.randn(50))
        assert report.source is DispatchSource.REGISTRY
        assert report.kernel is kernel
        assert isinstance(seen[0][0], QuantizedOperand)
        assert isinstance(seen[0][2]["output_encodings"], OutputGrid)
    finally:
        registry.unregister(kernel)


def test_linear_kernel_with_per_channel_weights() -> None:
    torch.manual_seed(0)
    x = torch.randn(16, 8)
    linear = calibrated(QuantizedLinear(8, 4), x)
    expected = linear(x)
    linear.set_kernel(integer_linear)
    torch.testing.assert_close(linear(x), expected, atol=float(linear.output_quantizers[0].get_scale()) * 1.01, rtol=0)
    no_bias = calibrated(QuantizedLinear(8, 4, bias=False), x, outputs=False)
    expected = no_bias(x)
    no_bias.set_kernel(integer_linear)
    torch.testing.assert_close(no_bias(x), expected)


def test_attributes_reach_the_kernel() -> None:
    x = torch.randn(1, 2, 8, 8)
    convolution = calibrated(QuantizedConv2d(2, 3, 3, stride=2, padding=1), x)
    seen: dict[str, Any] = {}

    def kernel(input: Any, weight: Any, bias: Any, **arguments: Any) -> Tensor:
        seen.update(arguments)
        seen.pop("output_encodings")
        return nn.functional.conv2d(input.dequantize(), weight.dequantize(), bias, **seen)

    expected = convolution(x)
    convolution.set_kernel(kernel)
    assert torch.equal(convolution(x), expected)
    assert seen == {"stride": (2, 2), "padding": (1, 1), "dilation": (1, 1), "groups": 1}


def test_operands_are_what_fake_quantization_computes_with() -> None:
    """For each granularity, the operand of a kernel reads as the quantizer's own output."""
    from quantsim.nn.dispatch import to_operand

    x = torch.randn(4, 64)
    for quantizer in (
        affine.QuantizeDequantize((), 8, False),
        affine.QuantizeDequantize((1,), 8, True),
        affine.QuantizeDequantize((4, 1), 4, True),
        affine.QuantizeDequantize((4, 2), 4, False, block_size=(1, 32)),
        affine.Quantize((4, 1), 8, False),
    ):
        with quantizer.compute_encodings():
            quantizer(x)
        operand = to_operand(quantizer, x)
        codes = quantizer if isinstance(quantizer, affine.Quantize) else None
        assert torch.equal(operand.values, operand.values.round())
        assert int(operand.values.min()) >= quantizer.qmin
        assert int(operand.values.max()) <= quantizer.qmax
        if codes is None:
            assert torch.equal(operand.dequantize(), quantizer(x))
    assert to_operand(None, x) is x
    assert to_operand(quantizer, torch.tensor([1])).dtype == torch.int64


def test_a_kernel_is_not_called_without_what_it_needs(multiply: Any) -> None:
    def kernel(a: Any, b: Any, output_encodings: Any) -> Any:
        raise AssertionError("must not be called")

    a, b = torch.randn(5), torch.randn(5)
    multiply.set_kernel(kernel)
    with multiply._remove_input_quantizers(1):
        multiply(a, b)
        assert "input 1 ('other') has no quantizer" in str(multiply.explain_dispatch(a, b))
        assert "input 1 ('other') has no quantizer" in str(multiply.explain_dispatch())
    with multiply._remove_output_quantizers():
        multiply(a, b)
        assert "output 0 has no quantizer" in str(multiply.explain_dispatch(a, b))
    with multiply.compute_encodings():
        multiply(a, b)
        assert "is being calibrated" in str(multiply.explain_dispatch(a, b))
    multiply.input_quantizers[0] = activation()
    assert "not calibrated" in str(multiply.explain_dispatch(a, b))
    convolution = calibrated(QuantizedConv2d(2, 3, 3, padding_mode="circular"), torch.randn(1, 2, 8, 8))
    convolution.set_kernel(kernel)
    convolution(torch.randn(1, 2, 8, 8))
    assert "padding_mode is 'circular'" in str(convolution.explain_dispatch())
    linear = QuantizedLinear(2, 2)
    linear.input_quantizers[0] = activation()
    linear.input_quantizers[0].set_range(-1.0, 1.0)
    linear.set_kernel(kernel)
    linear(torch.randn(1, 2))
    assert "parameter 'weight' has no quantizer" in str(linear.explain_dispatch())


def test_numbers_among_the_inputs_need_no_quantizer(multiply: Any) -> None:
    multiply.set_kernel(lambda a, b, output_encodings=None: a.dequantize() * b)
    assert multiply.explain_dispatch(torch.randn(3), 2.0).source is DispatchSource.INSTANCE
    expected = multiply.input_quantizers[0](x := torch.rand(3)) * 2
    assert torch.equal(multiply(x, 2.0), multiply.output_quantizers[0](expected))


def test_formats_of_several_schemes_have_no_kernel_of_the_registry(multiply: Any) -> None:
    from quantsim.quantization.float import FloatQuantizeDequantize

    def kernel(*_: Any, **__: Any) -> Any:
        raise AssertionError("must not be called")

    registry.register(op="multiply", scheme=Scheme.AFFINE, backend=Backend.INTEGER)(kernel)
    try:
        multiply.input_quantizers[1] = FloatQuantizeDequantize(dtype=torch.float16)
        multiply(torch.randn(3), torch.randn(3))
        assert "no single scheme" in str(multiply.explain_dispatch(torch.randn(3), torch.randn(3)))
        multiply.input_quantizers[0] = FloatQuantizeDequantize(dtype=torch.float16)
        assert "on float operands" in str(multiply.explain_dispatch(torch.randn(3), torch.randn(3)))
    finally:
        registry.unregister(kernel)


def test_variadic_kernels() -> None:
    concat = calibrated(QuantizedConcat(axis=0), torch.randn(3), torch.randn(4))
    concat.set_kernel(lambda *tensors, axis, output_encodings: torch.cat([t.dequantize() for t in tensors], axis))
    a, b = torch.randn(3), torch.randn(4)
    with_kernel = concat(a, b)
    concat.set_kernel(None)
    assert torch.equal(with_kernel, concat(a, b))


def test_several_outputs() -> None:
    pool = QuantizationMixin.from_module(nn.MaxPool2d(2, return_indices=True))
    assert type(pool) is QuantizedMaxPool2d
    pool = calibrated(pool, torch.randn(1, 1, 4, 4))
    x = torch.randn(1, 1, 4, 4)
    values, indices = pool(x)
    grid = pool.output_quantizers[0]

    def kernel(input: Any, *, output_encodings: Any, return_indices: bool, **arguments: Any) -> Any:
        assert return_indices
        y, where = nn.functional.max_pool2d(input.dequantize(), **arguments, return_indices=True)
        codes = torch.clamp(torch.round(y / grid.get_scale()) - grid.get_offset(), grid.qmin, grid.qmax)
        operand = QuantizedOperand(
            values=codes, scale=grid.get_scale(), offset=grid.get_offset(), format=output_encodings.format
        )
        return operand, where

    pool.set_kernel(kernel)
    got, where = pool(x)
    assert torch.equal(got, values)
    assert torch.equal(where, indices)


def test_explain_without_any_kernel(multiply: Any) -> None:
    report = multiply.explain_dispatch()
    assert report.source is DispatchSource.FAKE_QUANTIZATION
    assert str(report) == "multiply: fake-quantization, because there is no kernel for op 'multiply'"


def test_kernels_survive_copies_and_go_with_the_quantizers() -> None:
    relu = QuantizedReLU()
    relu.set_kernel(integer_multiply)
    assert copy.deepcopy(relu).get_kernel() is integer_multiply
    assert "_kernel" not in vars(relu.get_original_module())


def test_wrong_kernels_are_refused() -> None:
    with pytest.raises(TypeError, match="function or None"):
        QuantizedReLU().set_kernel(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="concrete class"):
        QuantizationMixin.set_default_kernel(integer_multiply)
