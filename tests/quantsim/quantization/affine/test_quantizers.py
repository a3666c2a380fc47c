from __future__ import annotations

import pytest
import torch

from quantsim.quantization import affine

GRANULARITIES = [((), None), ((1,), None), ((8, 1), None), ((1, 64), None), ((8, 2), (1, 32)), ((4, 1), (2, -1))]


def calibrated(kind, shape, block_size, symmetric, x):
    quantizer = kind(shape, 8, symmetric, block_size=block_size)
    with quantizer.compute_encodings():
        quantizer(x)
    return quantizer


@pytest.mark.parametrize(("shape", "block_size"), GRANULARITIES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_dequantize_after_quantize_is_quantize_dequantize(shape, block_size, symmetric):
    x = torch.randn(8, 64)
    both = calibrated(affine.QuantizeDequantize, shape, block_size, symmetric, x)
    quantize = calibrated(affine.Quantize, shape, block_size, symmetric, x)
    dequantize = affine.Dequantize.from_encodings(quantize.get_encodings())
    codes = quantize(x)
    assert torch.equal(codes, codes.round())
    assert codes.min() >= both.qmin
    assert codes.max() <= both.qmax
    assert torch.equal(dequantize(codes), both(x))
    step = both.get_scale().max()
    assert (both(x) - x).abs().max() <= step * (0.5001 if symmetric else 1.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_result_has_the_dtype_of_the_input(dtype):
    x = torch.randn(8, 64)
    quantizer = calibrated(affine.QuantizeDequantize, (), None, True, x)
    assert quantizer(x.to(dtype)).dtype is dtype


def test_per_tensor_takes_tensors_of_any_rank():
    quantizer = affine.QuantizeDequantize((1,), 8, True)
    quantizer.set_range(-1, 1)
    for shape in ((), (3,), (2, 3), (2, 3, 4), (2, 3, 4, 5)):
        assert quantizer(torch.randn(shape)).shape == shape


def test_input_that_does_not_fit_is_refused():
    quantizer = affine.QuantizeDequantize((8, 1), 8, True)
    with pytest.raises(ValueError, match="shape"), quantizer.compute_encodings():
        quantizer(torch.randn(4, 64))
    assert not quantizer.is_initialized()
    quantizer.set_range(-1, 1)
    for shape in ((4, 64), (64,), (7, 2, 3)):
        with pytest.raises(ValueError, match="shape"):
            quantizer(torch.randn(shape))


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "block_size"), [((), None), ((8, 1), None), ((8, 2), (1, 32))])
@pytest.mark.parametrize("symmetric", [True, False])
def test_compiled_and_exported_equal_eager(shape, block_size, symmetric):
    x = torch.randn(8, 64)
    check_compile_and_export(calibrated(affine.QuantizeDequantize, shape, block_size, symmetric, x), x)


@pytest.mark.slow
def test_other_quantizers_compile_and_export():
    x = torch.randn(8, 64)
    check_compile_and_export(calibrated(affine.Quantize, (8, 1), None, False, x), x)
    check_compile_and_export(calibrated(affine.Dequantize, (8, 1), None, False, x), x)
    check_compile_and_export(affine.DynamicQuantizeDequantize(8, False), x)


def check_compile_and_export(quantizer, x):
    expected = quantizer(x).detach()
    compiled = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x).detach(), expected)
    if isinstance(quantizer, affine.AffineQuantizerBase):
        quantizer.set_range(-0.5, 0.5)  # a compiled graph must not keep the old scale
        assert torch.equal(compiled(x).detach(), quantizer(x).detach())
        expected = quantizer(x).detach()
    exported = torch.export.export(quantizer, (x,), strict=False)
    assert torch.equal(exported.module()(x).detach(), expected)
    torch._dynamo.reset()


@pytest.mark.slow
def test_compiled_range_gradients_equal_eager():
    quantizer, x = affine.QuantizeDequantize((8, 1), 4, False), torch.randn(8, 64)
    quantizer.set_range(-1.1, 0.8)
    quantizer(x).square().sum().backward()
    expected = quantizer.min.grad.clone(), quantizer.max.grad.clone()
    quantizer.zero_grad()
    torch.compile(quantizer, fullgraph=True, backend="aot_eager")(x).square().sum().backward()
    torch.testing.assert_close((quantizer.min.grad, quantizer.max.grad), expected, rtol=1e-5, atol=1e-4)
    torch._dynamo.reset()
