from __future__ import annotations

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.quantization.base import QuantizerBase
from quantsim.sim import QuantizationSimModel, SimulationConfig, preset
from quantsim.sim.assembly import make_quantizers
from quantsim.sim.leaf import find_leaves, quantizable_modules
from quantsim.sim.replacement import quantized_counterpart, swap_modules
from quantsim.sim.slots import slot_name


def quantizers(model: nn.Module, config: SimulationConfig) -> dict[str, QuantizerBase]:
    modules = dict(model.named_modules())
    swapped = {module: quantized_counterpart(path, module) for path, module in quantizable_modules(model).items()}
    model = swap_modules(model, swapped)
    found = make_quantizers(config, find_leaves(model), modules, None)
    # nothing is put in yet
    assert not any(isinstance(module, QuantizerBase) for module in model.modules())
    return {slot_name(tensor): quantizer for tensor, quantizer in found.items()}


def test_every_placed_tensor_gets_a_quantizer() -> None:
    found = quantizers(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)), preset("w8a8"))
    assert sorted(found) == [
        "0.input_quantizers[0]",
        "0.param_quantizers['weight']",
        "2.input_quantizers[0]",
        "2.param_quantizers['weight']",
    ]
    assert len({id(quantizer) for quantizer in found.values()}) == 4


def test_shared_parameters_share_a_quantizer_unless_their_settings_differ() -> None:
    def model() -> nn.Sequential:
        tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
        tied[1].weight = tied[0].weight
        return tied

    weights = ["0.param_quantizers['weight']", "1.param_quantizers['weight']"]
    found = quantizers(model(), preset("w8a8"))
    assert found[weights[0]] is found[weights[1]]
    differing = SimulationConfig.parse(
        {"weights": {"kind": "int"}, "rules": [{"match": "1", "weights": {"kind": "int", "bits": 4}}]}
    )
    found = quantizers(model(), differing)
    assert [found[place].bitwidth for place in weights] == [8, 4]


def test_quantizers_are_on_the_models_device() -> None:
    found = quantizers(nn.Linear(4, 4, device="meta"), preset("w8a8"))
    assert {values.device.type for quantizer in found.values() for values in quantizer.parameters()} == {"meta"}


def test_a_lazy_module_must_have_run() -> None:
    with pytest.raises(ConfigurationError, match=r"0\.param_quantizers\['weight'\].*example_inputs"):
        QuantizationSimModel(nn.Sequential(nn.LazyLinear(3)), config="w8a8")
    # The run on example inputs counts.
    sim = QuantizationSimModel(nn.Sequential(nn.LazyLinear(3)), torch.zeros(1, 5))
    assert tuple(sim.module("0").param_quantizers["weight"].shape) == (3, 1)
