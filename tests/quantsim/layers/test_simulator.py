from __future__ import annotations

import copy
import pickle
from typing import Any

import ml_dtypes
import numpy
import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.layers.simulator import FloatPrecisionSimulator
from quantsim.nn import QuantizedLinear
from quantsim_encodings.formats import RoundingMode


@pytest.mark.parametrize(
    ("widths", "dtype"),
    [
        ((5, 10), numpy.float16),
        ((8, 7), ml_dtypes.bfloat16),
        ((5, 2), ml_dtypes.float8_e5m2),
        ((4, 3), ml_dtypes.float8_e4m3),
        ((3, 4), ml_dtypes.float8_e3m4),
    ],
)
def test_nearest_is_that_of_ml_dtypes(widths: tuple[int, int], dtype: Any) -> None:
    x = torch.cat((torch.randn(20_000) * 2.0 ** torch.randint(-20, 20, (20_000,)), torch.tensor([0.0, -0.0, 1e9])))
    with numpy.errstate(over="ignore"):
        wanted = torch.from_numpy(x.numpy().astype(dtype).astype(numpy.float32))
    got = FloatPrecisionSimulator(*widths, 1)(x)
    assert torch.equal(got, wanted) and torch.equal(got.signbit(), wanted.signbit())


def test_widest_format_is_the_identity() -> None:
    x = torch.randn(100)
    assert torch.equal(FloatPrecisionSimulator(8, 23)(x), x)


@pytest.mark.parametrize("mode", RoundingMode)
def test_every_rounding_mode_by_number_and_name(mode: RoundingMode) -> None:
    x = torch.randn(50)
    results = [FloatPrecisionSimulator(4, 3, rmode, seed=2)(x) for rmode in (mode.number, mode.value)]
    assert torch.equal(*results)
    assert (results[0] - x).abs().max() <= 2.0**-3 * x.abs().max()


def test_overflow_and_subnormals() -> None:
    x = torch.tensor([1e6, -1e6, 1e-5])
    assert FloatPrecisionSimulator(5, 2)(x).tolist() == [torch.inf, -torch.inf, 2.0**-16]
    assert FloatPrecisionSimulator(5, 2, saturate=True, subnormal=False)(x).tolist() == [57344.0, -57344.0, 0.0]
    assert FloatPrecisionSimulator(5, 2, "toward_zero")(x).tolist() == [57344.0, -57344.0, 0.0]


def test_gradient_passes_or_is_cast() -> None:
    x, gradient = torch.randn(8, requires_grad=True), torch.randn(8)
    FloatPrecisionSimulator(4, 3).quantize(x).backward(gradient)
    assert x.grad is not None and torch.equal(x.grad, gradient)
    x.grad = None
    FloatPrecisionSimulator(4, 3, gradient_format="e5m2")(x).backward(gradient)
    assert x.grad is not None and torch.equal(x.grad, gradient.to(torch.float8_e5m2).float())


@pytest.mark.parametrize("arguments", [{}, {"exp_bits": 0, "sig_bits": 3}, {"format": "mxfp4"}, {"format": "nothing"}])
def test_impossible_formats(arguments: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError):
        FloatPrecisionSimulator(**arguments)


def test_copies_continue_the_same_noise() -> None:
    simulator = FloatPrecisionSimulator(4, 3, "stochastic", seed=1)
    x = torch.rand(100)
    simulator(x)
    twins = [copy.deepcopy(simulator), pickle.loads(pickle.dumps(simulator)), FloatPrecisionSimulator(4, 3, 5)]
    twins[2].load_state_dict(simulator.state_dict())
    wanted = simulator(x)
    for twin in twins:
        assert torch.equal(twin(x), wanted)


def test_it_is_a_quantizer() -> None:
    linear = QuantizedLinear(4, 2)
    linear.input_quantizers[0] = simulator = FloatPrecisionSimulator(4, 3, 4, saturate=True)
    x = torch.randn(3, 4)
    assert torch.equal(linear(x), torch.nn.functional.linear(simulator(x), linear.weight, linear.bias))
    encoding = simulator.get_encodings()
    assert encoding is not None
    again = FloatPrecisionSimulator.from_encodings(encoding)
    assert torch.equal(again(x), simulator(x)) and again.saturate
    with pytest.raises(TypeError, match="without a scale"):
        FloatPrecisionSimulator.from_encodings(object())  # pyright: ignore[reportArgumentType]
