from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.sim import QuantizationSimModel, SimulationConfig, preset

INT8 = {"kind": "int", "bits": 8}
OUTPUTS = {"weights": INT8, "activations": INT8, "activation_placement": "outputs"}
OPERANDS = {"weights": INT8, "activations": INT8}


def places(model: nn.Module, example: object, config: Any) -> list[str]:
    sim = QuantizationSimModel(model, example, config=config)
    return [place.replace("_quantizers", "") for place, _ in sim.quantizers()]


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(2, 2, 1), nn.BatchNorm2d(2), nn.ReLU()
        self.pool, self.flat, self.fc = nn.MaxPool2d(2), nn.Flatten(), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.flat(self.pool(self.act(self.norm(self.conv(x))))))


IMAGE = torch.randn(1, 2, 4, 4)


def test_operands_are_the_inputs_of_multiplying_modules() -> None:
    assert places(Block(), IMAGE, OPERANDS) == [
        "conv.input[0]",
        "conv.param['weight']",
        "fc.input[0]",
        "fc.param['weight']",
    ]


def test_outputs_fuse_norm_and_activation_and_keep_grids() -> None:
    assert places(Block(), IMAGE, OUTPUTS) == [
        "conv.input[0]",
        "conv.param['weight']",
        "act.output[0]",
        "fc.param['weight']",
        "fc.output[0]",
    ]


def test_an_output_that_is_read_elsewhere_too_is_not_fused() -> None:
    class Branch(Block):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.fc(self.flat(self.pool(self.act(self.norm(y)) + y)))

    found = places(Branch(), IMAGE, OUTPUTS)
    assert "conv.output[0]" in found
    assert "norm.output[0]" not in found
    assert "fc.input[0]" not in found  # the functional sum before it has an output quantizer
    assert "functional_operations.add_0.output[0]" in found


def test_a_model_output_is_not_fused() -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.act = nn.Linear(2, 2), nn.ReLU()

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.fc(x)
            return y, self.act(y)

    assert "fc.output[0]" in places(Both(), torch.randn(1, 2), OUTPUTS)


def test_shared_inputs_each_have_a_quantizer_but_quantized_outputs_feed_all() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.q, self.k = nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.norm(x)
            return F.relu(self.q(y)) + self.k(y)

    x = torch.randn(2, 4)
    assert [place for place in places(Heads(), x, OPERANDS) if "param" not in place] == ["q.input[0]", "k.input[0]"]
    assert [place for place in places(Heads(), x, OUTPUTS) if "param" not in place] == [
        "norm.input[0]",
        "norm.output[0]",
        "k.output[0]",
        "functional_operations.relu_0.output[0]",
        "functional_operations.add_0.output[0]",
    ]


def test_a_softmax_after_a_mask_has_no_input_quantizer() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.softmax = nn.Softmax(-1)

        def forward(self, x: Tensor) -> Tensor:
            return self.softmax(x.masked_fill(x > 0, float("-inf")))

    assert places(Masked(), torch.randn(2, 4), OUTPUTS) == ["softmax.output[0]"]


def test_integer_inputs_and_losses_get_none() -> None:
    class Training(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table, self.fc, self.loss = nn.Embedding(5, 4), nn.Linear(4, 5), nn.CrossEntropyLoss()

        def forward(self, ids: Tensor) -> Tensor:
            return self.loss(self.fc(self.table(ids)), ids)

    ids = torch.tensor([1, 2])
    assert places(Training(), ids, OPERANDS) == ["fc.input[0]", "fc.param['weight']"]
    assert places(Training(), ids, {**OUTPUTS, "embeddings": INT8}) == [
        "table.param['weight']",
        "table.output[0]",
        "fc.param['weight']",
        "fc.output[0]",
    ]


def test_every_weight_of_a_recurrent_module_but_no_bias_nor_cell_state() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 3, 2)

        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
            return self.lstm(x, (h, c))[0]

    found = places(Recurrent(), (torch.randn(2, 1, 4), torch.zeros(2, 1, 3), torch.zeros(2, 1, 3)), OPERANDS)
    assert found == [
        "lstm.input[0]",
        "lstm.input[1]",
        *(f"lstm.param['weight_{kind}_l{n}']" for n in (0, 1) for kind in ("ih", "hh")),
    ]


def test_without_example_inputs_every_operand_gets_one() -> None:
    assert places(Block(), None, OPERANDS) == places(Block(), IMAGE, OPERANDS)


def test_a_module_the_example_does_not_reach_is_quantized_and_reported() -> None:
    class Lazy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.unused = nn.Linear(2, 2), nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    sim = QuantizationSimModel(Lazy(), torch.randn(1, 2), config=OPERANDS)
    assert sim.coverage.uncalled == ("unused",)
    assert sim.module("unused").input_quantizers[0] is not None
    with pytest.warns(UserWarning, match=r"unused\.input_quantizers\[0\]"):
        report = sim.compute_encodings([torch.randn(4, 2)])
    assert report.unobserved == ["unused.input_quantizers[0]"]


# --- rules and exclusions


def test_rules_change_settings_in_order() -> None:
    config = SimulationConfig.parse(
        {
            **OPERANDS,
            "rules": [
                {"match": {"type": "Linear"}, "weights": {"kind": "int", "bits": 4}, "inputs": None, "outputs": INT8},
                {"match": "fc", "params": {"bias": {"kind": "int", "bits": 32}}},
                {"match": "act", "outputs": INT8},
            ],
        }
    )
    sim = QuantizationSimModel(Block(), IMAGE, config=config)
    found = {row.place: row.format for row in sim.summary().rows}
    assert found == {
        "conv.input_quantizers[0]": "int8",
        "conv.param_quantizers['weight']": "int8",
        "act.output_quantizers[0]": "int8",
        "fc.param_quantizers['weight']": "int4",
        "fc.param_quantizers['bias']": "int32",
        "fc.output_quantizers[0]": "int8",
    }


def test_an_output_that_a_rule_quantizes_covers_its_readers() -> None:
    config = {**OPERANDS, "rules": [{"match": "act", "outputs": INT8}]}
    assert "fc.input[0]" not in places(Block(), IMAGE, config)


def test_a_rule_for_a_container_holds_for_all_below() -> None:
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2))
    config = {**OPERANDS, "rules": [{"match": "0", "weights": None, "inputs": None}]}
    assert places(model, torch.randn(1, 2), config) == ["1.input[0]", "1.param['weight']"]


def test_excluded_modules_are_left_alone() -> None:
    sim = QuantizationSimModel(Block(), IMAGE, config={**OPERANDS, "exclude": ["conv"]})
    assert type(sim.model.conv) is nn.Conv2d
    assert sim.coverage.excluded == ("conv",)
    # What an excluded module computes is quantized again where it is an operand.
    assert places(Block(), IMAGE, {**OUTPUTS, "exclude": ["norm", "act"]})[-3:] == [
        "fc.input[0]",
        "fc.param['weight']",
        "fc.output[0]",
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"exclude": ["convv"]}, ["exclude[0]", "'convv'", "'conv'"]),
        ({"exclude": [{"type": "Linaer"}]}, ["'Linaer'", "'Linear'"]),
        ({"exclude": [{"regex": "zz+"}]}, ["zz+", "named_modules"]),
        ({"rules": [{"match": "nothing.here", "weights": None}]}, ["rules[0]", "nothing.here"]),
        ({"rules": [{"match": "act", "weights": INT8}]}, ["rules[0]: weights", "no"]),
        ({"rules": [{"match": "fc", "params": {"wieght": INT8}}]}, ["rules[0]", "'wieght'", "bias, weight"]),
    ],
)
def test_rules_that_match_nothing_are_errors(change: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigurationError) as caught:
        QuantizationSimModel(Block(), IMAGE, config=SimulationConfig.parse({"name": "mine", **OPERANDS, **change}))
    for word in words:
        assert word in str(caught.value)


def test_the_presets_can_be_moved_to_outputs() -> None:
    config = preset("w8a8").model_copy(update={"activation_placement": "outputs"})
    assert "act.output[0]" in places(Block(), IMAGE, config)
