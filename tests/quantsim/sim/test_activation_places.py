from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.sim import QuantizationSimModel
from quantsim.sim.config import SimulationConfig
from quantsim.sim.leaf import find_leaves
from quantsim.sim.placement import Placement, place_quantizers

INT8 = {"kind": "int", "bits": 8}
INT4 = {"kind": "int", "bits": 4}
OUTPUTS = {"weights": INT8, "activations": INT8, "activation_placement": "outputs"}
X = torch.randn(2, 4)


def placed(model: nn.Module, example: object, values: dict[str, Any]) -> Placement:
    config = SimulationConfig.parse(values)
    sim = QuantizationSimModel(model, example, config=config)
    return place_quantizers(config, find_leaves(sim.model), dict(sim.model.named_modules()), sim._run)


def activations(placement: Placement) -> dict[str, int]:
    """Bits by place, of activations."""
    return {str(tensor): setting.bits for tensor, setting in placement.items() if tensor.role.value != "param"}  # type: ignore[union-attr]


class Join(nn.Module):
    """Two branches and the model's own input, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(12, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.cat([self.a(x), F.relu(self.b(x)).reshape(2, 4), x], -1))


CAT = "functional_operations.cat_0"
RELU = "functional_operations.relu_0"


def test_what_is_joined_shares_a_grid_and_the_result_needs_no_quantizer() -> None:
    placement = placed(Join(), X, OUTPUTS)
    assert set(activations(placement)) == {
        *("a.input[0]", "b.input[0]", "a.output[0]", f"{RELU}.output[0]", f"{CAT}.input[2]", "c.output[0]"),
    }
    (members,) = placement.shared.sets()
    assert {str(tensor) for tensor in members} == {"a.output[0]", f"{RELU}.output[0]", f"{CAT}.input[2]"}


def test_one_shared_grid_grows_over_several_joins() -> None:
    class Dense(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.cat([x, self.a(x)], -1)
            return torch.cat([x, self.b(x)], -1)

    placement = placed(Dense(), X, OUTPUTS)
    (members,) = placement.shared.sets()
    assert {str(tensor) for tensor in members} == {f"{CAT}.input[0]", "a.output[0]", "b.output[0]"}
    assert not any(str(tensor).endswith(("cat_0.output[0]", "cat_1.output[0]")) for tensor in placement)


@pytest.mark.parametrize(
    "change",
    [
        {"shared_grids": False},
        {"rules": [{"match": "a", "outputs": INT4}]},
        {"operations": {"cat": {"outputs": INT8}}},
        {"activations": {"kind": "int", "bits": 8, "symmetric": False, "granularity": "token", "dynamic": True}},
    ],
    ids=["switched off", "formats differ", "asked for", "run-time scales"],
)
def test_else_the_result_is_rounded(change: dict[str, Any]) -> None:
    placement = placed(Join(), X, {**OUTPUTS, **change})
    assert f"{CAT}.output[0]" in activations(placement)
    assert not placement.shared


def test_plain_casts_have_one_grid_anyway() -> None:
    placement = placed(Join(), X, {**OUTPUTS, "activations": {"kind": "float", "format": "bf16", "scaled": False}})
    assert f"{CAT}.output[0]" not in {str(tensor) for tensor in placement}


def test_a_range_that_is_known_of_one_branch_does_not_hold_for_all() -> None:
    class Gates(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.gate = nn.Linear(4, 4), nn.Sigmoid()

        def forward(self, x: Tensor) -> Tensor:
            y = self.a(x)
            return torch.cat([y, self.gate(y)], -1)

    known = {"sigmoid": {"outputs": {**INT8, "fixed_range": [0, 1]}}}
    placement = placed(Gates(), X, {**OUTPUTS, "operations": known})
    assert len(placement.shared.sets()) == 1
    assert {setting.fixed_range for tensor, setting in placement.items() if tensor.role.value == "output"} == {None}  # type: ignore[union-attr]


def test_operations_change_settings_by_op_and_may_match_nothing() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1), nn.Linear(4, 2))
    changes = {"softmax": {"outputs": INT4}, "linear": {"weights": None}, "conv": {"inputs": INT4}}
    placement = placed(model, X, {**OUTPUTS, "operations": changes})
    assert {str(tensor): setting.bits for tensor, setting in placement.items()} == {  # type: ignore[union-attr]
        "0.input[0]": 8,
        "0.output[0]": 8,
        "1.output[0]": 4,
        "2.output[0]": 8,
    }


def test_an_op_that_rounds_nothing_is_not_rounded_where_it_is_read() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    found = activations(placed(model, X, {**OUTPUTS, "operations": {"tanh": {"outputs": None}}}))
    assert set(found) == {"0.input[0]", "0.output[0]", "2.output[0]"}
    asked = activations(placed(model[:2], X, {**OUTPUTS, "operations": {"tanh": {"outputs": None}}}))
    last = {**OUTPUTS, "operations": {"tanh": {"outputs": None}}, "quantize_model_outputs": True}
    assert set(activations(placed(model[:2], X, last))) - set(asked) == {"1.output[0]"}


def test_inputs_that_nothing_feeds_can_be_left_alone() -> None:
    assert set(activations(placed(nn.Linear(4, 2), X, {**OUTPUTS, "quantize_inputs": False}))) == {"output[0]"}


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))


SDPA = "functional_operations.scaled_dot_product_attention_0"


@pytest.mark.parametrize("base", [{}, OUTPUTS, {"weights": INT8, "activations": INT8}], ids=["alone", "outs", "ins"])
def test_keys_and_values_of_a_cache(base: dict[str, Any]) -> None:
    found = activations(placed(Attention(), torch.randn(1, 3, 4), {**base, "kv_cache": INT4}))
    assert {place for place, bits in found.items() if bits == 4} == {
        f"{SDPA}.qk_matmul.input[1]",
        f"{SDPA}.pv_matmul.input[1]",
    }


def test_a_cache_needs_attention() -> None:
    with pytest.raises(ConfigurationError, match=r"kv_cache.*sdpa"):
        QuantizationSimModel(nn.Linear(4, 2), X, config={"kv_cache": INT4})
    with pytest.raises(ConfigurationError, match="sum over the rows"):
        SimulationConfig.parse({"kv_cache": {"kind": "int", "granularity": "token", "dynamic": True}})


def test_second_factors_are_found_where_they_are_rounded() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x) @ self.b(x).transpose(0, 1)

    found = activations(placed(Product(), X, {**OUTPUTS, "second_factors": INT4}))
    assert {place for place, bits in found.items() if bits == 4} == {"b.output[0]"}


def test_a_cache_is_simulated() -> None:
    sim = QuantizationSimModel(Attention(), torch.randn(1, 3, 4), config={"kv_cache": INT4})
    x = torch.randn(2, 5, 4)
    sim.compute_encodings([x])
    values = sim.module(f"{SDPA}.pv_matmul").input_quantizers[1](sim.model.v(x))
    assert len(values.unique()) <= 16
    assert not torch.equal(sim(x), Attention.forward(sim.remove(), x))  # type: ignore[arg-type]
