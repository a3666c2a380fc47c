from __future__ import annotations

import pytest
from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.transforms import TRANSFORM_PASSES, transform_pass


@pytest.mark.parametrize("name", TRANSFORM_PASSES)
def test_every_pass_is_complete(name: str) -> None:
    item = transform_pass(name)
    assert item.name == name and item.description.endswith(".")
    assert item.parameters.model_config.get("extra") == "forbid"
    assert all(field.description for field in item.parameters.model_fields.values())


def test_a_plan_is_made_from_arguments() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    plan = transform_pass("float_precision").plan(model, {"by": "name", "0": {"format": "bf16"}})
    assert plan.network is model and [item.path for item in plan.replacements] == ["0"]


def test_an_unknown_pass_is_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"'float_presicion'.*did you mean 'float_precision'"):
        transform_pass("float_presicion")


def test_arguments_are_checked_without_a_model() -> None:
    transform_pass("optical").check({"attn": {"q_levels": 64}})
    transform_pass("optical").check({"by": "name", "default": {}})
    with pytest.raises(ConfigurationError, match=r"^here\['default'\].*exp_bits"):
        transform_pass("optical").check({"by": "name", "default": {"exp_bits": 4}}, where="here")
    with pytest.raises(ConfigurationError, match="no key 'by'"):
        transform_pass("float_precision").check({"fc": {"format": "bf16"}})
