from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.optical.squeezelight import SqueezeLightLinear
from quantsim.transforms import squeezelight_module_transform_pass, transform_pass


def model() -> Any:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 3))


def test_layers_become_rings_that_train_and_passes_repeat() -> None:
    pass_args = {"by": "name", "0": {"miniblock": 2, "w_bit": 8, "phase_noise": 0.01}, "default": {}}
    rings: Any = squeezelight_module_transform_pass(model(), pass_args)
    assert [type(module) for module in rings] == [SqueezeLightLinear, nn.ReLU, SqueezeLightLinear]
    assert (rings[0].miniblock, rings[0].w_bit, rings[2].miniblock) == (2, 8, 4)
    again: Any = squeezelight_module_transform_pass(model(), pass_args)
    assert all(torch.equal(a, b) for a, b in zip(rings.state_dict().values(), again.state_dict().values(), strict=True))
    rings(torch.rand(4, 8)).sum().backward()
    assert all(value.grad is not None for value in rings.parameters())


def test_the_global_generator_is_not_touched() -> None:
    layers = model()
    before = torch.get_rng_state()
    arguments = {"by": "name", "default": {"method": "least_squares", "samples": 64, "steps": 2}}
    squeezelight_module_transform_pass(layers, arguments)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_linear_layer_that_is_the_model_itself_is_replaced() -> None:
    new = squeezelight_module_transform_pass(nn.Linear(4, 4), {"by": "name", "default": {}})
    assert type(new) is SqueezeLightLinear


@pytest.mark.parametrize(
    ("key", "parameters", "words"),
    [
        ("0", {"miniblok": 4}, "did you mean 'miniblock'"),
        ("0", {"miniblock": 0}, "miniblock: .*greater than or equal to 1"),
        ("0", {"method": "guess"}, "method: .*'average' or 'least_squares'"),
        ("1", {}, "does not replace"),
        ("3", {}, "matches no module"),
    ],
)
def test_what_is_wrong_is_said_and_the_model_left_as_it_was(key: str, parameters: Any, words: str) -> None:
    layers = model()
    before = list(layers)
    with pytest.raises(ConfigurationError, match=words):
        transform_pass("squeezelight").plan(layers, {"by": "name", key: parameters})
    assert list(layers) == before
