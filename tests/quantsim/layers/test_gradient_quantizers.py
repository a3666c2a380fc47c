from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from quantsim.layers.gradient_quantizers import (
    FloatGradientQuantizeDequantize,
    GradientPrecision,
    MXGradientQuantizeDequantize,
)
from quantsim.layers.settings import FloatPrecisionSettings
from quantsim.quantization.float import FloatQuantizeDequantize
from quantsim.quantization.mx import MXQuantizeDequantize
from quantsim_encodings.formats import RoundingMode, float_format

E5M2 = GradientPrecision(float_format("e5m2"))
STOCHASTIC = GradientPrecision(float_format("e5m2"), RoundingMode.STOCHASTIC)


def gradient_through(quantizer: Any, x: Tensor, gradient: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    quantizer(x).backward(gradient)
    assert x.grad is not None
    return x.grad


@pytest.mark.parametrize(
    ("made", "plain"),
    [
        (
            FloatGradientQuantizeDequantize(gradient=E5M2, format="e4m3", scaled=False),
            FloatQuantizeDequantize(format="e4m3", scaled=False),
        ),
        (MXGradientQuantizeDequantize(gradient=E5M2, format="mxfp4"), MXQuantizeDequantize(format="mxfp4")),
    ],
    ids=["float", "mx"],
)
def test_forward_is_the_plain_quantizer_and_the_gradient_is_cast(made: Any, plain: Any) -> None:
    x, gradient = torch.randn(4, 64), torch.randn(4, 64)
    assert torch.equal(made(x), plain(x))
    got = gradient_through(made, x, gradient)
    assert torch.equal(got, gradient.to(torch.float8_e5m2).float())
    assert not torch.equal(got, gradient)
    assert torch.equal(gradient_through(plain, x, gradient), gradient)


def test_overflow_and_subnormals_of_gradients() -> None:
    large = torch.tensor([1e6, -1e6, 1e-5])
    for saturate, subnormal, wanted in [
        (None, True, [torch.inf, -torch.inf, 2.0**-16]),
        (True, False, [57344.0, -57344.0, 0.0]),
    ]:
        precision = GradientPrecision(float_format("e5m2"), saturate=saturate, subnormal=subnormal)
        quantizer = FloatGradientQuantizeDequantize(gradient=precision, format="fp16", scaled=False)
        assert gradient_through(quantizer, torch.ones(3), large).tolist() == wanted


def test_fp32_passes_every_dtype_through() -> None:
    quantizer = FloatGradientQuantizeDequantize(gradient=E5M2, format="fp32", scaled=False)
    x = torch.randn(5, dtype=torch.float64)
    assert quantizer(x) is x
    assert torch.equal(quantizer(x.requires_grad_()), x)
    x = x.detach()
    assert torch.equal(gradient_through(quantizer, x, x), x.to(torch.float8_e5m2).double())


def test_without_a_gradient_format_nothing_is_added() -> None:
    quantizer = FloatGradientQuantizeDequantize(format="e4m3", scaled=False)
    gradient = torch.randn(6)
    assert torch.equal(gradient_through(quantizer, torch.randn(6), gradient), gradient)
    assert "gradient" not in quantizer.extra_repr()
    assert GradientPrecision.of(FloatPrecisionSettings(4, 3)) is None


def test_stochastic_gradients_are_unbiased_and_independent_of_the_forward_noise() -> None:
    quantizer = FloatGradientQuantizeDequantize(
        gradient=STOCHASTIC, format="e5m2", rounding="stochastic", scaled=False, seed=1
    )
    # 1.1 lies 0.4 of the way from 1 to 1.25, forward and backward.
    x = torch.full((200_000,), 1.1, requires_grad=True)
    y = quantizer(x)
    y.backward(torch.full_like(x, 1.1))
    assert x.grad is not None
    up_forward, up_backward = (y.detach() == 1.25), (x.grad == 1.25)
    assert set(x.grad.unique().tolist()) == {1.0, 1.25}
    spread = (0.4 * 0.6 / len(x)) ** 0.5
    assert abs(up_backward.double().mean() - 0.4) < 5 * spread
    both = (up_forward & up_backward).double().mean()
    assert abs(both - 0.16) < 5 * (0.16 * 0.84 / len(x)) ** 0.5


def test_noise_of_gradients_differs_between_calls_and_repeats_with_the_seed() -> None:
    def made(format: str) -> FloatGradientQuantizeDequantize:
        return FloatGradientQuantizeDequantize(
            gradient=STOCHASTIC, format=format, rounding="stochastic", scaled=False, seed=5
        )

    x = torch.rand(1000)
    for format in ("fp32", "e4m3"):
        quantizer = made(format)
        first, second = gradient_through(quantizer, x, x), gradient_through(quantizer, x, x)
        assert not torch.equal(first, second)
        assert torch.equal(gradient_through(made(format), x, x), first)


def test_global_random_numbers_are_left_alone() -> None:
    x, before = torch.rand(9), torch.get_rng_state()
    quantizer = FloatGradientQuantizeDequantize(gradient=STOCHASTIC, format="e4m3", rounding="stochastic", scaled=False)
    gradient_through(quantizer, x, x)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("format", ["fp32", "e4m3"])
def test_compiled_noise_is_that_of_eager(format: str) -> None:
    quantizer = FloatGradientQuantizeDequantize(
        gradient=STOCHASTIC, format=format, rounding="stochastic", scaled=False, seed=5
    )
    twin = copy.deepcopy(quantizer)
    torch._dynamo.reset()

    def twice(module: Any, x: Tensor) -> Tensor:
        # Two calls before the backward: each has noise of its own.
        return module(module(x) * 1.01)

    x, gradient = torch.rand(64), torch.rand(64)
    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        wanted = gradient_through(lambda value: twice(twin, value), x, gradient)
        assert torch.equal(gradient_through(lambda value: compiled(quantizer, value), x, gradient), wanted)
        assert torch.equal(quantizer.seed, twin.seed)


def test_copies_and_state_dicts_keep_the_gradients_format() -> None:
    quantizer = FloatGradientQuantizeDequantize(
        gradient=GradientPrecision(float_format("e5m2"), RoundingMode.TOWARD_ZERO, True, False),
        format="e4m3",
        scaled=False,
    )
    for twin in (copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
        assert twin.gradient_precision == quantizer.gradient_precision
    other = FloatGradientQuantizeDequantize(format="e5m10", scaled=False)
    other.load_state_dict(quantizer.state_dict())
    assert other.gradient_precision == quantizer.gradient_precision
    assert other.format == quantizer.format
    assert "gradient=e5m2 toward_zero" in repr(other)


def test_encodings_say_the_forward_format() -> None:
    quantizer = FloatGradientQuantizeDequantize(gradient=E5M2, format="e4m3", scaled=False)
    encoding = quantizer.get_encodings()
    assert encoding is not None and encoding.format == float_format("e4m3")
    again = FloatGradientQuantizeDequantize.from_encodings(encoding)
    assert again.format == quantizer.format and again.gradient_precision is None


@pytest.mark.parametrize("format", ["fp32", "e4m3"])
def test_results_may_be_overwritten(format: str) -> None:
    quantizer = FloatGradientQuantizeDequantize(gradient=E5M2, format=format, scaled=False)
    gradient = torch.randn(6)
    got = gradient_through(lambda x: quantizer(x).relu_(), torch.ones(6), gradient)
    assert torch.equal(got, gradient.to(torch.float8_e5m2).float())
