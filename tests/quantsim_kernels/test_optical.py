"""Optical products against an oracle in NumPy, on every backend: numbers, noise, gradients, attention, errors."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from quantsim_encodings.formats import OpticalNoise
from quantsim_kernels import Backend, backends, force_backend, rounding_noise
from quantsim_kernels.optical import (
    OpticalGradient,
    optical_accumulate,
    optical_linear,
    optical_matmul,
    optical_quantize,
)
from quantsim_kernels.optical_attention import optical_attention
from quantsim_kernels.random_seeds import SEED_STEP

UNIT = torch.tensor([-1.0, 1.0])
LUT = 0.020040
BACKENDS = [b for b in backends("optical_linear") if b is not Backend.TRITON]


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).standard_normal(shape).astype(np.float32))


def span(x: Tensor) -> Tensor:
    return torch.stack(torch.aminmax(x.detach().float()))


def oracle(x: Any, ends: Any, levels: int = 256, lut: float | None = None, u: Any = 0.0) -> NDArray[np.float32]:
    """The law, written in NumPy's float32; ``u`` is added before rounding."""
    one = np.float32
    lo, hi = one(ends[0]), one(ends[1])
    width = one(hi - lo)
    scaled = (np.clip(np.asarray(x, one), lo, hi) - lo) / one(width + one(1e-8)) * one(levels - 1)
    k = np.clip(np.rint(scaled + np.asarray(u, one)), 0, levels - 1)
    y = k.astype(one) / one(levels - 1) * width + lo
    if lut is not None:
        top, bottom = one(lut) * hi, -(one(lut) * abs(lo))
        y = np.where((y > 0) & (y < top), top, np.where((y < 0) & (y > bottom), bottom, y))
    return y


def uniform(shape: Any, seed: int) -> NDArray[np.float64]:
    """The dither of each element, from -1/2 to 1/2, in float64."""
    return (rounding_noise(shape, seed).double().numpy() + 0.5) / 2**24 - 0.5


def assert_levels(actual: Tensor, expected: Any, ends: Tensor, levels: int = 256) -> None:
    """Equal but for at most 0.1 % of ties that fell one level to the other side."""
    step = float(ends[1] - ends[0]) / (levels - 1)
    error = np.abs(actual.detach().double().numpy() - np.asarray(expected, np.float64))
    assert error.max() < 1.01 * step
    assert (error > 1e-5 * max(1.0, float(ends.abs().max()))).mean() <= 1e-3


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Any:
    with force_backend(request.param):
        yield request.param


# ---------------------------------------------------------------- quantizer


@pytest.mark.parametrize("levels", [2, 3, 16, 255, 256, 1024])
@pytest.mark.parametrize("lut", [None, LUT, 0.0, 0.3])
@pytest.mark.parametrize("ends", [(-1.0, 1.0), (-0.3, 2.0), (0.5, 1.5), (-2.0, -0.5), (0.0, 0.0), (0.7, 0.7)])
def test_quantize_equals_the_oracle(backend: Any, levels: int, lut: float | None, ends: tuple[float, float]) -> None:
    x = torch.cat([draw(4000), torch.tensor([0.0, -0.0, ends[0], ends[1], math.inf, -math.inf])])
    range = torch.tensor(ends)
    expected = torch.from_numpy(oracle(x, range.numpy(), levels, lut))
    assert torch.equal(optical_quantize(x, range, levels, lut=lut), expected)


def test_quantize_with_dither_equals_the_oracle(backend: Any) -> None:
    x, ends = draw(700, 500), torch.tensor([-2.0, 2.5])
    y = optical_quantize(x, ends, noise="dither", seed=11)
    assert torch.equal(y, torch.from_numpy(oracle(x, ends.numpy(), u=uniform(x.shape, 11))))
    assert y.min() >= ends[0]
    assert y.max() <= ends[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_quantize_keeps_dtype_and_shape(backend: Any, dtype: torch.dtype) -> None:
    x = draw(6, 10).to(dtype).t()
    y = optical_quantize(x, UNIT)
    assert (y.dtype, y.shape) == (dtype, (10, 6))
    assert torch.equal(y, torch.from_numpy(oracle(x.float(), UNIT.numpy())).to(dtype))
    assert optical_quantize(x[:0], UNIT).shape == (0, 6)
    assert optical_quantize(x[0, 0], UNIT).shape == ()


def test_quantize_keeps_nan(backend: Any) -> None:
    x = torch.tensor([math.nan, 0.5])
    for lut in (None, LUT):
        y = optical_quantize(x, UNIT, 3, lut=lut)
        assert y[0].isnan()
    assert optical_quantize(x, torch.tensor([math.nan, math.nan])).isnan().all()


def test_a_range_for_each_row(backend: Any) -> None:
    x = draw(5, 40).abs()
    largest = x.amax(1, keepdim=True)
    y = optical_quantize(x, torch.stack([torch.zeros_like(largest), largest]), 16)
    for row, expected in zip(y, x, strict=True):
        assert torch.equal(row, torch.from_numpy(oracle(expected, (0.0, float(expected.max())), 16)))


def test_noise_at_the_end_of_the_range_stays_on_the_levels(backend: Any) -> None:
    for noise, photons in (("dither", None), ("shot", 3.0)):
        y = optical_quantize(torch.ones(100_000), UNIT, noise=noise, seed=2, photons=photons)
        assert y.max() == 1.0
        assert y.min() >= -1.0


# ---------------------------------------------------------------- noise


def test_each_element_has_noise_of_its_own(backend: Any) -> None:
    x = torch.full((200, 300), 0.5 / 255)  # half a level, from 0 to 1
    y = optical_quantize(x, torch.tensor([0.0, 1.0]), noise="dither", seed=1)
    assert 0.49 < (y > 0).float().mean() < 0.51
    first = optical_quantize(x, torch.tensor([0.0, 1.0]), noise="dither", seed=1)
    other = optical_quantize(x, torch.tensor([0.0, 1.0]), noise="dither", seed=2)
    assert torch.equal(first, y)
    assert 0.45 < (other == y).float().mean() < 0.55


def test_linear_noise_is_independent_for_each_output(backend: Any) -> None:
    x, weight = draw(64, 32), draw(48, 32, seed=1)
    product, ends = optical_accumulate(x, weight, span(x), span(weight))
    step = float(ends[1] - ends[0]) / 255
    y, _ = optical_linear(x, weight, None, span(x), span(weight), ends, seed=3)
    error = (y - product) / step
    assert error.abs().max() <= 1.001
    assert 0.35 < error.std() < 0.48  # sqrt(2/12): dither and rounding; a constant offset would have 0.29
    assert error.mean().abs() < 0.05
    assert error.mean(0).abs().max() < 0.4
    again, _ = optical_linear(x, weight, None, span(x), span(weight), ends, seed=torch.tensor(3))
    assert torch.equal(y, again)


def test_noise_does_not_depend_on_strides(backend: Any) -> None:
    x = draw(30, 20)
    y = optical_quantize(x.t(), UNIT, 16, noise="dither", seed=4)
    assert torch.equal(y, optical_quantize(x.t().contiguous(), UNIT, 16, noise="dither", seed=4))


def test_without_a_seed_each_call_draws_another(backend: Any) -> None:
    x = draw(1000)
    first, second = (optical_quantize(x, UNIT, 4, noise=True) for _ in range(2))
    assert not torch.equal(first, second)


def test_the_global_generator_is_never_touched(backend: Any) -> None:
    before = torch.get_rng_state()
    x, weight = draw(8, 16), draw(4, 16)
    for noise, photons in (("dither", None), ("shot", 5.0), ("none", None)):
        optical_linear(x, weight, None, UNIT, UNIT, UNIT, noise=noise, photons=photons)
        q = draw(2, 4, 8)
        optical_attention(q, q, q, UNIT, UNIT, UNIT, UNIT, UNIT, dropout_p=0.5, noise=noise, photons=photons)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("signal", [0.25, -0.5, 0.9])
@pytest.mark.parametrize("photons", [100.0, 10_000.0])
def test_shot_noise_has_the_variance_of_counted_photons(backend: Any, signal: float, photons: float) -> None:
    ends = torch.tensor([-1.5, 1.0])
    y = optical_quantize(torch.full((200_000,), signal), ends, 2**20, noise="shot", seed=5, photons=photons).double()
    expected = abs(signal) * 1.5 / photons
    if abs(signal) + 5 * math.sqrt(expected) < 1.0:
        assert float(y.var()) == pytest.approx(expected, rel=0.02)
        assert float(y.mean()) == pytest.approx(signal, abs=5 * math.sqrt(expected / 200_000))
    else:
        assert float(y.max()) == pytest.approx(1.0)
    zero = optical_quantize(torch.zeros(100), ends, 6, noise="shot", seed=5, photons=photons)
    assert (zero == 0).all()


def test_photons_of_a_product_are_counted_for_each_multiply_accumulate(backend: Any) -> None:
    terms, photons = 64, 20.0
    ends = torch.tensor([-float(terms), float(terms)])
    x, weight = torch.ones(1, terms), torch.full((100_000, terms), 0.5)
    y, extremes = optical_linear(
        x, weight, None, UNIT, UNIT, ends, levels=2**20, lut=None, noise="shot", seed=1, photons=photons
    )
    assert torch.allclose(extremes, torch.tensor(terms / 2), atol=1e-3)
    assert float(y.double().var()) == pytest.approx(terms / 2 * terms / (photons * terms), rel=0.03)
    product, _ = optical_accumulate(x, weight, UNIT, UNIT, 2**20, None)
    two = optical_quantize(product, ends, 2**20, noise="shot", seed=1, photons=photons * terms)
    assert torch.equal(y, two)


# ---------------------------------------------------------------- products


@pytest.mark.parametrize("terms", [1, 3, 17, 40, 64, 129])
@pytest.mark.parametrize("lut", [None, LUT])
def test_linear_equals_the_oracle_for_every_length(backend: Any, terms: int, lut: float | None) -> None:
    x, weight, bias = draw(5, 7, terms) + 2.0, draw(9, terms, seed=1), draw(9, seed=2)
    x_ends, w_ends, ends = span(x), span(weight), torch.tensor([-0.4, 0.5]) * terms
    operand = oracle(weight, w_ends.numpy(), lut=lut).astype(np.float64)
    product = oracle(x, x_ends.numpy()).astype(np.float64) @ operand.T
    y, extremes = optical_linear(x, weight, bias, x_ends, w_ends, ends, lut=lut, noise="none")
    assert_levels(y - bias, oracle(product, ends.numpy()), ends)
    np.testing.assert_allclose(extremes.numpy(), [product.min(), product.max()], rtol=1e-5, atol=1e-4)
    accumulated, same = optical_accumulate(x, weight, x_ends, w_ends, 256, lut)
    np.testing.assert_allclose(accumulated.numpy(), product, rtol=1e-5, atol=1e-4 * math.sqrt(terms))
    assert torch.equal(extremes, same)


def test_the_range_returned_is_that_before_clip_and_bias(backend: Any) -> None:
    x, weight, bias = draw(20, 30), draw(10, 30, seed=1), torch.full((10,), 50.0)
    narrow = torch.tensor([-0.1, 0.1])
    y, extremes = optical_linear(x, weight, bias, span(x), span(weight), narrow, noise="none")
    assert y.min() >= 49.89
    assert y.max() <= 50.11
    assert extremes[0] < -5.0
    assert extremes[1] > 5.0
    assert extremes[1] < 40.0
    assert extremes.dtype is torch.float32


def test_a_range_that_follows_the_accumulator_grows_with_the_inputs(backend: Any) -> None:
    weight, bias = draw(16, 16, seed=1), torch.full((16,), 3.0)
    ends = torch.tensor([-1.0, 1.0])
    x = draw(64, 16) * 10
    for _ in range(60):
        _, extremes = optical_linear(x, weight, bias, span(x), span(weight), ends, noise="none")
        ends = 0.9 * ends + 0.1 * extremes
    y, _ = optical_linear(x, weight, bias, span(x), span(weight), ends, noise="none")
    exact = F.linear(x, weight, bias)
    assert (y - exact).norm() / exact.norm() < 0.03


def test_matmul_broadcasts_and_floors_only_the_second_operand(backend: Any) -> None:
    a, b = draw(2, 1, 5, 40), draw(3, 40, 6, seed=1)
    ends = torch.tensor([-15.0, 15.0])
    product = oracle(a, span(a).numpy()).astype(np.float64) @ oracle(b, span(b).numpy(), lut=LUT).astype(np.float64)
    y, extremes = optical_matmul(a, b, span(a), span(b), ends, noise="none")
    assert y.shape == (2, 3, 5, 6)
    assert_levels(y, oracle(product, ends.numpy()), ends)
    np.testing.assert_allclose(extremes.numpy(), [product.min(), product.max()], rtol=1e-5)
    plain, _ = optical_matmul(a, b, span(a), span(b), ends, lut=None, noise="none")
    assert not torch.equal(plain, y)


def test_all_backends_give_the_same_bits() -> None:
    x, weight = draw(33, 1, 70).transpose(0, 1), draw(70, 50, seed=1).t()
    for noise in ("none", "dither"):
        results = []
        for each in BACKENDS:
            with force_backend(each):
                results.append(optical_linear(x, weight, None, UNIT, UNIT, UNIT * 5, noise=noise, seed=9))
        for y, extremes in results[1:]:
            assert torch.equal(y, results[0][0])
            assert torch.equal(extremes, results[0][1])


def test_error_map_multiplies_the_quantized_weights(backend: Any) -> None:
    x, weight = draw(4, 12), draw(6, 12, seed=1)
    factors = 1 + 0.1 * draw(6, 12, seed=2)
    product, _ = optical_accumulate(x, weight, UNIT, UNIT, error_map=factors)
    operand = oracle(weight, (-1, 1), lut=LUT) * factors.numpy()
    np.testing.assert_allclose(product.numpy(), oracle(x, (-1, 1)) @ operand.T, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_operands_accumulate_in_float32(backend: Any, dtype: torch.dtype) -> None:
    x, weight = draw(8, 512).to(dtype), draw(4, 512, seed=1).to(dtype)
    exact = oracle(x.float(), (-1, 1)).astype(np.float64) @ oracle(weight.float(), (-1, 1), lut=LUT).T.astype(
        np.float64
    )
    with torch.autocast("cpu", dtype=torch.bfloat16):
        product, _ = optical_accumulate(x, weight, UNIT, UNIT)
        y, _ = optical_linear(x, weight, None, UNIT, UNIT, torch.tensor([-50.0, 50.0]))
    assert product.dtype is torch.float32
    np.testing.assert_allclose(product.numpy(), exact, rtol=1e-5, atol=1e-3)
    assert y.dtype is dtype


def test_empty_batches(backend: Any) -> None:
    y, extremes = optical_linear(torch.empty(0, 3), draw(2, 3), None, UNIT, UNIT, UNIT)
    assert y.shape == (0, 2)
    assert extremes.isnan().all()


def test_linear_gradients_are_those_of_the_unquantized_operands(backend: Any) -> None:
    x, weight, bias = (t.requires_grad_() for t in (draw(2, 5, 8) * 3, draw(4, 8, seed=1), draw(4, seed=2)))
    gradient = draw(2, 5, 4, seed=3)
    y, extremes = optical_linear(x, weight, bias, UNIT, UNIT, UNIT, seed=1)
    assert not extremes.requires_grad
    actual = torch.autograd.grad(y, (x, weight, bias), gradient)
    expected = torch.autograd.grad(F.linear(x, weight, bias), (x, weight, bias), gradient)
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_matmul_gradients_sum_over_broadcast_dimensions(backend: Any) -> None:
    a, b = draw(2, 1, 5, 8).requires_grad_(), draw(3, 8, 6, seed=1).requires_grad_()
    gradient = draw(2, 3, 5, 6, seed=2)
    y, _ = optical_matmul(a, b, UNIT, UNIT, UNIT, seed=1)
    actual = torch.autograd.grad(y, (a, b), gradient)
    for one, other in zip(actual, torch.autograd.grad(a @ b, (a, b), gradient), strict=True):
        torch.testing.assert_close(one, other)


def test_clipped_gradients_stop_outside_each_range(backend: Any) -> None:
    x, weight = (draw(6, 8) * 2).requires_grad_(), (draw(4, 8, seed=1) * 2).requires_grad_()
    bias = draw(4, seed=2).requires_grad_()
    arguments: Any = (x, weight, bias, UNIT, UNIT, UNIT * 2)
    y, _ = optical_linear(*arguments, seed=1, ste="clipped")
    with torch.no_grad():
        fused, _ = optical_linear(*arguments, seed=1)
    assert torch.equal(y, fused)
    product, _ = optical_accumulate(x.detach(), weight.detach(), UNIT, UNIT)
    gradient = torch.ones_like(y) * (product.abs() <= 2)
    d_x, d_weight, d_bias = torch.autograd.grad(y.sum(), (x, weight, bias))
    torch.testing.assert_close(d_x, (gradient @ weight) * (x.abs() <= 1))
    torch.testing.assert_close(d_weight, (gradient.t() @ x) * (weight.abs() <= 1))
    torch.testing.assert_close(d_bias, torch.full((4,), 6.0))


def test_quantize_gradients(backend: Any) -> None:
    x = torch.tensor([-3.0, 0.2, 3.0], requires_grad=True)
    for ste, expected in ((OpticalGradient.IDENTITY, [1.0, 1.0, 1.0]), (OpticalGradient.CLIPPED, [0.0, 1.0, 0.0])):
        (gradient,) = torch.autograd.grad(optical_quantize(x, UNIT, noise=True, ste=ste).sum(), x)
        assert gradient.tolist() == expected


def test_compiled_without_a_break_gives_the_same_numbers() -> None:
    x, weight = draw(8, 16).requires_grad_(), draw(4, 16, seed=1).requires_grad_()

    def run(x: Tensor, weight: Tensor, seed: Tensor) -> tuple[Tensor, Tensor]:
        return optical_linear(x, weight, None, UNIT, UNIT, UNIT * 4, seed=seed)

    seed = torch.tensor(7)
    y, extremes = torch.compile(run, fullgraph=True, backend="aot_eager")(x, weight, seed)
    expected, same = run(x, weight, seed)
    assert torch.equal(y, expected)
    assert torch.equal(extremes, same)
    torch.testing.assert_close(torch.autograd.grad(y.sum(), x), torch.autograd.grad(expected.sum(), x))


# ---------------------------------------------------------------- attention


WIDE = torch.tensor([-40.0, 40.0])


def attention(q: Tensor, k: Tensor, v: Tensor, *arguments: Any, **options: Any) -> Tensor:
    merged = {"levels": 2**16, "lut": None, "noise": "none", **options}
    return optical_attention(q, k, v, span(q), span(k), WIDE, span(v), span(v), *arguments, **merged)[0]


def test_attention_equals_the_oracle(backend: Any) -> None:
    q, k, v = draw(2, 3, 5, 8), draw(2, 3, 7, 8, seed=1), draw(2, 3, 7, 8, seed=2)
    y, qk, av, _ = optical_attention(q, k, v, span(q), span(k), WIDE, span(v), span(v), noise="none")
    product = oracle(q, span(q).numpy()) @ oracle(k, span(k).numpy(), lut=LUT).swapaxes(-2, -1)
    scores = oracle(product, WIDE.numpy()).astype(np.float64) / math.sqrt(8)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    second = oracle(weights, (0, 1)) @ oracle(v, span(v).numpy(), lut=LUT)
    assert_levels(y, oracle(second, span(v).numpy()), span(v))
    np.testing.assert_allclose(qk.numpy(), [product.min(), product.max()], rtol=1e-5)
    np.testing.assert_allclose(av.numpy(), [second.min(), second.max()], rtol=1e-3)


@pytest.mark.parametrize("cached", [0, 4])
@pytest.mark.parametrize("mask", [None, "bool", "additive"])
@pytest.mark.parametrize("gqa", [False, True])
def test_masks_caches_and_groups_of_heads(cached: int, mask: str | None, gqa: bool) -> None:
    rows, columns = 6, 6 + cached
    q = draw(2, 4, rows, 8)
    k, v = (draw(2, 2 if gqa else 4, columns, 8, seed=seed) for seed in (1, 2))
    visible = torch.ones(rows, columns, dtype=torch.bool).tril(cached)
    given = None
    if mask is not None:
        padding = torch.ones(2, 1, 1, columns, dtype=torch.bool)
        padding[1, ..., -2:] = False
        given = padding if mask == "bool" else torch.zeros(padding.shape).masked_fill(~padding, -math.inf)
        visible = visible & padding
    y = attention(q, k, v, given, is_causal=True, enable_gqa=gqa)
    expected = F.scaled_dot_product_attention(q, k, v, visible, enable_gqa=gqa)
    torch.testing.assert_close(y, expected, rtol=0, atol=5e-3)


def test_a_query_that_sees_nothing_gives_zero_and_a_finite_gradient() -> None:
    q, k = draw(1, 4, 8).requires_grad_(), draw(1, 4, 8, seed=1).requires_grad_()
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[2] = False
    y = attention(q, k, k.detach(), mask, levels=2**16)
    assert y[0, 2].abs().max() < 1e-3
    y.sum().backward()
    assert q.grad is not None
    assert q.grad.isfinite().all()
    later = attention(q.detach(), k.detach()[:, :2], k.detach()[:, :2], is_causal=True)
    assert later.isfinite().all()


def test_small_probabilities_need_a_range_for_each_row() -> None:
    q = torch.zeros(1, 2, 8)
    k, v = draw(1, 1024, 8), torch.full((1, 1024, 8), 0.5)
    ends = torch.tensor([-1.0, 1.0])
    results = {
        way: optical_attention(
            q, k, v, UNIT, UNIT, UNIT, UNIT, ends, levels=257, lut=None, noise="none", attn_range=way
        )[0]
        for way in ("unit", "row")
    }
    assert results["unit"].abs().max() == 0.0
    torch.testing.assert_close(results["row"], torch.full((1, 2, 8), 0.5), rtol=0, atol=2 / 256)


def test_dropout_is_reproducible_and_keeps_the_mean() -> None:
    q, k, v = draw(1, 200, 8), draw(1, 300, 8, seed=1), draw(1, 300, 8, seed=2)
    first = attention(q, k, v, dropout_p=0.3, seed=4, attn_range="row")
    assert torch.equal(first, attention(q, k, v, dropout_p=0.3, seed=4, attn_range="row"))
    assert not torch.equal(first, attention(q, k, v, dropout_p=0.3, seed=5, attn_range="row"))
    assert attention(q, k, v, dropout_p=1.0, seed=4).isfinite().all()
    v, wide = torch.ones(1, 300, 8), torch.tensor([-2.0, 3.0])
    y, *_ = optical_attention(q, k, v, span(q), span(k), WIDE, torch.tensor([0.0, 1.0]), wide, dropout_p=0.3, seed=4)
    assert float(y.mean()) == pytest.approx(1.0, abs=0.05)
    assert y.std() > 0.05


def test_the_two_products_of_attention_have_noise_of_their_own() -> None:
    q = draw(1, 8, 8)
    _ = optical_attention(q, q, q, UNIT, UNIT, WIDE, UNIT, UNIT, seed=2)
    scores, _ = optical_matmul(q, q.transpose(1, 2), UNIT, UNIT, WIDE, seed=2)
    weights = torch.softmax(scores / math.sqrt(8), -1)
    expected, _ = optical_matmul(weights, q, torch.tensor([0.0, 1.0]), UNIT, UNIT, seed=torch.tensor(2 + SEED_STEP))
    y, *_ = optical_attention(q, q, q, UNIT, UNIT, WIDE, UNIT, UNIT, seed=2)
    torch.testing.assert_close(y, expected, rtol=0, atol=1e-6)


def test_gradients_reach_all_three_operands() -> None:
    q, k, v = (draw(1, 2, 6, 8, seed=s).requires_grad_() for s in (0, 1, 2))
    attention(q, k, v, is_causal=True).square().sum().backward()
    actual = [t.grad.clone() for t in (q, k, v) if t.grad is not None]
    for t in (q, k, v):
        t.grad = None
    F.scaled_dot_product_attention(q, k, v, is_causal=True).square().sum().backward()
    for one, t in zip(actual, (q, k, v), strict=True):
        assert t.grad is not None
        torch.testing.assert_close(one, t.grad, rtol=0.02, atol=0.02)


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": 1}, "levels: got 1"),
        ({"levels": 2.0}, "levels"),
        ({"lut": 1.0}, "lut: got 1.0"),
        ({"lut": -0.1}, "lut"),
        ({"noise": "gauss"}, "noise: got 'gauss', expected one of 'dither'"),
        ({"noise": "shot"}, "photons: got None"),
        ({"noise": "shot", "photons": 0}, "photons: got 0"),
        ({"ste": "none"}, "ste: got 'none'"),
    ],
)
def test_impossible_settings_are_named(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        optical_quantize(draw(4), UNIT, **options)
    with pytest.raises(ValueError, match=message):
        optical_linear(draw(2, 4), draw(3, 4), None, UNIT, UNIT, UNIT, **options)


def test_wrong_operands_are_named() -> None:
    with pytest.raises(TypeError, match=r"optical_quantize\(x\): got a torch.int64 tensor"):
        optical_quantize(torch.ones(3, dtype=torch.int64), UNIT)
    with pytest.raises(ValueError, match=r"optical_quantize\(range\)"):
        optical_quantize(draw(3), torch.ones(3))
    with pytest.raises(ValueError, match=r"\(2, 4\) and \(3, 5\), expected \(..., K\)"):
        optical_linear(draw(2, 4), draw(3, 5), None, UNIT, UNIT, UNIT)
    with pytest.raises(ValueError, match=r"optical_linear\(bias\): got shape \(4,\)"):
        optical_linear(draw(2, 4), draw(3, 4), draw(4), UNIT, UNIT, UNIT)
    with pytest.raises(ValueError, match=r"optical_matmul\(a, b\)"):
        optical_matmul(draw(2, 4), draw(3, 4), UNIT, UNIT, UNIT)
    with pytest.raises(ValueError, match="attn_range"):
        attention(draw(2, 4), draw(2, 4), draw(2, 4), attn_range="column")
    with pytest.raises(ValueError, match="4 heads of query, 3 of key"):
        attention(draw(4, 2, 4), draw(3, 2, 4), draw(3, 2, 4), enable_gqa=True)
    assert OpticalNoise.parse(False) is OpticalNoise.NONE
