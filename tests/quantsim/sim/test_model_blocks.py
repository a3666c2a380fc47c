from __future__ import annotations

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError, UnknownModuleError
from quantsim.sim import QuantizationSimModel, find_blocks


def encoder_and_decoder() -> nn.Module:
    def stack() -> nn.ModuleList:
        return nn.ModuleList([nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(2)])

    return nn.ModuleDict({"encoder": stack(), "decoder": stack(), "head": nn.Linear(2, 2)})


def test_elements_of_all_module_lists_are_found_in_order() -> None:
    model = encoder_and_decoder()
    assert list(find_blocks(model)) == ["encoder.0", "encoder.1", "decoder.0", "decoder.1"]
    assert find_blocks(model)["decoder.1"] is model["decoder"][1]


def test_a_sequential_serves_where_there_is_no_module_list() -> None:
    assert list(find_blocks(nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.ReLU(), nn.ReLU())))) == ["0", "1"]


def test_lists_of_quantizers_are_no_blocks() -> None:
    model = nn.Sequential(nn.Bilinear(2, 2, 2))
    model.register_module("layers", nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]))
    inner = nn.Sequential(nn.Linear(2, 2), nn.MultiheadAttention(2, 1))
    sim = QuantizationSimModel(inner, None, config="w8a8")
    assert list(find_blocks(sim.model)) == ["0", "1"]


def test_paths_and_modules_are_taken_in_the_models_order() -> None:
    model = encoder_and_decoder()
    chosen = find_blocks(model, [model["head"], "encoder.1"])
    assert list(chosen) == ["encoder.1", "head"]
    assert list(find_blocks(model, "decoder")) == ["decoder.0", "decoder.1"]


def test_what_cannot_be_a_block() -> None:
    model = encoder_and_decoder()
    with pytest.raises(UnknownModuleError, match=r"did you mean .*'encoder'"):
        find_blocks(model, "encoders")
    with pytest.raises(UnknownModuleError, match=r"sim\.model"):
        find_blocks(model, [nn.Linear(2, 2)])
    with pytest.raises(ConfigurationError, match=r"'encoder\.0' in 'encoder'"):
        find_blocks(model, ["encoder.0", "encoder"])
    with pytest.raises(ConfigurationError, match="no blocks"):
        find_blocks(nn.Linear(2, 2))
    with pytest.raises(ConfigurationError, match="nothing in 'head'"):
        find_blocks(model, "head")


def test_blocks_of_a_simulation() -> None:
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16), 3, enable_nested_tensor=False)
    sim = QuantizationSimModel(model.eval(), torch.zeros(2, 1, 8))
    assert list(find_blocks(sim.model)) == ["layers.0", "layers.1", "layers.2"]


def test_nothing_lies_beside_the_model_itself() -> None:
    with pytest.raises(ConfigurationError, match="inside of another"):
        find_blocks(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), ["", "1"])
