from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.sim import QuantizationSimModel, SimulationConfig
from quantsim.sim.fused_groups import DEFAULT_FUSED_GROUPS, FusedModules, find_fused_modules
from quantsim.sim.leaf import find_leaves

INT8 = {"kind": "int", "bits": 8}
OUTPUTS = {"weights": INT8, "activations": INT8, "activation_placement": "outputs"}


def fused(model: nn.Module, example: Tensor, groups: object = DEFAULT_FUSED_GROUPS, **options: bool) -> FusedModules:
    sim = QuantizationSimModel(model, example, config=None)
    leaves = {leaf.path: leaf for leaf in find_leaves(sim.model)}
    return find_fused_modules(groups, leaves, sim._run, **options)  # type: ignore[arg-type]


def test_a_norm_is_folded_and_an_activation_behind_it_fused() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.ReLU(), nn.Linear(3, 4), nn.Hardswish())
    found = fused(model, torch.randn(1, 1, 3, 3))
    assert found == FusedModules(frozenset({"0", "1"}), frozenset({"1"}))
    with_swish = fused(model, torch.randn(1, 1, 3, 3), [("linear", "hardswish")])
    assert with_swish == FusedModules(frozenset({"0", "3"}), frozenset({"1"}))


def test_a_group_may_name_the_folded_norm_or_leave_it_out() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Sigmoid())
    for group in (("conv", "sigmoid"), ("conv2d", "batch_norm", "sigmoid")):
        assert fused(model, torch.randn(1, 1, 3, 3), [group]).absorbed == {"0", "1"}


def test_longer_groups_come_first_and_no_module_is_in_two() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Tanh())
    groups = [("relu", "tanh"), ("linear", "relu")]
    assert fused(model, torch.randn(1, 2), groups).absorbed == {"1"}
    assert fused(model, torch.randn(1, 2), [*groups, ("linear", "relu", "tanh")]).absorbed == {"0", "1"}


def test_what_passes_its_input_on_stands_between_nothing() -> None:
    model = nn.Sequential(
        nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2), nn.Identity(), nn.Dropout2d(), nn.ReLU(), nn.Linear(3, 4)
    ).eval()
    assert fused(model, torch.randn(1, 1, 3, 3)) == FusedModules(frozenset({"0", "1"}), frozenset({"1"}))


def test_functional_operations_take_part() -> None:
    class Residual(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return F.relu(self.fc(x) + x)

    assert fused(Residual(), torch.randn(1, 2)).absorbed == {"functional_operations.add_0"}
    sim = QuantizationSimModel(Residual(), torch.randn(1, 2), config=OUTPUTS)
    outputs = [place for place, _ in sim.quantizers() if "output" in place]
    assert outputs == ["fc.output_quantizers[0]", "functional_operations.relu_0.output_quantizers[0]"]


def test_a_norm_that_two_modules_use_is_not_folded() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Linear(2, 2), nn.Linear(2, 2), nn.BatchNorm1d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(self.b(self.norm(self.a(x))))

    assert fused(Shared(), torch.randn(4, 2)) == FusedModules(frozenset(), frozenset())


def test_depthwise_convolutions_can_be_left_out() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1, groups=4), nn.ReLU(), nn.Conv2d(4, 4, 1, groups=2), nn.ReLU())
    assert fused(model, torch.randn(1, 4, 3, 3)).absorbed == {"0", "2"}
    assert fused(model, torch.randn(1, 4, 3, 3), fuse_depthwise=False).absorbed == {"2"}


def test_without_a_run_nothing_is_known() -> None:
    sim = QuantizationSimModel(nn.Sequential(nn.Linear(2, 2), nn.ReLU()), config=None)
    leaves = {leaf.path: leaf for leaf in find_leaves(sim.model)}
    assert not find_fused_modules(DEFAULT_FUSED_GROUPS, leaves, None).absorbed


def test_groups_come_from_the_config_and_are_checked() -> None:
    config = SimulationConfig.parse({**OUTPUTS, "fused_groups": [["linear", "gelu"]]})
    sim = QuantizationSimModel(nn.Sequential(nn.Linear(2, 2), nn.GELU()), torch.randn(1, 2), config=config)
    assert [place for place, _ in sim.quantizers() if "output" in place] == ["1.output_quantizers[0]"]
    with pytest.raises(ConfigurationError, match=r"unknown op 'gleu'.*gelu"):
        SimulationConfig.parse({"fused_groups": [["linear", "gleu"]]})
    with pytest.raises(ConfigurationError, match="fewer than two"):
        SimulationConfig.parse({"fused_groups": [["linear"]]})
