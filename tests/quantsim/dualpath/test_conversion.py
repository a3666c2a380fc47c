from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quantsim.dualpath.agreement import compare_with_fake_quantization
from quantsim.dualpath.conversion import to_integer
from quantsim.dualpath.integer_graph import BatchMultiple, IntegerOp
from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.sim import (
    ActivationPlacement,
    GranularityKind,
    IntegerSetting,
    QuantizationSimModel,
    SimulationConfig,
    preset,
)


def first(result: Any) -> Tensor:
    return result if isinstance(result, Tensor) else result[0]


def simulated(model: nn.Module, x: Tensor, config: Any = "integer_w8a8") -> QuantizationSimModel:
    sim = QuantizationSimModel(model.eval(), x, config=config)
    sim.compute_encodings([x])
    return sim


def ops(integer: Any) -> list[str]:
    return [node.op.value for node in integer.graph.nodes]


# ------------------------------------------------------------- whole models


def test_every_operation_of_every_model_is_integer(any_model: Any) -> None:
    coverage = any_model.integer.coverage
    assert coverage.is_complete, str(coverage)
    assert coverage.integer_multiplications == coverage.multiplications > 0
    assert len(any_model.integer.rounds) == 1
    assert not coverage.requantizations


def test_values_have_real_integer_types(any_model: Any) -> None:
    values = any_model.integer.run_integers((any_model.args, any_model.kwargs))
    graph = any_model.integer.graph
    assert set(values) == set(graph.values)
    for name, array in values.items():
        value = graph.values[name]
        assert array.dtype == np.dtype(value.dtype), name
        lengths = [size.factor * 2 if isinstance(size, BatchMultiple) else size for size in value.shape]
        assert array.shape == tuple(lengths), name
        if value.grid is not None and array.size:
            assert value.grid.low <= array.min(), name
            assert array.max() <= value.grid.high, name
    for node in graph.nodes:
        for array in node.constants.values():
            assert array.dtype.kind in "iu", node.name


def test_torch_computes_the_same_integers_as_numpy(any_model: Any) -> None:
    inputs = (any_model.args, any_model.kwargs)
    truth, fast = (any_model.integer.run_integers(inputs, executor) for executor in ("numpy", "torch"))
    for name, array in truth.items():
        assert np.array_equal(array, fast[name]), name


def test_each_node_is_within_one_step_of_fake_quantization(any_model: Any) -> None:
    found = compare_with_fake_quantization(any_model.integer, (any_model.args, any_model.kwargs))
    assert len(found) == sum(form in any_model.integer.graph.values for form in any_model.integer.origins.values())
    assert max(each.steps for each in found) <= 1, [each for each in found if each.steps > 1]


def test_results_are_those_of_the_simulation_but_for_rounding(any_model: Any) -> None:
    integer = first(any_model.integer(*any_model.args, executor="numpy", **any_model.kwargs))
    with torch.no_grad():
        fake = first(any_model.sim(*any_model.args, **any_model.kwargs))
        real = first(any_model.model(*any_model.args, **any_model.kwargs))
    assert integer.shape == fake.shape
    assert torch.cosine_similarity(integer.flatten(), fake.flatten(), 0) > 0.999
    assert torch.cosine_similarity(integer.flatten(), real.flatten(), 0) > 0.995  # 8 bits cost that much


@pytest.mark.parametrize("name", ["residual_cnn", "bert", "vit", "llama"])
def test_the_batch_may_be_of_any_size(converted: Callable[[str], Any], name: str) -> None:
    model = converted(name)
    args, kwargs = pytree.tree_map_only(
        Tensor, lambda tensor: torch.cat([tensor, tensor, tensor[:1]]), (model.args, model.kwargs)
    )
    once = first(model.integer(*model.args, executor="numpy", **model.kwargs))
    more = first(model.integer(*args, executor="numpy", **kwargs))
    assert more.shape[0] == 5
    assert torch.equal(more[:2], once)
    assert torch.equal(more[4], once[0])


def test_shared_masks_and_positions_are_prepared_once(converted: Callable[[str], Any]) -> None:
    values = converted("bert").integer.graph.values
    prepared = [name for name in converted("bert").integer.graph.inputs if values[name].dtype == "bool"]
    assert len(prepared) == 1


def test_the_simulation_is_unchanged(converted: Callable[[str], Any]) -> None:
    model = converted("residual_cnn")
    assert all("forward" not in module.__dict__ for module in model.sim.model.modules())


# ------------------------------------------------------------- what is fused


def test_convolution_norm_and_clipping_are_one_node(converted: Callable[[str], Any]) -> None:
    expected = ["convolution", "convolution", "add", "max_pool", "mean", "requantize", "linear"]
    assert ops(converted("residual_cnn").integer) == expected


def test_attention_divides_after_the_product_with_the_values(converted: Callable[[str], Any]) -> None:
    for name in ("bert", "llama", "vit", "swin"):
        found = ops(converted(name).integer)
        assert "softmax_matmul" in found
        assert "softmax" not in found


def test_root_mean_square_is_recognised_in_plain_operations(converted: Callable[[str], Any]) -> None:
    assert ops(converted("llama").integer).count("rms_norm") == 3


# ------------------------------------------------------------- what stays float


class _WithSort(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.cumsum(self.first(x), -1))


def test_what_has_no_integer_form_is_named_and_run_by_torch() -> None:
    torch.manual_seed(0)
    model, x = _WithSort(), torch.randn(5, 6)
    sim = simulated(model, x)
    integer = to_integer(sim, x)
    assert [(each.operation, each.is_integer) for each in integer.coverage.operations] == [
        ("linear", True),
        ("cumsum", False),
        ("linear", True),
    ]
    assert "cumsum has no integer form" in str(integer.coverage)
    assert len(integer.rounds) == 2
    assert torch.allclose(integer(x), sim(x), atol=0.02)
    with pytest.raises(ConfigurationError, match=r"2 of 3 operations(?s:.*)begin with cumsum of"):
        to_integer(sim, x, strict=True)


def test_weights_without_a_grid_stay_float() -> None:
    x = torch.randn(4, 8)
    integer = to_integer(simulated(nn.Linear(8, 4), x, "fp8_e4m3"), x)
    assert not integer.graph.nodes
    assert "no fixed integer grid" in str(integer.coverage)
    assert "computed in floating point" in integer.coverage.operations[0].reason


def test_float_results_come_with_the_model_s_structure() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> dict[str, Any]:
            y = self.layer(x)
            return {"integer": y, "float": torch.sort(y, dim=-1).values, "number": 3}

    x = torch.randn(3, 4)
    sim = simulated(Pair(), x)
    result = to_integer(sim, x)(x)
    assert set(result) == {"integer", "float", "number"}
    assert result["number"] == 3
    assert torch.equal(result["float"], torch.sort(result["integer"], dim=-1).values)


# ------------------------------------------------------------- refusals


def test_sums_that_could_overflow_are_refused_with_three_ways_out() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 2048)
    config = SimulationConfig(
        weights=IntegerSetting(bits=8, granularity=GranularityKind.CHANNEL),
        activations=IntegerSetting(bits=16),
        activation_placement=ActivationPlacement.OUTPUTS,
    )
    model = nn.Sequential(nn.Linear(2048, 4))
    with pytest.raises(ConfigurationError) as caught:
        to_integer(simulated(model, x, config), x)
    text = str(caught.value)
    assert text.startswith("0: ")
    assert "2048 products of 16-bit codes times 8-bit weights" in text
    assert "less than 2^31" in text
    assert all(f"({number})" in text for number in (1, 2, 3))


def test_an_uncalibrated_simulation_is_refused() -> None:
    x = torch.randn(2, 4)
    sim = QuantizationSimModel(nn.Linear(4, 4), x, config="integer_w8a8")
    with pytest.raises(NotCalibratedError, match="input_quantizers"):
        to_integer(sim, x)


def test_other_arguments_than_the_examples_are_refused(converted: Callable[[str], Any]) -> None:
    with pytest.raises(ConfigurationError, match="keyword arguments"):
        converted("bert").integer(input_ids=torch.zeros(2, 9, dtype=torch.long))


def test_a_model_that_cannot_be_traced_says_why() -> None:
    class Decides(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x) if float(x.sum()) > 0 else x

    x = torch.ones(2, 4)
    with pytest.raises(ConfigurationError, match=r"torch\.export cannot trace"):
        to_integer(simulated(Decides(), x), x)


# ------------------------------------------------------------- numbers


def test_a_channel_without_scale_keeps_its_shift() -> None:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(3)
    model = nn.Sequential(nn.Conv2d(2, 3, 1), norm).eval()
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 0.0, -1e-7]))
        norm.bias.copy_(torch.tensor([0.5, -0.75, 1.0]))
    x = torch.randn(4, 2, 3, 3)
    sim = simulated(model, x)
    integer = to_integer(sim, x, strict=True)
    assert IntegerOp.SCALE_SHIFT in [node.op for node in integer.graph.nodes]
    (name,) = integer.graph.outputs
    grid = integer.graph.values[name].grid
    assert grid is not None
    step = float(np.max(grid.scale))
    assert (integer(x) - sim(x)).abs().max() <= 1.001 * step


def test_results_without_a_quantizer_are_32_bit_sums() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 8)
    sim = simulated(nn.Linear(8, 3), x, "w8a8")
    integer = to_integer(sim, x, strict=True)
    (name,) = integer.graph.outputs
    grid = integer.graph.values[name].grid
    assert grid is not None
    assert grid.axis == 1
    assert torch.allclose(integer(x), sim(x), atol=1e-4)


def test_four_bit_weights_are_stored_in_int8() -> None:
    x = torch.randn(4, 8)
    config = preset("integer_w8a8").model_copy(
        update={"weights": IntegerSetting(bits=4, granularity=GranularityKind.CHANNEL)}
    )
    integer = to_integer(simulated(nn.Linear(8, 3), x, config), x)
    weight = integer.graph.nodes[0].constants["weight"]
    assert weight.dtype == np.int8
    assert weight.min() >= -8
    assert weight.max() <= 7


class _WithOptions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(8, 8)

    def forward(self, x: Tensor, *, scale: Tensor, negate: bool) -> Tensor:
        y = self.layer(x) * scale
        return (-y if negate else y).reshape(-1, 4)


def test_arguments_other_than_the_traced_ones_are_refused() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8)
    inputs: Any = ((x,), {"scale": torch.ones(2, 8), "negate": False})
    sim = QuantizationSimModel(_WithOptions().eval(), inputs, config="integer_w8a8")
    sim.compute_encodings([inputs])
    integer = to_integer(sim, inputs)
    more = {"scale": torch.ones(5, 8), "negate": False}
    assert integer(torch.randn(5, 8), **more).shape == (10, 4)
    for bad, message in (
        ({"scale": torch.ones(5, 8), "negate": True}, "got True; expected False"),
        ({"scale": torch.ones(5, 8, dtype=torch.long), "negate": False}, "got torch.int64"),
        ({"scale": torch.ones(5, 6), "negate": False}, r"shape \(5, 6\); expected .* shape \(2, 8\)"),
        ({"scale": 1.0, "negate": False}, r"got 1\.0"),
    ):
        with pytest.raises(ConfigurationError, match=message):
            integer(torch.randn(5, 8), **bad)
