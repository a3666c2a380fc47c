from __future__ import annotations

from torch import nn

from quantsim.nn import QuantizationMixin
from quantsim.transforms.plan import ModuleReplacement, TransformPlan


def replacement(path: str, module: nn.Module) -> ModuleReplacement:
    return ModuleReplacement(path, module, QuantizationMixin.from_module(module), "default", "anything")


def test_nothing_happens_before_it_is_applied() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2), nn.ReLU())
    first = model[0]
    plan = TransformPlan.of(model, [replacement("0", first)])
    assert model[0] is first
    assert plan.left_alone == ("1", "2")
    assert plan.apply() is model
    assert model[0] is plan.replacements[0].new and model[0].weight is first.weight


def test_what_is_inside_of_a_replaced_module_is_not_left_alone() -> None:
    model = nn.ModuleDict({"attention": nn.MultiheadAttention(4, 2), "norm": nn.LayerNorm(4)})
    assert TransformPlan.of(model, [replacement("attention", model["attention"])]).left_alone == ("norm",)


def test_the_model_itself_may_be_replaced() -> None:
    linear = nn.Linear(2, 2)
    plan = TransformPlan.of(linear, [replacement("", linear)])
    assert plan.left_alone == () and plan.apply() is plan.replacements[0].new


def test_fused_paths_of_torch_are_switched_off() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, batch_first=True)
    TransformPlan.of(layer, [replacement("linear1", layer.linear1)]).apply()
    assert layer.activation_relu_or_gelu == 0
