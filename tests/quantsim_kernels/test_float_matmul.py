"""Linear layers, convolutions, products and attention with accumulators of low precision, over every backend."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim_encodings.formats import MXFormat, float_format, mx_format
from quantsim_kernels import Backend, Scheme, backends, explain, force_backend, manual_seed, registry
from quantsim_kernels.accumulation import Accumulation
from quantsim_kernels.float_matmul import (
    ACCUMULATING_OPS,
    accumulated_attention,
    accumulated_convolution,
    accumulated_linear,
    accumulated_matmul,
)
from quantsim_kernels.operands import DeferredOperand, OperandCast, QuantizedOperand

SUMS = Accumulation("bf16")
BACKENDS = pytest.mark.parametrize("backend", [Backend.REFERENCE, Backend.TORCH])


def sums_in_bfloat16(products: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Products along the last axis, summed one by one in ml_dtypes' bfloat16; small integers, so float64 is exact."""
    total = np.zeros(products.shape[:-1])
    for step in range(products.shape[-1]):
        total = (total + products[..., step]).astype(ml_dtypes.bfloat16).astype(np.float64)
    return total


def integers(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(-50, 50, shape, generator=torch.Generator().manual_seed(seed)).float()


@BACKENDS
@pytest.mark.parametrize("batch", [(), (3,), (2, 0, 3), (2, 3)])
def test_linear(backend: Backend, batch: tuple[int, ...]) -> None:
    x, weight, bias = integers(*batch, 21), integers(4, 21, seed=1), integers(4, seed=2)
    with force_backend(backend):
        got = accumulated_linear(x, weight, bias, SUMS)
    products = x.double().numpy()[..., None, :] * weight.double().numpy()
    biases = np.broadcast_to(bias.numpy()[:, None], (*products.shape[:-1], 1))
    assert torch.equal(got, torch.from_numpy(sums_in_bfloat16(np.concatenate([products, biases], axis=-1))).float())


@BACKENDS
@pytest.mark.parametrize(
    ("shape", "kernel", "settings"),
    [
        ((2, 4, 9), (3,), {"stride": 2, "padding": 1, "groups": 2}),
        ((4, 9), (3,), {"dilation": 2}),
        ((2, 4, 6, 7), (3, 2), {"stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)}),
        ((2, 4, 6, 7), (2, 3), {"padding": "same", "groups": 4}),
        ((1, 2, 4, 5, 6), (2, 1, 3), {"padding": (1, 0, 1), "stride": [1, 2, 1], "groups": 2}),
    ],
)
def test_convolutions(
    backend: Backend, shape: tuple[int, ...], kernel: tuple[int, ...], settings: dict[str, Any]
) -> None:
    dimensions = len(kernel)
    channels = shape[-dimensions - 1] // settings.get("groups", 1)
    x, weight, bias = integers(*shape), integers(8, channels, *kernel, seed=1), integers(8, seed=2)
    with force_backend(backend):
        got = accumulated_convolution(x, weight, bias, SUMS, **settings)
    convolution = (F.conv1d, F.conv2d, F.conv3d)[dimensions - 1]
    # One product at a time: torch's convolution with all weights but one set to zero.
    products = []
    for position in itertools.product(range(channels), *map(range, kernel)):
        single = torch.zeros_like(weight)
        single[(slice(None), *position)] = weight[(slice(None), *position)]
        products.append(convolution(x, single, **settings).double().numpy())
    products.append(np.broadcast_to(bias.reshape(-1, *(1,) * dimensions).numpy(), products[0].shape))
    assert torch.equal(got, torch.from_numpy(sums_in_bfloat16(np.stack(products, axis=-1))).float())


def test_large_batches_of_images_are_worked_through_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    import quantsim_kernels._accumulated_product as implementation

    x, weight = integers(5, 3, 6, 6), integers(4, 3, 3, 3, seed=1)
    whole = accumulated_convolution(x, weight, None, SUMS)
    monkeypatch.setattr(implementation, "_PATCH_ELEMENTS", 2 * 3 * 36 * 9)
    assert torch.equal(accumulated_convolution(x, weight, None, SUMS), whole)


@BACKENDS
@pytest.mark.parametrize(("a", "b"), [((5,), (5,)), ((5,), (5, 2)), ((3, 5), (5,)), ((2, 1, 3, 5), (4, 5, 2))])
def test_matmul(backend: Backend, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    left, right = integers(*a), integers(*b, seed=1)
    with force_backend(backend):
        got = accumulated_matmul(left, right, SUMS)
    rows, columns = np.atleast_2d(left.double().numpy()), right.double().numpy().reshape(*b, *(1,) * (len(b) == 1))
    products = rows[..., :, None, :] * np.swapaxes(columns, -1, -2)[..., None, :, :]
    expected = torch.from_numpy(sums_in_bfloat16(products)).float()
    assert got.shape == torch.matmul(left, right).shape
    assert torch.equal(got, expected.reshape(got.shape))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"is_causal": True},
        {"scale": 0.3},
        {"attn_mask": torch.randn(6, 7, generator=torch.Generator().manual_seed(0))},
        {"attn_mask": torch.arange(7) < torch.arange(6)[:, None]},
    ],
    ids=["plain", "causal", "scale", "mask", "boolean"],
)
def test_attention(settings: dict[str, Any]) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(2, 3, length, 8, generator=generator) for length in (6, 7, 7))
    expected = F.scaled_dot_product_attention(q, k, v, **settings)
    exact = accumulated_attention(q, k, v, accumulation=Accumulation(chunk=None), **settings)
    torch.testing.assert_close(exact, expected)
    coarse = accumulated_attention(q, k, v, accumulation=SUMS, **settings)
    assert not torch.equal(coarse, expected)
    torch.testing.assert_close(coarse, expected, atol=0.05, rtol=0.05)
    assert torch.equal(coarse, coarse.bfloat16().float())


def test_attention_with_shared_heads_and_dropout() -> None:
    q, k = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 5, 8)
    exact = accumulated_attention(q, k, k, accumulation=Accumulation(chunk=None), enable_gqa=True)
    torch.testing.assert_close(exact, F.scaled_dot_product_attention(q, k, k, enable_gqa=True))
    dropped = accumulated_attention(q, q, q, dropout_p=1.0, accumulation=SUMS)
    assert not dropped.any()
    with pytest.raises(ValueError, match="only one of them"):
        accumulated_attention(q, q, q, torch.zeros(5, 5), is_causal=True, accumulation=SUMS)


def test_gradients_are_those_of_the_exact_product() -> None:
    x, weight, bias = (tensor.requires_grad_() for tensor in (torch.randn(3, 6), torch.randn(4, 6), torch.randn(4)))
    gradient = torch.randn(3, 4)
    got = torch.autograd.grad(accumulated_linear(x, weight, bias, SUMS), (x, weight, bias), gradient)
    expected = torch.autograd.grad(F.linear(x, weight, bias), (x, weight, bias), gradient)
    assert all(torch.equal(ours, exact) for ours, exact in zip(got, expected, strict=True))
    images, kernel = torch.randn(2, 4, 5, 5, requires_grad=True), torch.randn(6, 2, 3, 3, requires_grad=True)
    y = accumulated_convolution(images, kernel, None, SUMS, padding=1, groups=2)
    expected = torch.autograd.grad(F.conv2d(images, kernel, None, 1, 1, 1, 2).sum(), (images, kernel))
    got = torch.autograd.grad(y.sum(), (images, kernel))
    assert all(torch.equal(ours, exact) for ours, exact in zip(got, expected, strict=True))
    a, b = torch.randn(2, 3, 4, requires_grad=True), torch.randn(4, 5, requires_grad=True)
    expected = torch.autograd.grad((a @ b).sum(), (a, b))
    got = torch.autograd.grad(accumulated_matmul(a, b, SUMS).sum(), (a, b))
    assert all(torch.equal(ours, exact) for ours, exact in zip(got, expected, strict=True))


def test_seeds() -> None:
    x = torch.randn(40, 30)
    fixed, drawn = Accumulation("e5m2", "stochastic", seed=4), Accumulation("e5m2", "stochastic")
    state = torch.get_rng_state()
    assert torch.equal(accumulated_matmul(x, x.T, fixed), accumulated_matmul(x, x.T, fixed))
    manual_seed(0)
    first, second = accumulated_matmul(x, x.T, drawn), accumulated_matmul(x, x.T, drawn)
    assert not torch.equal(first, second)
    manual_seed(0)
    assert torch.equal(accumulated_matmul(x, x.T, drawn), first)
    assert torch.equal(torch.get_rng_state(), state)
    with force_backend("reference"):
        assert torch.equal(accumulated_matmul(x, x.T, fixed), accumulated_matmul(x, x.T, fixed, compute=None))
    images, kernel = torch.randn(3, 2, 6, 6), torch.randn(4, 2, 3, 3)
    on_reference = [accumulated_convolution(images, kernel, None, fixed)]
    with force_backend("reference"):
        on_reference.append(accumulated_convolution(images, kernel, None, fixed))
    assert torch.equal(*on_reference)


def test_attentions_products_do_not_share_their_noise() -> None:
    """With one key, scores do not matter; with one feature, both products have the same shape and step."""
    accumulation = Accumulation("e5m2", "stochastic", seed=4)
    q = torch.full((1, 500, 1), 1.1)
    scores = accumulated_matmul(q, torch.ones(1, 1, 1), accumulation)
    values = accumulated_matmul(q, torch.ones(1, 1, 1), accumulation, part=1)
    assert not torch.equal(scores, values)


def test_meta_and_dtypes() -> None:
    x = torch.empty(2, 3, 8, device="meta")
    assert accumulated_linear(x, torch.empty(4, 8, device="meta"), None, SUMS).shape == (2, 3, 4)
    images, kernel = torch.empty(2, 4, 9, 9, device="meta"), torch.empty(6, 4, 3, 3, device="meta")
    assert accumulated_convolution(images, kernel, None, SUMS, stride=2).shape == (2, 6, 4, 4)
    half = torch.randn(3, 8).half()
    assert accumulated_matmul(half, half.T, SUMS).dtype is torch.float16
    assert accumulated_matmul(half, half.T.float(), SUMS).dtype is torch.float32


def test_wrong_operands() -> None:
    x = torch.randn(3, 8)
    for call in (
        lambda: accumulated_linear(x, torch.randn(4, 7), None, SUMS),
        lambda: accumulated_matmul(x, x, SUMS),
        lambda: accumulated_convolution(x, torch.randn(2, 9, 3), None, SUMS),
        lambda: accumulated_convolution(torch.randn(1, 8, 2), torch.randn(2, 8, 3), None, SUMS),
    ):
        with pytest.raises(RuntimeError):
            call()
    with pytest.raises(ValueError, match="3, 4 or 5 dimensions"):
        accumulated_convolution(x, x, None, SUMS)
    with pytest.raises(TypeError, match="Accumulation"):
        accumulated_matmul(x, x.T, "fp16")  # type: ignore[arg-type]


# ---------------------------------------------------------------- kernels of modules

CALLS: dict[str, Callable[..., tuple[Any, ...]]] = {
    "linear": lambda: (integers(3, 8), integers(4, 8, seed=1), None),
    "conv1d": lambda: (integers(1, 2, 8), integers(4, 2, 3, seed=1), None),
    "conv2d": lambda: (integers(1, 2, 8, 8), integers(4, 2, 3, 3, seed=1), None),
    "conv3d": lambda: (integers(1, 2, 4, 4, 4), integers(4, 2, 3, 3, 3, seed=1), None),
    "matmul": lambda: (integers(3, 8), integers(8, 4, seed=1)),
    "bmm": lambda: (integers(2, 3, 8), integers(2, 8, 4, seed=1)),
    "scaled_dot_product_attention": lambda: tuple(torch.randn(1, 2, 4, 8) for _ in range(3)),
}


@pytest.mark.parametrize("op", ACCUMULATING_OPS)
@pytest.mark.parametrize("scheme", [Scheme.FLOAT, Scheme.MX])
def test_every_backend_computes_the_same(op: str, scheme: Scheme) -> None:
    operands = CALLS[op]()
    format: Any = float_format("fp16") if scheme is Scheme.FLOAT else mx_format("mxfp8_e4m3")
    wrapped = [None if value is None else QuantizedOperand(values=value, format=format) for value in operands]
    results = []
    for kernel in registry.candidates(op, scheme):
        if kernel.backend in (Backend.REFERENCE, Backend.TORCH):
            assert kernel.objection(*wrapped, accumulation=SUMS) is None
            assert "fake quantization" in str(kernel.objection(*wrapped))
            results.append(kernel(*wrapped, accumulation=SUMS, output_encodings=None))
            assert torch.equal(results[-1], kernel(*operands, accumulation=SUMS))
    assert len(results) == 2
    assert torch.equal(*results)


@pytest.mark.parametrize("op", ["linear", "matmul", "bmm"])
def test_the_fused_kernels_say_what_they_are_not_for(op: str) -> None:
    assert Backend.TRITON in backends(op)

    def reason(*operands: Any, **arguments: Any) -> str:
        found = explain(op, Scheme.FLOAT, *operands, **arguments)
        return next(item.reason for item in found if item.kernel.backend is Backend.TRITON)

    def deferred(format: Any, x: Tensor) -> DeferredOperand:
        return DeferredOperand(x, lambda x: x, format, OperandCast(format=format))

    x = torch.randn(4, 4)
    e4m3 = float_format("e4m3fn")
    assert "nothing to fuse" in reason(x, x)
    assert "float32 only" in reason(deferred(e4m3, x), deferred(e4m3, x), accumulation=SUMS)
    assert "fraction bits" in reason(deferred(float_format("e8m20"), x), deferred(e4m3, x))
    assert "no backward" in reason(deferred(e4m3, x), deferred(e4m3, x.clone().requires_grad_()))
    block: MXFormat = mx_format("mxfp4")
    assert "nothing" not in reason(deferred(block, x), deferred(block, x))
