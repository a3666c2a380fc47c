"""What a person gets wrong, and that the error says which module, what was got, what was expected, and how to mend
it."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from torch import nn

import quantsim.nn
from quantsim.errors import NonFiniteError, NotCalibratedError, QuantsimError, UnknownModuleError
from quantsim.quantization import affine
from quantsim.sim import QuantizationSimModel, SimulationConfig


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)).eval()


def simulation() -> QuantizationSimModel:
    return QuantizationSimModel(network(), torch.randn(2, 4), config="w8a8")


def text_of(error: BaseException) -> str:
    return str(error)


def assert_says(error: BaseException, *words: str) -> None:
    for word in words:
        assert word.lower() in text_of(error).lower(), f"{word!r} is not in: {error}"


def snapshot(model: nn.Module) -> dict[str, object]:
    return copy.deepcopy(dict(model.state_dict()))


def assert_unchanged(model: nn.Module, before: dict[str, object]) -> None:
    after = dict(model.state_dict())
    assert after.keys() == before.keys()
    for name, value in after.items():
        other = before[name]
        if isinstance(value, torch.Tensor) and isinstance(other, torch.Tensor):
            assert torch.equal(value.nan_to_num(), other.nan_to_num()), name
        else:
            assert value == other, name


def test_an_uncalibrated_simulation_names_its_quantizers() -> None:
    sim = simulation()
    with pytest.raises(NotCalibratedError) as caught:
        sim(torch.randn(2, 4))
    assert_says(caught.value, "0.input_quantizers[0]", "compute_encodings")


def test_a_module_used_uncalibrated_inside_the_model_names_itself() -> None:
    sim = simulation()
    with pytest.raises(NotCalibratedError) as caught:
        sim.model(torch.randn(2, 4))
    assert_says(caught.value, "input_quantizers[0]", "compute_encodings")


def test_a_lone_uncalibrated_quantizer() -> None:
    with pytest.raises(NotCalibratedError) as caught:
        affine.QuantizeDequantize((), 8, True)(torch.randn(3))
    assert_says(caught.value, "QuantizeDequantize", "compute_encodings")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_non_finite_value_in_calibration_names_module_and_count(value: float) -> None:
    sim = simulation()
    with torch.no_grad(), sim.compute_encodings():
        sim.model(torch.randn(8, 4))
    before = snapshot(sim.model)
    bad = torch.randn(8, 4)
    bad[1, 2] = bad[3, 0] = value
    with pytest.raises(NonFiniteError) as caught, torch.no_grad(), sim.compute_encodings():
        sim.model(torch.randn(8, 4) * 100)
        sim.model(bad)
    assert_says(caught.value, "0.input_quantizers[0]", "2", "nan" if value != value else "inf", "ignore")
    assert_unchanged(sim.model, before)
    # And the simulation is usable, not stuck in calibration.
    assert torch.isfinite(sim.model(torch.randn(2, 4))).all()


def test_an_exception_in_calibration_changes_nothing() -> None:
    sim = simulation()
    with torch.no_grad(), sim.compute_encodings():
        sim.model(torch.randn(8, 4))
    before = snapshot(sim.model)
    with pytest.raises(ZeroDivisionError), torch.no_grad(), sim.compute_encodings():
        sim.model(torch.randn(8, 4) * 1000)
        raise ZeroDivisionError
    assert_unchanged(sim.model, before)


def test_a_tensor_that_does_not_fit_the_quantizer() -> None:
    quantizer = affine.QuantizeDequantize((5, 1), 8, True)
    quantizer.set_range(-torch.ones(5, 1), torch.ones(5, 1))
    with pytest.raises((QuantsimError, ValueError)) as caught:
        quantizer(torch.randn(4, 3))
    assert_says(caught.value, "(4, 3)", "(5, 1)")
    with pytest.raises((QuantsimError, ValueError)) as caught, quantizer.compute_encodings():
        quantizer(torch.randn(4, 3))
    assert_says(caught.value, "(4, 3)", "(5, 1)")
    assert torch.equal(quantizer.max, torch.ones(5, 1))


def test_a_block_size_that_does_not_divide() -> None:
    quantizer = affine.QuantizeDequantize((4, 2), 4, True, block_size=(1, 8))
    with pytest.raises((QuantsimError, ValueError)) as caught, quantizer.compute_encodings():
        quantizer(torch.randn(4, 15))
    assert_says(caught.value, "15", "8")


def test_a_quantizer_of_the_wrong_shape_in_a_model_names_the_module() -> None:
    sim = simulation()
    sim.model[2].param_quantizers["weight"] = affine.QuantizeDequantize((7, 1), 8, True)
    with pytest.raises((QuantsimError, ValueError)) as caught, torch.no_grad(), sim.compute_encodings():
        sim.model(torch.randn(2, 4))
    assert_says(caught.value, "weight", "(7, 1)", "(3, 6)")


def test_set_range_of_the_wrong_shape_or_order() -> None:
    quantizer = affine.QuantizeDequantize((3, 1), 8, True)
    with pytest.raises((QuantsimError, ValueError)) as caught:
        quantizer.set_range(-torch.ones(2, 1), torch.ones(2, 1))
    assert_says(caught.value, "(2, 1)", "(3, 1)")
    for low, high in ((1.0, -1.0), (float("nan"), 1.0), (-1.0, float("inf"))):
        with pytest.raises((QuantsimError, ValueError)):
            quantizer.set_range(torch.full((3, 1), low), torch.full((3, 1), high))
    assert not quantizer.is_initialized()


@pytest.mark.parametrize(
    "arguments",
    [
        ((), 0, True),
        ((), -8, True),
        ((), 7, -8, True),
        ((), 8, 8, True),
        ((-1, 1), 8, True),
        ((), 8.5, True),
        ((), "8", True),
    ],
    ids=str,
)
def test_nonsense_settings_of_a_quantizer(arguments: tuple[object, ...]) -> None:
    with pytest.raises((QuantsimError, ValueError, TypeError)):
        affine.QuantizeDequantize(*arguments)  # type: ignore[arg-type]


class Unheard(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))

    def forward(self, signal: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        return signal * self.gain + bias


def test_an_unknown_module_is_answered_with_code_to_paste() -> None:
    with pytest.raises(UnknownModuleError) as caught:
        quantsim.nn.QuantizationMixin.from_module(Unheard())
    assert_says(caught.value, "Unheard", "implements", "def forward", "signal", "bias", "gain")


def test_the_pasted_code_works() -> None:
    """The error's text contains a definition; pasted as it is, it makes the module known."""

    class Unknown(Unheard):
        pass

    with pytest.raises(UnknownModuleError) as caught:
        quantsim.nn.QuantizationMixin.from_module(Unknown())
    definition = re.search(r"^import torch\n.*?(?=^or )", text_of(caught.value), flags=re.MULTILINE | re.DOTALL)
    assert definition is not None
    exec(definition.group(), {"Unknown": Unknown})
    module = quantsim.nn.QuantizationMixin.from_module(Unknown())
    module.output_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    module.param_quantizers["gain"] = affine.QuantizeDequantize((), 8, True)
    signal, bias = torch.randn(3, 4), torch.randn(3, 4)
    with module.compute_encodings():
        module(signal, bias)
    gain = module.param_quantizers["gain"](module.gain)
    assert torch.equal(module(signal, bias), module.output_quantizers[0](signal * gain + bias))


def test_an_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises((QuantsimError, ValueError)) as caught:
        QuantizationSimModel(network(), torch.randn(2, 4), config="w8a9")
    assert_says(caught.value, "w8a9", "w8a8", "w4a16_g32", "fp8_e4m3")


def test_a_rule_that_matches_nothing_is_an_error() -> None:
    config = SimulationConfig(exclude=("no_such_layer",))  # type: ignore[arg-type]
    with pytest.raises((QuantsimError, ValueError)) as caught:
        QuantizationSimModel(network(), torch.randn(2, 4), config=config)
    assert_says(caught.value, "no_such_layer")


@pytest.mark.parametrize(
    "inputs", [(), torch.randn(2, 5), {"nonsense": torch.randn(2, 4)}], ids=["none", "width", "keyword"]
)
def test_example_inputs_that_do_not_run(inputs: object) -> None:
    model = network()
    before = snapshot(model)
    with pytest.raises((QuantsimError, TypeError, ValueError, RuntimeError)) as caught:
        QuantizationSimModel(model, inputs, config="w8a8")
    assert text_of(caught.value).strip()
    assert_unchanged(model, before)
    assert type(model[0]) is nn.Linear


def test_a_model_that_is_none_of_the_kind() -> None:
    with pytest.raises((QuantsimError, TypeError)):
        QuantizationSimModel("not a model", torch.randn(2, 4), config="w8a8")  # type: ignore[arg-type]


def test_wrapping_what_is_no_module() -> None:
    with pytest.raises(ValueError):
        quantsim.nn.QuantizationMixin.wrap(int)  # type: ignore[arg-type]
