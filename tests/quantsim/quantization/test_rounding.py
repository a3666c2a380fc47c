from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor

from quantsim.errors import ConfigurationError
from quantsim.quantization import affine
from quantsim.quantization.float import DynamicFloatQuantizeDequantize, FloatQuantizeDequantize
from quantsim_encodings.formats import RoundingMode
from quantsim_kernels import float_cast, rounding_noise

KINDS: dict[str, Any] = {
    "cast": lambda **options: FloatQuantizeDequantize(format="e4m3fn", scaled=False, **options),
    "scaled": lambda **options: _with_range(FloatQuantizeDequantize(format="e4m3fn", **options)),
    "dynamic": lambda **options: DynamicFloatQuantizeDequantize(format="e4m3fn", **options),
}


def _with_range(quantizer: FloatQuantizeDequantize) -> FloatQuantizeDequantize:
    quantizer.set_range(2.0)
    return quantizer


@pytest.fixture(params=KINDS)
def make(request: pytest.FixtureRequest) -> Any:
    return KINDS[request.param]


@pytest.fixture
def x() -> Tensor:
    return torch.randn(4, 128, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("mode", RoundingMode)
def test_every_mode_by_number_name_and_value(make: Any, mode: RoundingMode, x: Tensor) -> None:
    quantizers = [make(rounding=spelling, seed=1) for spelling in (mode, mode.value, mode.number)]
    results = [quantizer(x).detach() for quantizer in quantizers]
    assert all(torch.equal(result, results[0]) for result in results)
    assert {quantizer.rounding for quantizer in quantizers} == {mode}
    assert {quantizer.is_stochastic for quantizer in quantizers} == {mode.is_stochastic}
    assert all(("seed" in quantizer.state_dict()) == mode.is_stochastic for quantizer in quantizers)
    assert (mode is RoundingMode.NEAREST_EVEN) == ("rounding" not in repr(quantizers[0]))


def test_the_modes_differ(make: Any, x: Tensor) -> None:
    results = [make(rounding=mode, seed=1)(x).detach() for mode in ("nearest_even", "up", "down", "toward_zero", "odd")]
    assert len({tuple(result.flatten().tolist()) for result in results}) == len(results)


def test_the_noise_is_that_of_the_seed_and_moves_on(x: Tensor) -> None:
    quantizer = KINDS["cast"](rounding="stochastic", seed=9)
    seeds = []
    for _ in range(3):
        seed = quantizer.current_seed()
        seeds.append(int(seed))
        assert torch.equal(quantizer(x), float_cast(x, "e4m3fn", "stochastic", seed=seed))
    assert seeds[0] == 9
    assert len(set(seeds)) == 3
    noise = [rounding_noise(x.shape, seed) for seed in seeds]
    assert all(
        abs(torch.corrcoef(torch.stack([noise[0], other]).flatten(1).double())[0, 1]) < 0.2 for other in noise[1:]
    )


def test_stochastic_rounding_is_unbiased_over_calls(make: Any) -> None:
    x = torch.linspace(1.0, 1.125, 9).repeat(4, 1)
    quantizer = make(rounding="stochastic", seed=2)
    if quantizer.needs_calibration and quantizer.is_scaled:
        quantizer.set_range(448.0)
    elif not quantizer.needs_calibration:
        x = torch.cat([x, torch.full((4, 1), 448.0)], 1)
    mean = torch.stack([quantizer(x).detach() for _ in range(3000)]).mean(0)
    # One draw deviates by at most half of the spacing, 1/8.
    assert (mean - x).abs().max() < 5 * (0.125 / 2) / 3000**0.5


def test_two_quantizers_have_different_noise_and_a_seed_makes_it_equal(make: Any, x: Tensor) -> None:
    first, second = make(rounding="stochastic"), make(rounding="stochastic")
    assert not torch.equal(first(x), second(x))
    first, second = make(rounding="stochastic", seed=-1), make(rounding="stochastic", seed=2**64 - 1)
    assert torch.equal(first(x), second(x))


def test_torchs_generator_is_not_touched(make: Any, x: Tensor) -> None:
    state = torch.get_rng_state()
    quantizer = make(rounding="stochastic_equal")
    quantizer(x)
    quantizer(x)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))], ids=["copy", "pickle"]
)
def test_copies_go_on_with_the_same_noise(make: Any, copied: Any, x: Tensor) -> None:
    quantizer = make(rounding="stochastic")
    quantizer(x)
    twin = copied(quantizer)
    for _ in range(2):
        assert torch.equal(twin(x), quantizer(x))


@pytest.mark.parametrize(("before", "after"), [("nearest_even", "stochastic"), ("stochastic", "up"), ("odd", "odd")])
def test_a_state_dict_brings_mode_and_noise(make: Any, before: str, after: str, x: Tensor) -> None:
    source, target = make(rounding=after), make(rounding=before)
    source(x)
    state = copy.deepcopy(source.state_dict())
    assert all(isinstance(value, Tensor) for value in state.values())  # safetensors holds nothing else
    target.load_state_dict(state)
    assert target.rounding is source.rounding
    assert set(target.state_dict()) == set(state)
    assert torch.equal(target(x), source(x))


def test_a_state_dict_of_tensors_only_leaves_the_mode(x: Tensor) -> None:
    quantizer = KINDS["scaled"](rounding="stochastic", seed=4)
    quantizer.load_state_dict({"maxval": torch.tensor(3.0)})
    assert (quantizer.rounding, int(quantizer.seed)) == (RoundingMode.STOCHASTIC, 4)


def test_the_seed_survives_types_and_devices(x: Tensor) -> None:
    quantizer = KINDS["cast"](rounding="stochastic", seed=7)
    quantizer(x)
    assert quantizer.half().seed.dtype is torch.int64
    quantizer.to("meta")
    assert quantizer(x.to("meta")).shape == x.shape
    quantizer.to_empty(device="cpu")
    assert int(quantizer.seed) == 7  # memory without contents is no seed: it starts again


@pytest.mark.parametrize("kind", ["cast", "dynamic"])
def test_made_in_inference_mode_it_still_advances(kind: str, x: Tensor) -> None:
    with torch.inference_mode():
        quantizer = KINDS[kind](rounding="stochastic", seed=1)
        first = quantizer(x)
    assert not torch.equal(quantizer(x), first)


def test_fused_kernels_may_take_the_noise(x: Tensor) -> None:
    quantizer, twin = (KINDS["cast"](rounding="stochastic", seed=1) for _ in range(2))
    assert int(quantizer.current_seed()) == int(quantizer.current_seed()) == 1
    quantizer.advance_seed()
    twin(x)
    assert torch.equal(quantizer(x), twin(x))
    nearest = KINDS["cast"]()
    nearest.advance_seed()
    assert nearest.current_seed() is None


def test_the_gradient_is_that_of_the_same_noise(x: Tensor) -> None:
    """The scale's gradient holds what was rounded, so the backward must see the forward's noise."""
    quantizer = KINDS["scaled"](rounding="stochastic", seed=3)
    quantizer.set_range(100.0)
    with torch.no_grad():
        scale = float(quantizer.get_scale())
        rounded = copy.deepcopy(quantizer)(x)
    quantizer(x).sum().backward()
    expected = ((rounded - x) / scale).sum() / quantizer.format.max
    torch.testing.assert_close(quantizer.maxval.grad, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
def test_compiled_and_exported_advance_too(make: Any, x: Tensor) -> None:
    torch._dynamo.reset()
    twin = make(rounding="stochastic", seed=8)
    # Each of its own module: what is exported shares its buffers with the module.
    exported = torch.export.export(copy.deepcopy(twin), (x,), strict=False).module()
    compiled = torch.compile(copy.deepcopy(twin), fullgraph=True, backend="aot_eager")
    for _ in range(3):
        expected = twin(x).detach()
        assert torch.equal(compiled(x).detach(), expected)
        assert torch.equal(exported(x).detach(), expected)


def test_other_quantizers_are_not_stochastic() -> None:
    assert not affine.QuantizeDequantize(shape=(), bitwidth=8, symmetric=True).is_stochastic


@pytest.mark.parametrize("options", [{"rounding": "sideways"}, {"rounding": 10}, {"rounding": None}])
def test_an_unknown_mode_lists_them(make: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        make(**options)
    for words in ("rounding", "0 nearest_odd", "9 odd", "towards_zero"):
        assert words in str(caught.value)


@pytest.mark.parametrize("seed", [1.5, "1", True])
def test_a_seed_is_an_integer(make: Any, seed: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"seed.*no integer"):
        make(rounding="stochastic", seed=seed)
