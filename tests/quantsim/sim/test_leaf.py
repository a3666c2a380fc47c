from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

import quantsim.nn as qnn
from quantsim.nn import QuantizationMixin
from quantsim.sim.leaf import Leaf, find_leaves, quantizable_modules
from quantsim.sim.module_kinds import ModuleKind

X, Y, Z = torch.zeros(2, 3), torch.ones(2, 3), torch.ones(1, 3)


def leaf(module: nn.Module) -> Leaf:
    return Leaf("m", QuantizationMixin.from_module(module))


class TimesTwo(nn.Linear):
    def forward(self, values: Tensor) -> Tensor:  # another name than nn.Linear's
        return 2 * super().forward(values)


def test_arguments_are_bound_by_name_or_position() -> None:
    linear = leaf(nn.Linear(3, 3))
    assert linear.bind_inputs((X,), {}) == linear.bind_inputs((), {"input": X}) == [(0, X)]
    bilinear = leaf(nn.Bilinear(3, 3, 2))
    assert bilinear.bind_inputs((X,), {"input2": Y}) == [(0, X), (1, Y)]
    assert bilinear.bind_inputs((), {"input2": Y}) == [(1, Y)]


def test_states_of_recurrent_modules_are_bound() -> None:
    lstm = leaf(nn.LSTM(3, 3))
    assert lstm.bind_inputs((X, (Y, Z)), {}) == [(0, X), (1, Y), (2, Z)]
    assert lstm.bind_inputs((X,), {"hx": (Y, Z)}) == [(0, X), (1, Y), (2, Z)]
    assert lstm.bind_inputs((X,), {}) == [(0, X)]
    assert leaf(nn.GRU(3, 3)).bind_inputs((X, Y), {}) == [(0, X), (1, Y)]
    packed = pack_sequence([X])
    assert leaf(nn.GRU(3, 3)).bind_inputs((packed,), {}) == [(0, packed.data)]


def test_any_number_of_tensors_is_bound_in_order() -> None:
    concat = Leaf("m", QuantizationMixin.from_module(qnn.Concat()))
    assert [slot for slot, _ in concat.bind_inputs((X, Y, Z), {})] == [0, 0, 0]


def test_a_subclass_has_its_base_classs_row_and_its_own_arguments() -> None:
    quantized = QuantizationMixin.wrap(TimesTwo).from_module(TimesTwo(3, 3))
    found = Leaf("m", quantized)
    assert found.op == "linear"
    assert found.kind is ModuleKind.MULTIPLYING
    assert found.bind_inputs((), {"values": X}) == [(0, X)]
    assert set(found.parameters) == {"weight", "bias"}


@pytest.mark.parametrize(
    ("module", "kind"),
    [
        (nn.Linear(2, 2), ModuleKind.MULTIPLYING),
        (nn.ConvTranspose2d(2, 2, 1), ModuleKind.MULTIPLYING),
        (nn.GRUCell(2, 2), ModuleKind.MULTIPLYING),
        (qnn.MatMul(), ModuleKind.MULTIPLYING),
        (nn.Embedding(2, 2), ModuleKind.EMBEDDING),
        (nn.Flatten(), ModuleKind.GRID_KEEPING),
        (nn.MaxPool2d(2), ModuleKind.GRID_KEEPING),
        (nn.MSELoss(), ModuleKind.LOSS),
        (nn.MultiheadAttention(4, 2), ModuleKind.COMPOSITE),
        (nn.LayerNorm(2), ModuleKind.OTHER),
        (nn.GELU(), ModuleKind.OTHER),
        (qnn.Add(), ModuleKind.OTHER),
    ],
    ids=lambda value: type(value).__name__,
)
def test_kinds(module: nn.Module, kind: ModuleKind) -> None:
    assert leaf(module).kind is kind


def test_only_the_outermost_modules_qualify() -> None:
    model = nn.ModuleDict(
        {"attention": nn.MultiheadAttention(4, 2), "fc": TimesTwo(2, 2), "list": nn.ModuleList([nn.ReLU()])}
    )
    assert list(quantizable_modules(model)) == ["attention", "fc", "list.0"]
    assert list(quantizable_modules(model, frozenset({"fc"}))) == ["attention", "list.0"]
    with QuantizationMixin.ignore(nn.ReLU):
        assert list(quantizable_modules(model)) == ["attention", "fc"]
    assert list(quantizable_modules(nn.Linear(1, 1))) == [""]


def test_leaves_inside_of_quantized_modules_are_found() -> None:
    model = nn.Sequential(QuantizationMixin.from_module(nn.MultiheadAttention(4, 2)))
    paths = [found.path for found in find_leaves(model)]
    assert "0.q_proj" in paths
    weight = next(found for found in find_leaves(model) if found.path == "0.q_proj").parameters["weight"]
    assert weight.shape == (4, 4)
