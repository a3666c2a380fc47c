"""Scale and offset are computed once per change of the range, and are never stale."""

from __future__ import annotations

import pytest
import torch

from quantsim.quantization import affine
from quantsim_kernels.reference.affine import quantize_dequantize, scale_and_offset

SHAPES = [((), None), ((1,), None), ((4, 1), None), ((4, 2), (1, 8))]


def calibrated(shape=(), block_size=None, *, symmetric=False, bits=4):
    quantizer = affine.QuantizeDequantize(shape, bits, symmetric, block_size=block_size)
    quantizer.set_range(torch.full(shape, -1.2), torch.full(shape, 0.9))
    return quantizer


@pytest.fixture
def count_derivations(monkeypatch):
    calls = []
    original = affine.AffineQuantizerBase.scale_from_range

    def counted(self, minimum, maximum):
        calls.append(self)
        return original(self, minimum, maximum)

    monkeypatch.setattr(affine.AffineQuantizerBase, "scale_from_range", counted)
    return calls


@pytest.mark.parametrize("grad", [True, False])
def test_derived_once_per_change(count_derivations, grad):
    quantizer, x = calibrated(), torch.randn(4, 16)
    with torch.set_grad_enabled(grad):
        quantizer(x)
        first = len(count_derivations)
        for _ in range(5):
            quantizer(x)
        assert len(count_derivations) == first
        quantizer.set_range(-2, 2)
        quantizer(x)
        assert len(count_derivations) == 2 * first


CHANGES = {
    "set_range": lambda q: q.set_range(-5.0, 5.0),
    "in place": lambda q: _in_place(q),
    "optimizer": lambda q: _step(q),
    "new parameter": lambda q: setattr(q, "max", torch.nn.Parameter(torch.tensor(5.0))),
    "new data": lambda q: setattr(q.max, "data", torch.tensor(5.0)),
    "load": lambda q: q.load_state_dict({"min": torch.tensor(-5.0), "max": torch.tensor(5.0)}),
    "bitwidth": lambda q: setattr(q, "bitwidth", 2),
    "symmetry": lambda q: setattr(q, "symmetric", True),
    "calibration": lambda q: _calibrate(q),
}


def _in_place(quantizer):
    with torch.no_grad():
        quantizer.max.add_(4)


def _step(quantizer):
    quantizer.max.grad = torch.tensor(-40.0)
    torch.optim.SGD(quantizer.parameters(), lr=0.1).step()


def _calibrate(quantizer):
    with quantizer.compute_encodings():
        quantizer(torch.tensor([-7.0, 3.0]))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("grad", [True, False])
def test_never_stale(change, grad):
    quantizer, x = calibrated(), torch.linspace(-6, 6, 64)
    with torch.set_grad_enabled(grad):
        before = quantizer(x)
        change(quantizer)
        after = quantizer(x)
    scale, offset = scale_and_offset(
        quantizer.min.detach(), quantizer.max.detach(), quantizer.qmin, quantizer.qmax, quantizer.symmetric
    )
    assert torch.equal(after, quantize_dequantize(x, scale, offset, quantizer.qmin, quantizer.qmax))
    assert not torch.equal(before, after)


@pytest.mark.parametrize(("shape", "block_size"), SHAPES)
@pytest.mark.parametrize("symmetric", [True, False])
def test_gradients_are_those_of_the_reference(shape, block_size, symmetric):
    quantizer = calibrated(shape, block_size, symmetric=symmetric)
    x, upstream = torch.randn(4, 16, requires_grad=True), torch.randn(4, 16)
    quantizer(x).backward(upstream)
    minimum, maximum = (end.detach().clone().requires_grad_() for end in (quantizer.min, quantizer.max))
    twin = x.detach().clone().requires_grad_()
    scale, offset = scale_and_offset(minimum, maximum, quantizer.qmin, quantizer.qmax, symmetric)
    quantize_dequantize(twin, scale, offset, quantizer.qmin, quantizer.qmax, block_size).backward(upstream)
    assert torch.equal(x.grad, twin.grad)
    torch.testing.assert_close(quantizer.min.grad, minimum.grad, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(quantizer.max.grad, maximum.grad, rtol=1e-5, atol=1e-5)


def test_several_forwards_and_backwards_share_one_connection():
    quantizer = calibrated()
    inputs = [torch.randn(8) for _ in range(3)]
    outputs = [quantizer(x) for x in inputs]
    for output in outputs:  # separate backwards, all forwards before the first
        output.sum().backward()
    together = quantizer.max.grad.clone()
    quantizer.max.grad = None
    sum(quantizer(x).sum() for x in inputs).backward()
    torch.testing.assert_close(quantizer.max.grad, together)
    twice = quantizer(inputs[0]).sum()
    quantizer.max.grad = None
    twice.backward(retain_graph=True)
    once = quantizer.max.grad.clone()
    twice.backward()
    torch.testing.assert_close(quantizer.max.grad, 2 * once)


def test_frozen_range_gets_no_gradient():
    quantizer, x = calibrated(), torch.randn(8, requires_grad=True)
    quantizer(x).sum().backward()
    assert quantizer.min.grad is not None
    quantizer.freeze()
    quantizer.min.grad = quantizer.max.grad = None
    quantizer(x).sum().backward()
    assert quantizer.min.grad is None
    assert quantizer.max.grad is None


def test_only_one_end_learnable():
    quantizer, x = calibrated(), torch.randn(64)
    quantizer(x)
    quantizer.min.requires_grad_(False)
    quantizer(x).sum().backward()
    assert quantizer.min.grad is None
    assert quantizer.max.grad is not None


def test_inference_mode_and_training_may_alternate():
    quantizer, x = calibrated(), torch.randn(8)
    with torch.inference_mode():
        inside = quantizer(x)
    quantizer(x).sum().backward()
    assert torch.equal(inside.clone(), quantizer(x))
    with torch.inference_mode():
        made_inside = calibrated()
        assert torch.equal(made_inside(x), inside)
        made_inside.set_range(-2, 2)
        assert not torch.equal(made_inside(x), inside)


def test_functional_call_uses_the_given_range():
    quantizer, x = calibrated(), torch.linspace(-3, 3, 16)
    expected = calibrated()
    expected.set_range(-3, 3)
    replaced = torch.func.functional_call(quantizer, {"min": torch.tensor(-3.0), "max": torch.tensor(3.0)}, (x,))
    assert torch.equal(replaced, expected(x))
    assert not torch.equal(quantizer(x), expected(x))


def test_second_derivative_is_refused():
    quantizer, x = calibrated(), torch.randn(8, requires_grad=True)
    with pytest.raises(RuntimeError):
        (gradient,) = torch.autograd.grad(quantizer(x).square().sum(), quantizer.max, create_graph=True)
        gradient.backward()
