"""What becomes of a model: which modules are swapped, what is left alone, what may be given."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError, UnknownModuleError
from quantsim.nn import BaseQuantizationMixin, QuantizationMixin, QuantizedLinear
from quantsim.quantization import affine
from quantsim.quantization.base import QuantizerBase
from quantsim.sim import PRESETS, QuantizationSimModel, SimulationConfig

X = torch.linspace(-2, 2, 32).reshape(4, 8)
INT8 = {"kind": "int", "bits": 8}


def has_quantizers(model: nn.Module) -> bool:
    return any(isinstance(module, (QuantizerBase, BaseQuantizationMixin)) for module in model.modules())


# --- the model given -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS)
def test_the_float_model_is_not_touched(cnn: Any, name: str, frozen_copy: Any, assert_same_state: Any) -> None:
    cnn.model.train()
    before = frozen_copy(cnn.model)
    sim = QuantizationSimModel(cnn.model, cnn.example, config=name)
    sim.compute_encodings(cnn.batches)
    with torch.no_grad():
        for values in sim.model.parameters():
            values.fill_(7.0)
    assert_same_state(cnn.model.state_dict(), before)
    assert not has_quantizers(cnn.model)
    assert all(module.training for module in cnn.model.modules())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in cnn.model.modules())


def test_in_place_changes_the_model_itself(mlp: Any) -> None:
    weight = mlp.model[0].weight
    sim = QuantizationSimModel(mlp.model, mlp.example, in_place=True)
    assert sim.model is mlp.model
    assert isinstance(mlp.model[0], QuantizedLinear)
    assert mlp.model[0].weight is weight


@pytest.mark.parametrize(
    "config",
    [
        {"weights": INT8, "exclude": ["nowhere"]},
        {"weights": INT8, "rules": [{"match": "1", "weights": INT8}]},
        {"weights": {**INT8, "granularity": "block", "block_size": 32}},
        {"weights": INT8, "activations": {**INT8, "granularity": "channel"}},
    ],
    ids=["exclusion", "rule", "block", "granularity"],
)
def test_a_failure_in_place_leaves_the_model_whole(mlp: Any, config: Any) -> None:
    model = nn.Sequential(nn.Linear(64, 61), nn.ReLU(), nn.Linear(61, 10))
    modules, expected = [*model.modules()], model(mlp.example)
    with pytest.raises(ConfigurationError):
        QuantizationSimModel(model, mlp.example, config=config, in_place=True)
    assert [*model.modules()] == modules
    assert torch.equal(model(mlp.example), expected)
    with pytest.raises(ConfigurationError, match="example_inputs"):
        QuantizationSimModel(model, torch.zeros(1, 3), in_place=True)
    assert [*model.modules()] == modules


@pytest.mark.parametrize(("wrong", "fix"), [(nn.Linear, "pass the module itself"), (torch.relu, "wrap the function")])
def test_what_is_no_model(wrong: Any, fix: str) -> None:
    with pytest.raises(ConfigurationError, match=fix):
        QuantizationSimModel(wrong, X)


def test_a_layer_alone_is_a_model() -> None:
    layer = nn.Linear(8, 3)
    sim = QuantizationSimModel(layer, X)
    assert isinstance(sim.model, QuantizedLinear)
    assert [place for place, _ in sim.quantizers()] == ["input_quantizers[0]", "param_quantizers['weight']"]
    assert sim.module("") is sim.model
    sim.compute_encodings([X])
    assert 0 < float((sim(X) - layer(X)).detach().abs().max()) < 0.1
    assert type(layer) is nn.Linear


def test_a_quantized_model_is_taken_as_it_is() -> None:
    layer = QuantizedLinear(8, 3)
    layer.output_quantizers[0] = affine.QuantizeDequantize((), 4, False)
    layer.output_quantizers[0].set_range(-1.0, 1.0)
    sim = QuantizationSimModel(layer, X, config="w4a16_g32", in_place=True)
    assert sim.model is layer
    assert [place for place, _ in sim.quantizers()] == ["param_quantizers['weight']", "output_quantizers[0]"]


# --- modules in several places, and of the user's own ----------------------------------------------------------------


class Tied(nn.Module):
    """One layer called twice, held under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(8, 8)
        self.second = self.first
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.act(self.first(x)))


def test_a_module_in_two_places_stays_one() -> None:
    sim = QuantizationSimModel(Tied(), X)
    assert sim.model.first is sim.model.second
    assert isinstance(sim.model.first, QuantizedLinear)
    assert [path for path, module in sim.quantized_modules() if module.param_quantizers] == ["first"]
    report = sim.compute_encodings([X])
    assert report.calibrated == ["first.input_quantizers[0]"]
    # Its one input range covers both calls: X has negative values, the other input has only positive ones.
    quantizer = sim.module("first").input_quantizers[0]
    assert float(quantizer.get_min().detach()) < 0 < float(quantizer.get_max().detach())
    sim(X)


class TiedWeights(nn.Module):
    """Two layers that share one parameter, as an embedding and a head do."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(8, 8, bias=False), nn.Linear(8, 8, bias=False)
        self.up.weight = self.down.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.up(torch.relu(self.down(x)))


def test_tied_weights_stay_tied_and_have_one_quantizer() -> None:
    sim = QuantizationSimModel(TiedWeights(), X)
    down, up = sim.module("down"), sim.module("up")
    assert down.weight is up.weight
    assert down.param_quantizers["weight"] is up.param_quantizers["weight"]
    assert down.input_quantizers[0] is not up.input_quantizers[0]
    sim.compute_encodings([X])
    sim(X)
    twin = copy.deepcopy(sim)
    assert twin.module("down").param_quantizers["weight"] is twin.module("up").param_quantizers["weight"]


class Doubling(nn.Linear):
    """A subclass with a forward of its own, which calls its base class's."""

    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Renamed(nn.Linear):
    """A subclass with another signature, that computes by itself."""

    def __init__(self, size: int, scale: float) -> None:
        super().__init__(size, size)
        self.scale = scale

    def forward(self, values: Tensor, *, shift: float = 0.0) -> Tensor:
        return nn.functional.linear(values * self.scale, self.weight, self.bias) + shift


@pytest.mark.parametrize("layer", [Doubling(8, 8), Renamed(8, 0.5)], ids=lambda layer: type(layer).__name__)
def test_subclasses_are_quantized_and_keep_their_behaviour(layer: nn.Module) -> None:
    model = nn.Sequential(layer, nn.ReLU(), nn.Linear(8, 2)).eval()
    sim = QuantizationSimModel(model, X)
    assert isinstance(sim.model[0], type(layer))
    assert {place for place, _ in sim.quantizers()} >= {"0.input_quantizers[0]", "0.param_quantizers['weight']"}
    sim.compute_encodings([X])
    with torch.no_grad():
        expected, actual = model(X), sim(X)
        assert 0 < float((actual - expected).abs().max()) < 0.1
        bare = QuantizationSimModel(model, X, config=None)
        assert torch.equal(bare(X), expected)


def test_ignored_classes_stay_in_floating_point(mlp: Any) -> None:
    with QuantizationMixin.ignore(nn.Linear):
        sim = QuantizationSimModel(mlp.model, mlp.example)
    assert type(sim.model[0]) is nn.Linear
    assert list(sim.quantizers()) == []


def test_a_model_on_meta_is_simulated() -> None:
    sim = QuantizationSimModel(nn.Sequential(nn.Linear(64, 8, device="meta")), torch.zeros(1, 64), config="w4a8")
    assert {place for place, _ in sim.quantizers()} == {"0.input_quantizers[0]", "0.param_quantizers['weight']"}
    assert {str(values.device) for values in sim.model.parameters()} == {"meta"}
    weight = sim.module("0").param_quantizers["weight"]
    assert (tuple(weight.shape), tuple(weight.block_size)) == ((8, 2), (1, 32))


# --- rules -----------------------------------------------------------------------------------------------------------


def layers() -> nn.Module:
    return nn.ModuleDict({"encoder": nn.ModuleList([nn.Linear(8, 8) for _ in range(3)]), "head": nn.Linear(8, 2)})


def formats(**changes: Any) -> dict[str, str]:
    config = SimulationConfig.parse({"weights": INT8, **changes})
    return {row.place: row.format for row in QuantizationSimModel(layers(), config=config).summary().rows}


def test_exclusions_and_overrides_by_name_and_regular_expression() -> None:
    every = {*(f"encoder.{index}.param_quantizers['weight']" for index in range(3)), "head.param_quantizers['weight']"}
    assert set(formats()) == every
    assert set(formats(exclude=["head"])) == every - {"head.param_quantizers['weight']"}
    assert set(formats(exclude=["encoder"])) == {"head.param_quantizers['weight']"}
    assert set(formats(exclude=[{"regex": r"encoder\.[02]"}])) == {
        "encoder.1.param_quantizers['weight']",
        "head.param_quantizers['weight']",
    }
    four = {"kind": "int", "bits": 4}
    by_name = formats(rules=[{"match": "encoder.*", "weights": four}])
    by_regex = formats(rules=[{"match": {"regex": r"encoder\.\d"}, "weights": four}])
    assert by_name == by_regex == {place: "int4" if "encoder" in place else "int8" for place in every}
    later = formats(rules=[{"match": "encoder.*", "weights": four}, {"match": "encoder.1", "weights": None}])
    assert later == {place: kind for place, kind in by_name.items() if "encoder.1" not in place}


@pytest.mark.parametrize(
    ("change", "near"),
    [
        ({"exclude": ["encodr.1"]}, "'encoder.1'"),
        ({"exclude": [{"regex": "heads"}]}, "'head'"),
        ({"rules": [{"match": "encoder.7", "weights": None}]}, "'encoder."),
        ({"rules": [{"match": {"type": "LinearLayer"}, "weights": None}]}, "'Linear'"),
    ],
)
def test_a_rule_that_matches_nothing_says_which_names_are_near(change: Any, near: str) -> None:
    with pytest.raises(ConfigurationError, match="matches no module") as caught:
        formats(**change)
    assert f"did you mean {near}" in str(caught.value)
    assert next(iter(change)) in str(caught.value)


# --- looking at it ---------------------------------------------------------------------------------------------------


def test_modules_are_found_by_path(mlp: Any) -> None:
    sim = QuantizationSimModel(mlp.model, mlp.example)
    assert sim.module("2") is sim.model[2]
    with pytest.raises(UnknownModuleError, match=r"got '22'.*did you mean '2'"):
        sim.module("22")
    assert [path for path, _ in sim.quantized_modules()] == ["0", "1", "2"]
    assert sim.module("2").module_path == "2"


def test_text_names_model_config_and_size(mlp: Any) -> None:
    sim = QuantizationSimModel(mlp.model, mlp.example)
    assert repr(sim) == "QuantizationSimModel(Sequential, config='w8a8', 4 quantizers)"


def test_every_quantized_modules_dispatch_is_explained(mlp: Any) -> None:
    sim = QuantizationSimModel(mlp.model, mlp.example)
    reports = sim.explain_dispatch()
    assert list(reports) == ["0", "1", "2"]
    assert "linear" in str(reports["0"])


def test_unknown_versions_are_refused(mlp: Any, tmp_path: Any) -> None:
    sim = QuantizationSimModel(mlp.model, mlp.example, config="w4a16_g32")
    sim.compute_param_encodings()
    with pytest.raises(ConfigurationError, match=r"'3.0.0'.*2\.1\.0"):
        sim.save_encodings(tmp_path / "x.json", "3.0.0")
    assert list(tmp_path.iterdir()) == []


def test_gradients_reach_weights_and_ranges(mlp: Any) -> None:
    sim = QuantizationSimModel(mlp.model, mlp.example)
    sim.compute_encodings(mlp.batches)
    sim.model.train()
    sim(mlp.example).square().mean().backward()
    missing = [name for name, values in sim.model.named_parameters() if values.grad is None]
    assert missing == []
    assert float(sim.model[0].weight.grad.abs().sum()) > 0
