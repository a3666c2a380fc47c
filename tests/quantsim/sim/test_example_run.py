from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.nn import QuantizationMixin
from quantsim.sim.example_inputs import ModelInputs
from quantsim.sim.example_run import ExampleRun, InputReference, OutputReference, run_example
from quantsim.sim.leaf import find_leaves, quantizable_modules
from quantsim.sim.replacement import swap_modules


def observe(model: nn.Module, *args: object, **kwargs: object) -> ExampleRun:
    swapped = {module: QuantizationMixin.from_module(module) for module in quantizable_modules(model).values()}
    model = swap_modules(model, swapped)
    return run_example(model, ModelInputs(args, kwargs), find_leaves(model))


class Graph(nn.Module):
    """Two linears whose values meet in functional operations, by ways that keep the value or change it."""

    def __init__(self, between: str) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x)
        match self.between:
            case "nothing":
                pass
            case "views":
                y = y.view(-1, 2, 2).transpose(1, 2).transpose(1, 2).reshape(x.shape)[:]
            case "copies":
                y = y.reshape(-1, 2, 2).transpose(1, 2).contiguous().transpose(1, 2).reshape(x.shape).clone()
            case "arithmetic":
                y = F.gelu(y) + 1
            case "in place":
                y.mul_(2)
            case "view in place":
                y[0].zero_().add_(1)
            case "detached":
                y = y.detach()
        return self.second(y)


@pytest.mark.parametrize("between", ["nothing", "views", "copies", "detached"])
def test_an_input_is_known_to_be_anothers_output(between: str) -> None:
    run = observe(Graph(between), torch.randn(2, 4))
    assert run.calls["second"].inputs[0].producers == {OutputReference("first", 0)}
    assert run.calls["first"].consumers == {"second"}
    assert run.unquantized == ()


@pytest.mark.parametrize(
    ("between", "operations"),
    [("arithmetic", {"gelu": 1, "add": 1}), ("in place", {"mul": 1}), ("view in place", {"add": 1})],
)
def test_a_changed_value_comes_from_nowhere(between: str, operations: dict[str, int]) -> None:
    run = observe(Graph(between), torch.randn(2, 4))
    assert run.calls["second"].inputs[0].producers == {None}
    assert None in run.calls["first"].consumers
    assert {operation.operation: operation.count for operation in run.unquantized} == operations
    assert {operation.module_type for operation in run.unquantized} == {"Graph"}


def test_model_inputs_and_outputs_are_known() -> None:
    run = observe(Graph("arithmetic"), torch.randn(2, 4))
    assert run.calls["first"].inputs[0].producers == {InputReference(0)}
    assert run.model_inputs == (InputReference(0),)
    assert run.model_outputs == (OutputReference("second", 0),)
    run = observe(Graph("arithmetic"), x=torch.randn(2, 4))
    assert run.calls["first"].inputs[0].producers == {InputReference(-1, "x")}


def test_modules_that_keep_values_are_looked_through() -> None:
    run = observe(
        nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Flatten(), nn.Identity(), nn.Linear(4, 4)), torch.randn(2, 4)
    )
    assert run.calls["4"].inputs[0].producers == {OutputReference("0", 0)}
    run = observe(
        nn.Sequential(nn.Conv1d(1, 2, 1), nn.MaxPool1d(2), nn.Flatten(), nn.Linear(4, 4)), torch.randn(2, 1, 4)
    )
    assert run.calls["3"].inputs[0].producers == {OutputReference("0", 0)}


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.fc(x)) @ x.transpose(0, 1)


def test_a_module_called_twice_has_two_producers() -> None:
    run = observe(Residual(), torch.randn(2, 4))
    assert run.calls["fc"].calls == 2
    assert run.calls["fc"].inputs[0].producers == {InputReference(0), OutputReference("fc", 0)}
    assert run.calls["fc"].consumers == {"fc", None}


def test_multiplications_outside_modules_are_counted() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = F.scaled_dot_product_attention(x, x, x)
            return (y @ y.mT).softmax(-1) * 0.5 + torch.einsum("...ij,...kj->...ik", y, y)

    run = observe(nn.Sequential(Attention()), torch.randn(1, 3, 4))
    counts = {operation.operation: (operation.count, operation.multiplies) for operation in run.unquantized}
    assert counts["scaled_dot_product_attention"] == (1, 2)
    assert counts["matmul"] == (1, 1)
    assert counts["einsum"] == (1, 1)
    assert counts["softmax"] == (1, 0)
    assert counts["mul"] == (1, 0)
    assert {operation.module for operation in run.unquantized} == {"0"}


def test_copies_look_ups_and_integer_work_are_no_arithmetic() -> None:
    class Embedding(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(10, 4)

        def forward(self, ids: Tensor) -> Tensor:
            ids = (ids + 1) % 10
            return torch.zeros(1).to(ids.device).expand(4) if ids.sum() < 0 else self.table(ids).flatten(1)

    run = observe(Embedding(), torch.tensor([[1, 2]]))
    assert run.unquantized == ()
    assert not any(seen.is_floating for seen in run.calls["table"].inputs.values())
    assert run.calls["table"].outputs == {0: True}


def test_the_model_is_as_before_also_after_a_failure() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(3, 2)).train()
    model[1].eval()
    modules = [*model.modules()]
    flags = [module.training for module in modules]
    with pytest.raises(ConfigurationError) as caught:
        observe(model, torch.randn(2, 4))
    assert "module '2'" in str(caught.value)
    assert "RuntimeError" in str(caught.value)
    assert [module.training for module in modules] == flags
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in [*modules, *model.modules()])


def test_recurrent_states_have_their_places() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm = nn.LSTM(4, 4)

        def forward(self, x: Tensor, h: Tensor, c: Tensor) -> Tensor:
            return self.lstm(x, (h, c))[0]

    run = observe(Recurrent(), torch.randn(3, 1, 4), torch.zeros(1, 1, 4), torch.zeros(1, 1, 4))
    call = run.calls["lstm"]
    assert {slot: seen.producers for slot, seen in call.inputs.items()} == {
        0: {InputReference(0)},
        1: {InputReference(1)},
        2: {InputReference(2)},
    }
    assert call.outputs == {0: True, 1: True, 2: True}


def test_the_record_keeps_no_tensors_alive() -> None:
    import gc
    import weakref

    seen: list[weakref.ref[Tensor]] = []

    class Watched(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.fc(x)
            seen.append(weakref.ref(y))
            return y.sum()

    run = observe(Watched(), torch.randn(2, 4))
    gc.collect()
    assert run.calls["fc"].calls == 1
    assert [reference() for reference in seen] == [None]
