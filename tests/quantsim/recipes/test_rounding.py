from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.nn import QuantizedLinear, compute_param_encodings
from quantsim.quantization.methods import AdaRoundQuantizeDequantize
from quantsim.recipes.rounding import bake_rounding, learn_rounding
from quantsim.sim import QuantizationSimModel
from quantsim.sim.config import IntegerSetting, SimulationConfig


def simulated(bits: int = 3) -> tuple[QuantizationSimModel, nn.Module, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 10)).eval()
    # Inputs that go together, as real ones do: errors of single weights can make up for each other.
    x = torch.randn(128, 3, 1, 1, generator=generator) + 0.2 * torch.randn(128, 3, 8, 8, generator=generator)
    config = SimulationConfig(
        weights=IntegerSetting(bits=bits, granularity="channel", method="adaround"),  # pyright: ignore[reportArgumentType]
        activations=IntegerSetting(bits=8, symmetric=False),
    )
    sim = QuantizationSimModel(copy.deepcopy(model), x[:2], config=config)
    sim.compute_encodings([x])
    return sim, model, x


def test_the_outputs_come_closer_and_every_rounding_is_hard() -> None:
    sim, model, x = simulated()
    state = torch.random.get_rng_state()
    with torch.no_grad():
        target, nearest = model(x), sim.model(x)
        before = float((nearest - target).square().mean())
        errors = learn_rounding(sim.model, [x], iterations=200)
        after = float((sim.model(x) - target).square().mean())
    assert list(errors) == ["0", "3"]
    assert all(learned <= rounded for rounded, learned in errors.values())
    assert errors["0"][1] < 0.7 * errors["0"][0]
    assert after < 0.8 * before
    assert torch.equal(torch.random.get_rng_state(), state)
    for module in sim.model.modules():
        if isinstance(module, AdaRoundQuantizeDequantize):
            assert module.is_frozen
            assert not module.rounds_to_nearest
    soft_or_hard = sim.model.train()(x), sim.model.eval()(x)
    torch.testing.assert_close(*soft_or_hard)


def test_baking_changes_weights_and_no_result() -> None:
    sim, _, x = simulated()
    learn_rounding(sim.model, [x], iterations=30)
    with torch.no_grad():
        before = sim.model(x)
        assert bake_rounding(sim.model) == ["0", "3"]
        torch.testing.assert_close(sim.model(x), before, rtol=1e-5, atol=1e-5)
    assert bake_rounding(sim.model) == []
    assert all(
        module.rounds_to_nearest for module in sim.model.modules() if isinstance(module, AdaRoundQuantizeDequantize)
    )


def test_nothing_to_learn() -> None:
    sim, model, x = simulated()
    with pytest.raises(ConfigurationError, match="adaround"):
        learn_rounding(model, [x])
    with pytest.raises(ConfigurationError, match="0 batches"):
        learn_rounding(sim.model, [])


def linear_model() -> tuple[nn.Module, AdaRoundQuantizeDequantize]:
    layer, quantizer = QuantizedLinear(4, 4), AdaRoundQuantizeDequantize((), bitwidth=3, symmetric=True)
    layer.param_quantizers["weight"] = quantizer
    compute_param_encodings(layer)
    return nn.Sequential(layer), quantizer


def test_texts_of_several_lengths_are_rows_for_linear_layers() -> None:
    model, quantizer = linear_model()
    errors = learn_rounding(model, [torch.randn(2, 3, 4), torch.randn(2, 5, 4), torch.randn(4)], iterations=5)
    assert list(errors) == ["0"]
    assert quantizer.is_frozen


def test_batches_that_do_not_fit_together_are_refused_with_the_layer() -> None:
    model, _ = linear_model()
    with pytest.raises(ConfigurationError, match=r"learn_rounding \(0\)"):
        learn_rounding(model, [torch.zeros(0, 4)], iterations=5)


def test_an_interrupted_layer_rounds_to_nearest_as_before() -> None:
    model, quantizer = linear_model()
    x, calls = torch.randn(20, 4), []
    expected = model(x).detach()

    def stop(*_: object) -> None:
        calls.append(0)
        if len(calls) == 8:
            raise KeyboardInterrupt

    handle = model[0].register_forward_hook(stop)  # pyright: ignore[reportIndexIssue]
    with pytest.raises(KeyboardInterrupt):
        learn_rounding(model, [x], iterations=50)
    handle.remove()
    assert quantizer.rounds_to_nearest
    assert torch.equal(model(x).detach(), expected)
