from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from pydantic import ValidationError
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.sim import QuantizationSimModel
from quantsim.sim.patterns import ModulePattern


class MyLinear(nn.Linear):
    """A class of the user's own."""


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ({"name": "encoder.0"}, "encoder.0", True),
        ({"name": "encoder.0"}, "encoder.01", False),
        ({"name": "encoder.*.fc"}, "encoder.a.b.fc", True),
        ({"name": "encoder.?"}, "encoder.12", False),
        ({"name": "ENCODER.0"}, "encoder.0", False),
        ({"name": ""}, "", True),
        ({"name": ""}, "a", False),
        ({"regex": r"encoder\.\d+"}, "encoder.12", True),
        ({"regex": r"encoder\.\d"}, "encoder.12", False),
        ({"regex": "encoder"}, "my.encoder", False),
        ({"type": "Linear"}, "x", True),
        ({"type": "MyLinear"}, "x", True),
        ({"type": "torch.nn.modules.linear.Linear"}, "x", True),
        ({"type": "Lin"}, "x", False),
        ({"name": "x", "type": "Linear"}, "x", True),
        ({"name": "x", "type": "Conv2d"}, "x", False),
        ({"name": "y", "regex": "x"}, "x", False),
        ({"op": "linear"}, "x", True),
        ({"op": "conv2d"}, "x", False),
        ({"op": "linear", "name": "y"}, "x", False),
    ],
    ids=str,
)
def test_matching(pattern: dict[str, str], path: str, expected: bool) -> None:
    assert ModulePattern(**pattern).matches(path, MyLinear(1, 1)) is expected


def test_nonsense_is_refused() -> None:
    with pytest.raises(ValidationError, match="empty pattern"):
        ModulePattern()
    with pytest.raises(ValidationError, match="no regular expression"):
        ModulePattern(regex="(")
    with pytest.raises(ValidationError, match=r"unknown op 'sofmax'.*softmax"):
        ModulePattern(op="sofmax")
    with pytest.raises(ValidationError, match="nmae"):
        ModulePattern(nmae="x")  # type: ignore[call-arg]


def test_text_shows_only_what_was_given() -> None:
    assert str(ModulePattern(name="a", type="Linear")) == "name='a', type='Linear'"


class Attend(nn.Module):
    """Functional operations of one module."""

    def forward(self, x: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(x, x, x) * 2 + torch.softmax(x, -1)


@pytest.mark.parametrize(
    ("op", "places"),
    [
        ("softmax", ["scaled_dot_product_attention_0.softmax", "softmax_0"]),
        ("mul", ["mul_0"]),
        ("multiply", ["mul_0"]),
        ("__add__", ["add_0"]),
        ("matmul", ["scaled_dot_product_attention_0.qk_matmul", "scaled_dot_product_attention_0.pv_matmul"]),
        ("scaled_dot_product_attention", ["scaled_dot_product_attention_0"]),
    ],
)
def test_an_op_means_functional_operations_too(op: str, places: list[str]) -> None:
    model = QuantizationSimModel(Attend(), torch.randn(1, 3, 4), config=None).model
    pattern = ModulePattern(op=op)
    found = [path for path, module in model.named_modules() if pattern.matches(path, module)]
    assert sorted(found) == sorted(f"functional_operations.{place}" for place in places)


def test_a_family_means_any_number_of_dimensions() -> None:
    modules = {"a": nn.Conv1d(1, 1, 1), "b": nn.Conv3d(1, 1, 1), "c": nn.ConvTranspose2d(1, 1, 1)}
    assert [path for path, module in modules.items() if ModulePattern(op="conv").matches(path, module)] == ["a", "b"]


def test_rules_go_by_op_and_say_what_the_model_has() -> None:
    rule = {"match": {"op": "softmax"}, "outputs": {"kind": "int", "bits": 8, "symmetric": False}}
    sim = QuantizationSimModel(Attend(), torch.randn(1, 3, 4), config={"rules": [rule]})
    assert sorted(place for place, _ in sim.quantizers()) == [
        "functional_operations.scaled_dot_product_attention_0.softmax.output_quantizers[0]",
        "functional_operations.softmax_0.output_quantizers[0]",
    ]
    with pytest.raises(ConfigurationError, match=r"op='gelu'.*the model has .*softmax"):
        QuantizationSimModel(Attend(), torch.randn(1, 3, 4), config={"rules": [{**rule, "match": {"op": "gelu"}}]})
