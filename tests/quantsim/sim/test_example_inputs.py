"""The forms in which example inputs may be given all mean the same call."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.sim import QuantizationSimModel
from quantsim.sim.example_inputs import ModelInputs

X = torch.linspace(-1, 1, 8).reshape(2, 4)


class Scaled(nn.Module):
    """Takes a tensor and an optional second one."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
        y = self.fc(x)
        return y if scale is None else y * scale


FORMS: dict[str, tuple[Any, int, list[str]]] = {
    "tensor": (X, 1, []),
    "tuple": ((X,), 1, []),
    "list": ([X], 1, []),
    "two": ((X, X[:, :1]), 2, []),
    "dict": ({"x": X}, 0, ["x"]),
    "both": (((X,), {"scale": X[:, :1]}), 1, ["scale"]),
    "both as list": ([[X], {"scale": X[:, :1]}], 1, ["scale"]),
    "both, nothing named": (((X,), {}), 1, []),
    "both, all named": (((), {"x": X}), 0, ["x"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_read(form: str) -> None:
    given, positional, keywords = FORMS[form]
    inputs = ModelInputs.of(given)
    assert (len(inputs.args), sorted(inputs.kwargs or {})) == (positional, keywords)
    assert ModelInputs.of(inputs) is inputs
    assert inputs.call(Scaled()).shape == (2, 3)


@pytest.mark.parametrize("form", FORMS)
def test_a_simulation_is_built_and_calibrated_with_every_form(form: str) -> None:
    sim = QuantizationSimModel(Scaled(), FORMS[form][0])
    assert [place for place, _ in sim.quantizers()] == ["fc.input_quantizers[0]", "fc.param_quantizers['weight']"]
    sim.compute_encodings([FORMS[form][0]])
    assert sim.uncalibrated() == ()


@pytest.mark.parametrize("wrong", [3, "text", None, 1.5, {1, 2}], ids=str)
def test_other_types_are_refused(wrong: object) -> None:
    with pytest.raises(ConfigurationError, match="my inputs") as caught:
        ModelInputs.of(wrong, what="my inputs")
    assert type(wrong).__name__ in str(caught.value)


def test_keywords_need_names() -> None:
    with pytest.raises(ConfigurationError, match="keyword arguments need names"):
        ModelInputs.of({0: X})
    inner = ModelInputs.of((({0: X},), {}))
    assert inner.args == ({0: X},)


def test_moving_reaches_nested_tensors() -> None:
    moved = ModelInputs.of((([X, 3],), {"cache": {"key": X}})).to(torch.device("meta"))
    assert moved.args[0][0].device.type == "meta"
    assert moved.args[0][1] == 3
    assert moved.kwargs is not None
    assert moved.kwargs["cache"]["key"].device.type == "meta"


def test_a_model_that_does_not_run_on_them_says_where_it_failed() -> None:
    with pytest.raises(ConfigurationError) as caught:
        QuantizationSimModel(Scaled(), torch.zeros(2, 5))
    for words in ("example_inputs", "module 'fc'", "RuntimeError"):
        assert words in str(caught.value)
    with pytest.raises(ConfigurationError, match="TypeError in the model"):
        QuantizationSimModel(Scaled(), {"y": X})
