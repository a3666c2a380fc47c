from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

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


class Join(nn.Module):
    """Two branches that are joined."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.gate = nn.Linear(4, 4), nn.Linear(4, 4), nn.Sigmoid()

    def forward(self, x: Tensor) -> Tensor:
        return self.gate(torch.cat([self.a(x), 9 * self.b(x)], -1))


def test_what_is_joined_has_one_quantizer_calibrated_over_all() -> None:
    int8 = {"kind": "int", "bits": 8, "symmetric": False}
    known = {"sigmoid": {"outputs": {**int8, "fixed_range": [0, 1]}}}
    config = {"weights": int8, "activations": int8, "activation_placement": "outputs", "operations": known}
    x = torch.randn(16, 4, generator=torch.Generator().manual_seed(1))
    sim = QuantizationSimModel(Join(), x, config=config)
    shared = sim.module("a").output_quantizers[0]
    assert shared is sim.module("functional_operations.mul_0").output_quantizers[0]
    sim.compute_encodings([x])
    a, b = sim.model.a(x), sim.model.b(x)
    assert shared.max.item() > 9 * b.max().item() * 0.99 > a.max().item() * 1.5
    assert "cat" not in {operation.operation for operation in sim.coverage.operations}
    fixed = sim.module("gate").output_quantizers[0]
    assert (fixed.min.item(), fixed.max.item(), fixed.is_frozen) == (0.0, 1.0, True)

    expected = sim(x)
    again = copy.deepcopy(sim.model)
    assert torch.equal(again(x), expected)
    assert again.a.output_quantizers[0] is again.functional_operations.mul_0.output_quantizers[0]
    assert torch.equal(torch.compile(sim.model, backend="eager", fullgraph=True)(x), expected)
    other = QuantizationSimModel(Join(), x, config=config)
    other.load_state_dict(sim.state_dict())
    assert torch.equal(other(x), expected)
    loaded = QuantizationSimModel(Join(), x, config=config)
    loaded.model.load_state_dict(sim.state_dict())
    loaded.load_encodings(sim.encodings())
    assert torch.equal(loaded(x), expected)
