"""SqueezeLight's rings against a float64 NumPy oracle on every backend; gradients, noise, memory, errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from quantsim_kernels import Backend, Scheme, backends, explain, force_backend, manual_seed
from quantsim_kernels.reference.noise import element_noise
from quantsim_kernels.squeezelight import check_rings, squeezelight_linear
from quantsim_kernels.torch import squeezelight as fast

OP = "squeezelight_linear"
BACKENDS = backends(OP)
SHAPES = [(8, 8, 4), (10, 7, 4), (16, 4, 4), (12, 9, 4), (3, 5, 4), (20, 9, 8), (5, 5, 1), (7, 2, 3)]
Array = NDArray[np.float64]


# ---------------------------------------------------------------------------------- the oracle, term by term


def oracle_levels(values: Array, bits: int, low: float, high: float) -> Array:
    """Nearest of 2**bits evenly spaced levels, ties to the even one."""
    steps = 2**bits - 1
    return low + (high - low) * np.rint((values - low) / (high - low) * steps) / steps


def oracle_linear(
    x: Array,
    weight: Array,
    scale: Array,
    bias: Array,
    w_bit: int = 32,
    in_bit: int = 32,
    gain: float = 1.0,
    crosstalk: float = 0.0,
    drop: float = 0.0,
    noise: Array | None = None,
    a: float = 0.8578,
    r: float = 0.8985,
) -> Array:
    _, blocks, k = weight.shape
    out_features = bias.size
    if in_bit < 16:
        x = oracle_levels(np.clip(x, 0, 1), in_bit, 0, 1)
    if w_bit < 16:
        t = np.tanh(weight)
        largest = np.abs(t).max()
        w = (oracle_levels(t, w_bit, -largest, largest) + largest) * gain
        t = np.tanh(scale)
        largest = np.abs(t).max()
        s = oracle_levels(t, w_bit, -largest, largest)
    else:
        w, s = np.abs(weight), scale - scale.mean()
    w = w * (1 + max(3, k * (1 - drop) - 1) * crosstalk)
    half = [float(value) for value in s[:-1]]
    if blocks == 1:
        factors = [float(s[-1])]
    elif blocks % 2 == 0:
        factors = half + [-value for value in half]
    else:
        factors = [*half, float(s[-1])] + [-value for value in half]
    padded = np.zeros((x.shape[0], blocks * k))
    padded[:, : x.shape[1]] = x
    y = np.zeros((x.shape[0], out_features))
    for b in range(x.shape[0]):
        for o in range(out_features):
            p, i = divmod(o, k)
            total = 0.0
            for q in range(blocks):
                phase = sum(w[p, q, (i - j) % k] * padded[b, q * k + j] ** 2 for j in range(k))
                if noise is not None:
                    phase += noise[b, p, q, i]
                # The amplitude behind the ring, as a complex number, and its intensity.
                amplitude = (r - a * np.exp(1j * phase)) / (1 - r * a * np.exp(1j * phase))
                total += factors[q] * abs(amplitude) ** 2
            y[b, o] = total + bias[o]
    return y


def operands(inputs: int, outputs: int, k: int, seed: int = 0, rows: int = 3) -> tuple[Array, Array, Array, Array]:
    generator = np.random.default_rng(seed)
    count, blocks = math.ceil(outputs / k), math.ceil(inputs / k)
    return (
        generator.uniform(-1.2, 1.2, (rows, inputs)),
        generator.normal(0, 0.4, (count, blocks, k)),
        generator.normal(0, 1, max(1, blocks // 2) + 1),
        generator.normal(0, 1, outputs),
    )


def tensors(arrays: tuple[Array, ...], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.tensor(array, dtype=dtype) for array in arrays]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("bits", [(32, 32), (6, 32), (32, 4), (4, 5), (1, 1)])
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_the_oracle(backend: Backend, shape: tuple[int, int, int], bits: tuple[int, int]) -> None:
    arrays = operands(*shape)
    w_bit, in_bit = bits
    options: dict[str, Any] = {"w_bit": w_bit, "in_bit": in_bit, "crosstalk": 0.04, "drop": 0.25}
    expected = oracle_linear(*arrays, gain=0.7, **options)
    with force_backend(backend):
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
            if dtype is torch.float32 and min(bits) < 16:
                continue  # what lies at a tie in float64 may fall to the other side
            actual = squeezelight_linear(*tensors(arrays, dtype), weight_gain=0.7, **options)
            assert actual.dtype is dtype
            np.testing.assert_allclose(actual.numpy(), expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", BACKENDS)
def test_quantized_float32_differs_from_the_oracle_at_ties_only(backend: Backend) -> None:
    arrays = operands(40, 33, 4, rows=16)
    expected = oracle_linear(*arrays, w_bit=6, in_bit=6)
    with force_backend(backend):
        actual = squeezelight_linear(*tensors(arrays, torch.float32), w_bit=6, in_bit=6).numpy()
    assert np.isclose(actual, expected, rtol=1e-4, atol=1e-4).mean() > 0.99


def test_other_rings() -> None:
    arrays = operands(9, 5, 4)
    expected = oracle_linear(*arrays, a=0.95, r=0.6)
    actual = squeezelight_linear(*tensors(arrays), attenuation=0.95, coupling=0.6)
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(10, 7, 4), (8, 8, 4), (3, 5, 4)])
def test_gradients_are_the_derivatives(backend: Backend, shape: tuple[int, int, int]) -> None:
    leaves = [tensor.requires_grad_() for tensor in tensors(operands(*shape))]
    with force_backend(backend):
        assert torch.autograd.gradcheck(
            lambda *operands: squeezelight_linear(*operands, crosstalk=0.1, phase_noise=0.05, seed=3), leaves
        )


@pytest.mark.parametrize("bits", [(32, 32), (6, 5), (1, 1)])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_backends_agree_in_results_and_gradients(
    bits: tuple[int, int], noise: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fast, "CPU_PIECE", 40)  # many pieces, the last one smaller
    arrays = operands(22, 9, 4, rows=11)
    found = []
    for backend in (Backend.REFERENCE, Backend.TORCH):
        leaves = [tensor.requires_grad_() for tensor in tensors(arrays)]
        with force_backend(backend):
            y = squeezelight_linear(*leaves, w_bit=bits[0], in_bit=bits[1], phase_noise=noise, seed=5)
        (y * torch.arange(y.numel()).reshape(y.shape).cos()).sum().backward()
        found.append([y.detach(), *(leaf.grad for leaf in leaves)])
    for first, second in zip(*found, strict=True):
        torch.testing.assert_close(first, second, rtol=1e-10, atol=1e-10)


def test_gradient_passes_through_quantizers_and_is_clipped() -> None:
    x, weight, scale, bias = tensors(operands(12, 8, 4))
    weight.requires_grad_()
    scale.requires_grad_()
    y = squeezelight_linear(x, weight, scale, bias, w_bit=4)
    small = torch.autograd.grad(1e-3 * y.sum(), weight)[0]
    assert (small != 0).all()  # a derivative of the levels would be zero everywhere
    huge = torch.autograd.grad(1e6 * squeezelight_linear(x, weight, scale, bias, w_bit=4).sum(), [weight, scale])
    for gradient, values in zip(huge, (weight, scale), strict=True):
        # Clipped to +-1 before the last steps of the chain: 1 / (2 R) and the derivative of tanh.
        bound = (1 - values.tanh() ** 2) / (2 * values.tanh().abs().max())
        torch.testing.assert_close(gradient.abs(), bound.detach(), rtol=1e-9, atol=0)


def test_gradient_of_clipped_inputs_is_zero() -> None:
    x, weight, scale, bias = tensors(operands(8, 8, 4))
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(squeezelight_linear(x, weight, scale, bias, in_bit=6).sum(), x)
    outside = (x < 0) | (x > 1)
    assert outside.any() and (gradient[outside] == 0).all()
    assert (gradient[~outside & (x > 0.05)] != 0).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_phase_noise_is_that_of_the_elements(backend: Backend) -> None:
    """The noise of phase (b, p, q, i) is Box-Muller's of hashes 2 n and 2 n + 1, n its number row by row."""
    arrays = operands(10, 7, 4)
    bits = element_noise((3 * 2 * 3 * 4 * 2,), 11).numpy().astype(np.float64).reshape(-1, 2)
    u = (bits + 0.5) / 2**24
    normal = np.sqrt(-2 * np.log(u[:, 0])) * np.cos(2 * np.pi * u[:, 1])
    expected = oracle_linear(*arrays, noise=0.3 * normal.reshape(3, 2, 3, 4))
    with force_backend(backend):
        for seed in (11, torch.tensor(11)):
            actual = squeezelight_linear(*tensors(arrays), phase_noise=0.3, seed=seed)
            np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-9, atol=1e-9)


def test_seedless_noise_comes_from_quantsims_own_stream() -> None:
    manual_seed(4)
    state = torch.get_rng_state()
    values = tensors(operands(8, 8, 4))
    first, second = (squeezelight_linear(*values, phase_noise=0.2) for _ in range(2))
    assert not torch.equal(first, second)
    manual_seed(4)
    assert torch.equal(first, squeezelight_linear(*values, phase_noise=0.2))
    assert torch.equal(state, torch.get_rng_state())


@pytest.mark.parametrize("backend", BACKENDS)
def test_leading_dimensions_strides_and_dtypes(backend: Backend) -> None:
    x, weight, scale, bias = tensors(operands(10, 6, 4, rows=12), torch.float32)
    with force_backend(backend):
        expected = squeezelight_linear(x, weight, scale, bias)
        shaped = squeezelight_linear(x.reshape(2, 3, 2, 10), weight, scale, bias)
        assert torch.equal(shaped, expected.reshape(2, 3, 2, 6))
        assert torch.equal(squeezelight_linear(x.T.contiguous().T, weight, scale, bias), expected)
        assert squeezelight_linear(x[0], weight, scale, bias).shape == (6,)
        assert squeezelight_linear(x[:0], weight, scale, bias).shape == (0, 6)
        assert squeezelight_linear(x, weight, scale).shape == (12, 8)
        torch.testing.assert_close(squeezelight_linear(x, weight, scale, out_features=5), (expected - bias)[:, :5])
        for dtype in (torch.float16, torch.bfloat16):
            low = [tensor.to(dtype) for tensor in (x, weight, scale, bias)]
            exact = squeezelight_linear(*(tensor.float() for tensor in low))
            assert torch.equal(squeezelight_linear(*low), exact.to(dtype))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(squeezelight_linear(x, weight, scale, bias), expected)


def test_meta_device_has_the_shape() -> None:
    values = [tensor.to("meta") for tensor in tensors(operands(10, 6, 4))]
    assert squeezelight_linear(*values).shape == (3, 6)
    chosen = [decision for decision in explain(OP, Scheme.OPTICAL, *values, out_features=6) if decision.chosen]
    assert chosen[0].kernel.backend is Backend.REFERENCE


def test_phases_are_never_stored() -> None:
    """1024 rows have 2**26 phases: 256 MiB, for each of several steps and for the backward if they were kept."""
    x = torch.rand(1024, 512, requires_grad=True)
    weight = torch.rand(128, 128, 4) * 0.1
    y = squeezelight_linear(x, weight.requires_grad_(), torch.randn(65))
    kept = 0
    waiting = [y.grad_fn]
    while waiting:
        node: Any = waiting.pop()
        if node is not None:
            kept += sum(tensor.numel() for tensor in getattr(node, "saved_tensors", ()) if tensor is not None)
            waiting.extend(function for function, _ in node.next_functions)
    assert 0 < kept < 2**22


@pytest.mark.parametrize(
    ("changes", "error", "text"),
    [
        ({"x": torch.zeros(2, 13)}, ValueError, "from 9 to 12"),
        ({"x": torch.zeros(2, 10, dtype=torch.int64)}, TypeError, "floating-point"),
        ({"weight": torch.zeros(2, 3)}, ValueError, "circulant"),
        ({"scale": torch.zeros(3)}, ValueError, r"expected \(2,\)"),
        ({"bias": torch.zeros(6, 1), "out_features": 6}, ValueError, r"expected \(6,\)"),
        ({"out_features": 9}, ValueError, "from 5 to 8"),
        ({"w_bit": 0}, ValueError, "w_bit"),
        ({"in_bit": 2.5}, ValueError, "in_bit"),
        ({"crosstalk": 1.5}, ValueError, "crosstalk"),
        ({"drop": -0.1}, ValueError, "drop"),
        ({"phase_noise": math.nan}, ValueError, "phase_noise"),
        ({"attenuation": 1.0}, ValueError, "attenuation"),
        ({"coupling": 0.0}, ValueError, "coupling"),
        ({"phase_noise": 0.1, "seed": 0.5}, TypeError, "seed"),
    ],
)
def test_errors_say_what_is_wrong(changes: dict[str, Any], error: type[Exception], text: str) -> None:
    x, weight, scale, bias = tensors(operands(10, 6, 4))
    with pytest.raises(error, match=text):
        squeezelight_linear(**{"x": x, "weight": weight, "scale": scale, "bias": bias, **changes})


def test_check_rings_accepts_the_published_settings() -> None:
    check_rings(8, 8, 0.04, 0.0, 0.04, 0.8578, 0.8985)
