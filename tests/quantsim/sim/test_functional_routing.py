"""Functions called in a forward go to operation modules, each call to its own, and only where it should."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.quantization import affine
from quantsim.sim import QuantizationSimModel, functional_routing, preset
from quantsim.sim.config import ActivationPlacement
from quantsim.sim.functional_routing import FunctionalOperations, is_routed, route_functions, unroute_functions

OUTPUTS = preset("w8a8").model_copy(update={"activation_placement": ActivationPlacement.OUTPUTS})


class Recurrence(nn.Module):
    """One function called once for every time step."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        state = torch.zeros_like(x[:, 0])
        for step in range(x.shape[1]):
            state = torch.tanh(self.fc(state) + x[:, step])
        return state


class Twice(nn.Module):
    """One helper called from two places."""

    def forward(self, x: Tensor) -> Tensor:
        return half_square(x) - half_square(2 - x)


def half_square(x: Tensor) -> Tensor:
    return x * x / 2


def routed(model: nn.Module, x: Tensor) -> dict[str, FunctionalOperations]:
    return dict(route_functions(model, frozenset(), x, lambda: model(x)))


def test_calls_are_counted_by_function_and_module() -> None:
    model = nn.Sequential(Twice(), Twice())
    found = routed(model, torch.randn(3))
    assert sorted(found) == ["0", "1"]
    assert found["0"].sequences == {
        "mul": ("mul_0", "mul_1"),
        "div": ("div_0", "div_1"),
        "sub": ("sub_0", "sub_1"),
    }


def test_a_loop_over_time_has_one_operation_at_any_length() -> None:
    model = Recurrence()
    operations = routed(model, torch.randn(2, 3, 4))[""]
    assert set(operations.sequences) == {"add", "tanh"} | ({"linear"} & set(operations.sequences))
    assert operations.sequences["tanh"] == ("tanh_0",) * 3
    assert operations.at("tanh", 40) is operations.at("tanh", 0)


def test_results_are_bit_equal_and_nothing_is_left_afterwards() -> None:
    model, x = Twice(), torch.randn(5)
    before = model(x)
    routed(model, x)
    assert is_routed(model) and type(model).__name__ == "Twice" and isinstance(model, Twice)
    assert torch.equal(model(x), before)
    unroute_functions(model)
    assert type(model) is Twice and not list(model.modules())[1:]
    assert torch.equal(model(x), before)


def test_a_failing_run_leaves_no_trace() -> None:
    model = Twice()
    with pytest.raises(ZeroDivisionError):
        route_functions(model, frozenset(), torch.zeros(1), lambda: 1 / 0)
    assert type(model) is Twice and not list(model.children())


def test_reversed_and_in_place_operators() -> None:
    class Operators(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            y = 3 - x
            y += x * 2
            y = 6 / (y + 1)
            return 2**y

    model, x = Operators(), torch.rand(7)
    sim = QuantizationSimModel(model, x, OUTPUTS)
    fine = {name: quantizer for name, quantizer in sim.quantizers() if "input" in name or "output" in name}
    assert len(fine) >= 6
    for module in sim.model.modules():
        for container in ("input_quantizers", "output_quantizers"):
            for index, quantizer in enumerate(getattr(module, container, ())):
                if quantizer is not None:
                    getattr(module, container)[index] = affine.QuantizeDequantize((), 24, symmetric=False)
    sim.compute_encodings([x])
    torch.testing.assert_close(sim(x), model(x), rtol=1e-5, atol=1e-5)
    assert not torch.equal(sim(x), model(x))


def test_masks_and_tables_of_positions_are_left_alone() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            angles = torch.arange(x.shape[-1]).float() / 10  # from positions alone
            scores = x * torch.cos(angles) + (1 - mask) * torch.finfo(x.dtype).min
            return torch.softmax(scores, -1)

    x, mask = torch.randn(2, 4), torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    sim = QuantizationSimModel(Masked(), (x, mask), OUTPUTS)
    sim.compute_encodings([(x, mask)])
    names = [name for name, _ in sim.quantizers()]
    assert not any(op in name for name in names for op in ("cos", "div", "add", "sub"))
    assert any("mul_" in name for name in names) and any("softmax" in name for name in names)
    torch.testing.assert_close(sim(x, mask), Masked()(x, mask), atol=0.02, rtol=0.0)


def test_excluded_modules_and_their_calls_stay_as_they_are() -> None:
    class Outer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.fc = Twice(), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.fc(self.inner(x)))

    config = OUTPUTS.model_copy(update={"exclude": preset("w8a8").model_validate({"exclude": ["inner", "fc"]}).exclude})
    sim = QuantizationSimModel(Outer(), torch.randn(2, 4), config)
    assert type(sim.model.fc) is nn.Linear
    assert {name.split(".")[1] for name, _ in sim.quantizers()} == {"relu_0"}


def test_an_operation_can_be_excluded_by_name() -> None:
    config = preset("w8a8").model_validate(
        {**OUTPUTS.model_dump(), "exclude": [{"name": "*functional_operations.mul_*"}]}
    )
    names = [name for name, _ in QuantizationSimModel(Twice(), torch.randn(3), config).quantizers()]
    assert names and not any("mul_" in name for name in names)


def _calibrated(model: nn.Module, x: Tensor) -> QuantizationSimModel:
    sim = QuantizationSimModel(model, x, OUTPUTS)
    sim.compute_encodings([x])
    return sim


def test_copies_and_pickles_compute_the_same() -> None:
    x = torch.randn(2, 3, 4)
    sim = _calibrated(Recurrence(), x)
    expected = sim(x)
    assert torch.equal(copy.deepcopy(sim)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(sim.model))(x), expected)
    other = _calibrated(Recurrence(), torch.zeros(1, 3, 4) + 1)
    other.load_state_dict(sim.state_dict())
    assert torch.equal(other(x), expected)


@pytest.mark.parametrize("model, shape", [(Recurrence(), (2, 3, 4)), (Twice(), (5,))])
def test_compiled_in_one_graph_and_exported(model: nn.Module, shape: tuple[int, ...]) -> None:
    x = torch.randn(shape)
    sim = _calibrated(model, x)
    expected = sim(x)
    torch._dynamo.reset()
    compiled: Any = torch.compile(sim.model, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), expected, rtol=1e-6, atol=1e-6)
    exported = torch.export.export(sim.model, (x,), strict=False)
    torch.testing.assert_close(exported.module()(x), expected, rtol=1e-6, atol=1e-6)


def test_strict_export_is_refused() -> None:
    x = torch.randn(5)
    with pytest.raises(Exception, match="strict"):
        torch.export.export(_calibrated(Twice(), x).model, (x,), strict=True)


def test_gradients_flow_to_weights_and_inputs() -> None:
    x = torch.randn(2, 3, 4, requires_grad=True)
    sim = _calibrated(Recurrence(), x.detach())
    sim(x).sum().backward()
    assert x.grad is not None and bool(x.grad.abs().sum() > 0)
    assert sim.model.fc.weight.grad is not None


def test_removal_gives_the_float_model_back() -> None:
    x, model = torch.randn(2, 3, 4), Recurrence()
    expected = model(x)
    sim = _calibrated(model, x)
    removed = sim.remove()
    assert type(removed) is Recurrence and type(removed.fc) is nn.Linear
    assert [name for name, _ in removed.named_modules()] == ["", "fc"]
    assert torch.equal(removed(x), expected)


def test_a_device_context_still_reaches_factory_functions() -> None:
    class Makes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(2) + x.to("meta")[:2]

    model = Makes()
    with torch.device("meta"):
        expected = model(torch.ones(3)).device
        route_functions(model, frozenset(), torch.ones(3), lambda: model(torch.ones(3)))
        assert model(torch.ones(3)).device == expected


def test_attention_equals_torchs() -> None:
    class Attend(nn.Module):
        def forward(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
            return F.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True, scale=0.3)

    torch.manual_seed(0)
    q, k, v = torch.randn(2, 4, 5, 8), torch.randn(2, 2, 6, 8), torch.randn(2, 2, 6, 8)
    mask = torch.ones(2, 1, 5, 6, dtype=torch.bool)
    mask[1, :, :, 3:] = False
    mask[0, :, 2] = False  # a query without any key
    sim = QuantizationSimModel(Attend(), (q, k, v, mask), config={"activations": {"kind": "int", "bits": 16}})
    sim.compute_encodings([(q, k, v, mask)])
    assert len(list(sim.quantizers())) == 4
    torch.testing.assert_close(sim(q, k, v, mask), Attend()(q, k, v, mask), atol=2e-3, rtol=0.0)


def test_two_input_names_are_refused_clearly() -> None:
    with pytest.raises(ConfigurationError, match="does not run"):
        QuantizationSimModel(Twice(), (torch.ones(1), torch.ones(1)))


class Nested(nn.Module):
    """Calls the next level, then a function that is nobody's operation."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.inner = Nested(depth - 1) if depth else nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x).reshape(-1, 4)


def test_the_example_run_does_not_grow_exponentially_with_the_depth_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows tensors must not itself be followed by the levels further out, and so on."""
    calls = []
    has = functional_routing._Activations.has
    monkeypatch.setattr(functional_routing._Activations, "has", lambda self, value: calls.append(1) or has(self, value))

    def count(depth: int) -> int:
        calls.clear()
        QuantizationSimModel(Nested(depth), torch.zeros(1, 4))
        return len(calls)

    # Each level sees the calls of those inside of it: 3² times as many for 3 times the depth.
    assert count(12) < 12 * count(4)
