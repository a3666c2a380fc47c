"""The optical linear layer against an independent NumPy model of it, and against faults of published simulators."""

from __future__ import annotations

import copy
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.nn import DispatchSource, QuantizedLinear, compute_encodings
from quantsim.optical import OtLinear
from quantsim.quantization import affine
from quantsim.quantization.optical import OpticalQuantizeDequantize
from quantsim_encodings.encoding import OpticalEncoding
from quantsim_kernels.optical import optical_linear
from quantsim_kernels.registry import force_backend


def on_levels(x: np.ndarray, lo: float, hi: float, levels: int, lut: float | None = None) -> np.ndarray:
    """Float64 model of the levels and of the floor on magnitudes."""
    y = np.rint((np.clip(x, lo, hi) - lo) / (hi - lo + 1e-8) * (levels - 1)) / (levels - 1) * (hi - lo) + lo
    if lut is not None:
        y = np.where((y > 0) & (y < lut * hi), lut * hi, y)
        y = np.where((y < 0) & (y > -lut * abs(lo)), -lut * abs(lo), y)
    return y


def expected_accumulator(layer: OtLinear, x: Tensor, levels: int, lut: float | None = 0.02004) -> np.ndarray:
    weight = layer.weight.detach().numpy().astype(np.float64)
    values = x.detach().numpy().astype(np.float64)
    return (
        on_levels(values, values.min(), values.max(), levels)
        @ on_levels(weight, weight.min(), weight.max(), levels, lut).T
    )


def make(in_features: int = 40, out_features: int = 24, **settings: Any) -> tuple[OtLinear, Tensor]:
    torch.manual_seed(3)
    layer = OtLinear(in_features, out_features, **{"noise": "none", **settings})
    return layer, torch.randn(6, 5, in_features)


@pytest.mark.parametrize("in_features", [1, 40, 64, 129])
@pytest.mark.parametrize("levels", [16, 256])
def test_equals_the_independent_model_at_any_length(in_features: int, levels: int) -> None:
    """Also where the number of products is no multiple of a tile."""
    layer, x = make(in_features, 24, q_levels=levels)
    accumulator = expected_accumulator(layer, x, levels)
    step = (accumulator.max() - accumulator.min()) / (levels - 1)
    expected = on_levels(accumulator, accumulator.min(), accumulator.max(), levels) + layer.bias.detach().numpy()
    for mode in (True, False):
        result = layer.train(mode)(x).detach().numpy()
        difference = np.abs(result - expected)
        assert (difference > 0.5 * step).mean() <= 1e-3
        assert difference.max() <= 1.01 * step
    np.testing.assert_allclose(layer.output_quantizers[0].range, [accumulator.min(), accumulator.max()], rtol=1e-5)


def test_output_range_follows_the_accumulator_when_inputs_grow() -> None:
    """A range taken from the clipped output could never grow."""
    layer, x = make(bias=False)
    for _ in range(3):
        layer(x)
    for _ in range(60):
        layer(10 * x)
    with torch.no_grad():
        result, exact = layer.eval()(10 * x), F.linear(10 * x, layer.weight)
    assert float((result - exact).norm() / exact.norm()) < 0.02


@pytest.mark.parametrize("bias", [3.0, -50.0])
def test_output_range_does_not_know_the_bias(bias: float) -> None:
    """A range taken from the biased output wanders off to where no accumulator is."""
    layer, x = make()
    nn.init.constant_(layer.bias, bias)
    for _ in range(50):
        layer(x)
    exact = F.linear(x, layer.weight).detach()
    np.testing.assert_allclose(
        layer.output_quantizers[0].range.numpy(), [float(exact.min()), float(exact.max())], rtol=0.05
    )
    result = layer.eval()(x).detach() - bias
    assert float((result - exact).norm() / exact.norm()) < 0.02


def test_noise_is_independent_of_element_and_call_and_spares_operands() -> None:
    layer, _ = make(16, 512, noise="dither", q_init_seed=9)
    x = torch.randn(64, 16)
    layer(x)
    layer.eval()
    state = torch.get_rng_state()
    seed = layer.output_quantizers[0].seed.clone()
    with torch.no_grad():
        first, second = layer(x), layer(x)
    assert torch.equal(torch.get_rng_state(), state)
    assert int(layer.output_quantizers[0].seed) != int(seed)
    low, high = layer.output_quantizers[0].range.tolist()
    step = (high - low) / 255
    quiet = copy.deepcopy(layer)
    quiet.output_quantizers[0] = OpticalQuantizeDequantize()
    quiet.output_quantizers[0].set_range(low, high)
    exact = quiet.eval()(x).detach()
    steps = ((first - exact) / step).round()
    assert set(steps.unique().tolist()) == {-1.0, 0.0, 1.0}
    assert 0.2 < float((steps != 0).float().mean()) < 0.3  # a dithered value moves by a level in 1 of 4 cases
    assert abs(float(steps.mean())) < 0.02
    other = ((second - exact) / step).round()
    assert 0.28 < float((steps != other).float().mean()) < 0.38  # 1 in 3 if the calls are independent
    neighbours = torch.stack([steps[:, 1:].flatten(), steps[:, :-1].flatten()])
    assert abs(float(torch.corrcoef(neighbours)[0, 1])) < 0.03
    layer.output_quantizers[0].seed.copy_(seed)
    assert torch.equal(layer(x), first)


def test_evaluation_without_ranges_names_the_module() -> None:
    layer = OtLinear(4, 2).eval()
    with pytest.raises(NotCalibratedError, match=r"OtLinear\.input_quantizers\[0\]"):
        layer(torch.ones(1, 4))
    layer.module_path = "encoder.fc"
    with pytest.raises(NotCalibratedError, match=r"encoder\.fc\.input_quantizers\[0\]"):
        layer(torch.ones(1, 4))


def test_evaluation_moves_no_range() -> None:
    layer, x = make()
    layer(x)
    before = {name: value.clone() for name, value in layer.state_dict().items() if name.endswith("range")}
    assert len(before) == 3
    layer.eval()(100 * x)
    assert all(torch.equal(layer.state_dict()[name], value) for name, value in before.items())


class _HostReads(TorchDispatchMode):
    """Counts what would make the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in (
            torch.ops.aten._local_scalar_dense.default,
            torch.ops.aten.is_nonzero.default,
            torch.ops.aten.equal.default,
            torch.ops.aten.nonzero.default,
        ):
            self.count += 1
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("quantiles", [None, (0.001, 0.999)])
def test_no_step_waits_for_the_device(quantiles: tuple[float, float] | None) -> None:
    layer, x = make(noise="dither", q_quantiles=quantiles)
    # The CPU's own kernel reads ranges, for which nothing waits there; the definition is what other devices run.
    with force_backend("reference"), _HostReads() as reads:
        layer(x).sum().backward()
        layer(x).sum().backward()
    assert reads.count == 0
    layer.eval()
    layer(x)
    with force_backend("reference"), _HostReads() as reads:
        layer(x)
    assert reads.count == 0


def test_gradients_are_those_of_the_float_layer() -> None:
    layer, x = make(noise="dither")
    inputs = x.clone().requires_grad_()
    layer(inputs).square().mul(0.5).sum().backward()
    upstream = layer(x).detach()
    assert layer.weight.grad is not None
    assert inputs.grad is not None
    assert upstream.shape == (6, 5, 24)
    layer.zero_grad()
    inputs = x.clone().requires_grad_()
    upstream = torch.randn(6, 5, 24)
    layer(inputs).backward(upstream)
    torch.testing.assert_close(inputs.grad, upstream @ layer.weight.detach(), rtol=1e-5, atol=1e-5)
    expected = upstream.flatten(0, 1).t() @ x.flatten(0, 1)
    torch.testing.assert_close(layer.weight.grad, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.bias.grad, upstream.sum((0, 1)), rtol=1e-5, atol=1e-5)


def test_bypass_is_exactly_linear() -> None:
    layer, x = make(q_bypass=True)
    assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert torch.equal(layer.eval()(x), F.linear(x, layer.weight, layer.bias))
    assert torch.isnan(layer.input_quantizers[0].range).all()
    layer.q_bypass = False
    assert not torch.equal(layer.train()(x), F.linear(x, layer.weight, layer.bias))


def test_one_default_for_quantiles() -> None:
    layer = OtLinear(4, 4)
    assert {each.quantiles for each in layer._quantizers()} == {None}
    quantiles = (0.01, 0.99)
    layer, x = make(q_quantiles=quantiles)
    layer(x)
    np.testing.assert_allclose(layer.input_quantizers[0].range, np.quantile(x, quantiles), rtol=1e-5)
    np.testing.assert_allclose(
        layer.param_quantizers["weight"].range, np.quantile(layer.weight.detach(), quantiles), rtol=1e-5
    )


def test_calibration_sets_the_ranges_of_training_without_training() -> None:
    trained, x = make(noise="dither")
    calibrated = copy.deepcopy(trained).eval()
    for scale in (1.0, 3.0):
        trained(scale * x)
    with compute_encodings(calibrated) as report:
        for scale in (1.0, 3.0):
            calibrated(scale * x)
    assert len(report.calibrated) == 2
    for one, other in zip(trained._quantizers(), calibrated._quantizers(), strict=True):
        torch.testing.assert_close(one.range, other.range, rtol=1e-5, atol=1e-6)
    with pytest.raises(ZeroDivisionError), compute_encodings(calibrated):
        calibrated(100 * x)
        raise ZeroDivisionError
    torch.testing.assert_close(calibrated.input_quantizers[0].range, trained.input_quantizers[0].range)


def test_ranges_and_seed_survive_saving() -> None:
    layer, x = make(noise="dither", q_init_seed=5)
    for _ in range(3):
        layer(x)
    layer.eval()
    other = OtLinear(40, 24)
    other.load_state_dict(layer.state_dict())
    for copied in (other.eval(), copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        fresh = copy.deepcopy(layer)
        assert torch.equal(copied(x), fresh(x))


def test_quantizer_by_quantizer_gives_the_same_numbers() -> None:
    for noise in ("none", "dither"):
        layer, x = make(noise=noise)
        layer(x)
        layer.eval()
        other = copy.deepcopy(layer)
        other.input_quantizers[0].register_forward_hook(lambda *_: None)  # its forward has to run
        low, high = layer.output_quantizers[0].range.tolist()
        difference = (layer(x) - other(x)).detach().abs() / ((high - low) / 255)
        assert float((difference > 0.5).float().mean()) <= 1e-3
        assert float(difference.max()) <= 1.01
        assert "kernel of the registry" in str(layer.explain_dispatch())
        assert other.explain_dispatch().source is DispatchSource.FAKE_QUANTIZATION


def test_other_quantizers_can_stand_in_its_containers() -> None:
    layer, x = make()
    layer.input_quantizers[0] = affine.QuantizeDequantize((), bitwidth=8, symmetric=False)
    layer.output_quantizers[0] = None
    with compute_encodings(layer):
        layer(x)
    with torch.no_grad():
        result, exact = layer.eval()(x), F.linear(x, layer.weight, layer.bias)
    assert float((result - exact).norm() / exact.norm()) < 0.03


def test_a_kernel_of_ones_own() -> None:
    calls = []

    def kernel(*args: Any, **kwargs: Any) -> Any:
        calls.append(args)
        return optical_linear(*args, **kwargs)

    layer, x = make()
    layer.set_kernel(kernel)
    layer(x)
    layer.eval()(x)
    assert len(calls) == 2
    assert layer.explain_dispatch().source is DispatchSource.INSTANCE


def test_encodings_go_out_and_in() -> None:
    layer, x = make(noise="dither")
    layer(x)
    inputs, outputs = layer.export_input_encodings(), layer.export_output_encodings()
    params = layer.export_param_encodings()
    assert isinstance(inputs[0], OpticalEncoding)
    assert params["weight"].format.lut == pytest.approx(0.02004)
    other = OtLinear(40, 24).eval()
    with torch.no_grad():
        other.weight.copy_(layer.weight)
        assert other.bias is not None
        other.bias.copy_(layer.bias)
    other.import_input_encodings(inputs)
    other.import_output_encodings(outputs)
    other.import_param_encodings(params)
    assert torch.equal(other(x), layer.eval()(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_from_linear_keeps_what_the_layer_has(dtype: torch.dtype) -> None:
    linear = nn.Linear(8, 4, bias=dtype is not torch.float16, dtype=dtype).eval()
    linear.weight.requires_grad_(False)
    state = torch.get_rng_state()
    layer = OtLinear.from_linear(linear, q_levels=64)
    assert torch.equal(torch.get_rng_state(), state)
    assert isinstance(layer, QuantizedLinear)
    assert not layer.training
    assert torch.equal(layer.weight, linear.weight)
    assert layer.weight is not linear.weight
    assert not layer.weight.requires_grad
    assert (layer.bias is None) == (linear.bias is None)
    assert layer.weight.dtype == dtype
    result = layer.train()(torch.randn(3, 8, dtype=dtype))
    assert result.dtype == dtype
    shared = OtLinear.from_linear(linear, share_parameters=True)
    assert shared.weight is linear.weight
    assert type(shared.get_original_module()) is nn.Linear


def test_shared_parameters_stay_tied_and_hooks_come_along() -> None:
    embedding, linear = nn.Embedding(6, 8), nn.Linear(8, 6, bias=False)
    linear.weight = embedding.weight
    calls: list[int] = []
    linear.register_forward_hook(lambda *_: calls.append(1))
    layer = OtLinear.from_linear(linear, share_parameters=True)
    assert layer.weight is embedding.weight
    layer(torch.randn(2, 8))
    assert calls == [1]
    assert list(linear._modules) == []
    assert list(linear._buffers) == []


def test_from_linear_on_meta() -> None:
    layer = OtLinear.from_linear(nn.Linear(8, 4, device="meta"))
    assert layer.weight.is_meta
    assert layer.input_quantizers[0].range.is_meta
    assert layer(torch.empty(2, 8, device="meta")).shape == (2, 4)
    layer.to_empty(device="cpu")
    nn.init.ones_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    assert torch.isfinite(layer(torch.randn(2, 8))).all()


def test_from_linear_refuses_what_is_no_linear() -> None:
    class Own(nn.Linear):
        def forward(self, input: Tensor) -> Tensor:
            return input

    for module in (nn.Conv2d(1, 1, 1), Own(2, 2), OtLinear(2, 2), nn.LazyLinear(3)):
        with pytest.raises(ConfigurationError, match=r"OtLinear\.from_linear"):
            OtLinear.from_linear(module)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ConfigurationError, match="q_level"):
        OtLinear.from_linear(nn.Linear(2, 2), q_level=3)
    with pytest.raises(ConfigurationError, match=r"^OtLinear: .*q_levels"):
        OtLinear(2, 2, q_levels=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_accumulates_in_float32(dtype: torch.dtype) -> None:
    """4096 products of nearly one: a half-precision sum would stop growing or lose the small ones."""
    torch.manual_seed(0)
    layer = OtLinear(4096, 8, bias=False, q_lut_min=None, q_levels=2**16, noise="none", dtype=dtype)
    nn.init.uniform_(layer.weight, 0.5, 1.0)
    x = torch.rand(16, 4096, dtype=dtype)
    layer(x)
    exact = x.double() @ layer.weight.double().t()
    ends = torch.stack([exact.min(), exact.max()])
    torch.testing.assert_close(layer.output_quantizers[0].range.double(), ends, rtol=1e-4, atol=0)


def test_bad_batch_leaves_the_ranges_alone() -> None:
    layer, x = make()
    layer(x)
    before = [each.range.clone() for each in layer._quantizers()]
    layer(torch.full_like(x, math.nan))
    assert all(torch.equal(each.range, old) for each, old in zip(layer._quantizers(), before, strict=True))
    layer(x[:0])
    assert all(torch.equal(each.range, old) for each, old in zip(layer._quantizers(), before, strict=True))


def test_static_errors_multiply_the_weights() -> None:
    layer, x = make(q_levels=2**16, q_lut_min=None)
    factors = 1 + 0.1 * torch.randn(24, 40)
    layer.set_error_map(factors)
    expected = F.linear(x, layer.weight * factors, layer.bias)
    torch.testing.assert_close(layer(x), expected, rtol=1e-2, atol=2e-3)
    torch.testing.assert_close(layer.eval()(x), expected, rtol=1e-2, atol=2e-3)
    assert "error_map" in layer.state_dict()
    for wrong in (torch.ones(3, 3), torch.full((24, 40), math.nan)):
        with pytest.raises(ConfigurationError, match="set_error_map"):
            layer.set_error_map(wrong)
    layer.train().set_error_map(None)
    assert "error_map" not in layer.state_dict()
    assert float((layer(x) - F.linear(x, layer.weight, layer.bias)).detach().abs().median()) < 2e-3


def test_compiles_and_exports_whole() -> None:
    layer, x = make()
    layer(x)
    layer.eval()
    expected = layer(x)
    low, high = layer.output_quantizers[0].range.tolist()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    exported = torch.export.export(layer, (x,)).module()(x)
    for result in (compiled, exported):
        assert float((result - expected).detach().abs().max()) <= 1.01 * (high - low) / 255


@pytest.mark.parametrize("way", ["training", "kernel", "quantizers"])
def test_shot_noise_counts_photons_of_every_product(way: str) -> None:
    """Outputs of K products at full scale F: the variance of y is |y| F / (photons K)."""
    torch.manual_seed(0)
    layer = OtLinear(50, 1, False, q_levels=2**20, q_lut_min=None, noise="shot", photons=2.0)
    nn.init.ones_(layer.weight)
    x = torch.rand(1, 50).repeat(20000, 1)
    with compute_encodings(layer):
        layer(torch.cat([torch.zeros(1, 50), torch.ones(1, 50), x]))
    layer.param_quantizers["weight"].set_range(0.0, 1.0)
    layer.eval()
    if way == "training":
        layer.train()
        for quantizer in layer._quantizers()[:2]:
            quantizer.eval()
        x = torch.cat([torch.zeros(1, 50), torch.ones(1, 50), x])
    elif way == "quantizers":
        layer.input_quantizers[0].register_forward_hook(lambda *_: None)
    result = layer(x).detach()[-20000:]
    signal = float(x[-1].sum())
    expected = math.sqrt(signal * 50.0 / (2.0 * 50))
    # Noise beyond the ends is clipped; half-way there is little of it.
    assert float(result.std()) == pytest.approx(expected, rel=0.03)
    assert float(result.mean()) == pytest.approx(signal, rel=0.01)
