"""Quantizers are placed by a hardware config as aimet-torch places them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from placement_models import HARDWARE, models
from torch import nn

from quantsim.nn import functional_modules
from quantsim.sim import QuantizationSimModel
from quantsim.sim.aimet_config import read_hardware_config
from quantsim.sim.config import IntegerSetting
from quantsim.sim.leaf import find_leaves
from quantsim.sim.placement import Placement, place_quantizers

RECORDED: dict[str, Any] = json.loads((Path(__file__).parent / "vectors" / "placement.json").read_text())


def placed(model: nn.Module, inputs: Any, hardware: dict[str, Any]) -> Placement:
    config = read_hardware_config(hardware, weight_bits=4)
    sim = QuantizationSimModel(model, inputs, config=config)
    return place_quantizers(config, find_leaves(sim.model), dict(sim.model.named_modules()), sim._run)


@pytest.mark.parametrize("kind", ["convolutional", "block"])
@pytest.mark.parametrize("name", HARDWARE)
def test_places_and_settings_are_the_oracles(name: str, kind: str) -> None:
    model, inputs = models(functional_modules)[kind]
    placement = placed(model, inputs, HARDWARE[name])
    ours: dict[str, list[Any]] = {}
    for tensor, setting in placement.items():
        assert isinstance(setting, IntegerSetting)
        fixed = None if setting.fixed_range is None else list(setting.fixed_range)
        place = f"{tensor.module}.{tensor.role.value}[{tensor.key}]"
        ours[place] = [setting.bits, setting.symmetric, setting.granularity.value, fixed]
    theirs = {
        place: [bits, symmetric, "channel" if scales else "tensor", fixed]
        for place, (bits, symmetric, scales, fixed) in RECORDED[f"{name}/{kind}"]["places"].items()
    }
    if kind == "convolutional":
        # The result of joining is on the grid of what is joined: the oracle rounds it again with the same quantizer.
        theirs.pop("join.output[0]")
    assert ours == theirs


@pytest.mark.parametrize("name", HARDWARE)
def test_what_is_joined_shares_one_quantizer(name: str) -> None:
    model, inputs = models(functional_modules)["convolutional"]
    shared = placed(model, inputs, HARDWARE[name]).shared
    joined = {f"{tensor.module}.output[0]" for members in shared.sets() for tensor in members}
    assert joined == {"sigmoid.output[0]", "leaky.output[0]"}
    theirs = RECORDED[f"{name}/convolutional"]["shared"]
    first = theirs["join.output[0]"]  # the oracle shares with other modules' inputs of an activation function as well
    assert {place for place in (*theirs, first) if theirs.get(place, place) == first} == {*joined, "join.output[0]"}
