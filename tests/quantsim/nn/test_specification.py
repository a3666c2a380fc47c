from __future__ import annotations

import functools
from typing import Any

import pytest
from torch import Tensor, nn

from quantsim.nn.specification import ModuleSpec, forward_arguments


def test_names_of_inputs_come_from_forward() -> None:
    assert ModuleSpec.derive(nn.Bilinear, "bilinear", 2).inputs == ("input1", "input2")
    assert ModuleSpec.derive(nn.Linear, "linear").inputs == ("input",)
    assert ModuleSpec.derive(nn.Embedding, "embedding", 0).inputs == ()
    assert ModuleSpec.derive(nn.LSTM, "lstm", ("input", "h", "c")).input_count == 3
    assert ModuleSpec(module_class=nn.Module, op="cat", variadic_inputs=True).input_count == 1


def test_arguments_of_decorated_and_keyword_only_forwards() -> None:
    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs)

        return wrapper

    class Decorated(nn.Module):
        @decorate
        def forward(self, x: Tensor, /, y: Tensor, *rest: Tensor, scale: float = 1.0) -> Tensor:
            return x

    class Plain(nn.Module):
        def forward(self, x: Tensor, y: Tensor, *rest: Tensor, scale: float = 1.0) -> Tensor:
            local = x + y
            return local * scale

    assert forward_arguments(Decorated) == forward_arguments(Plain) == ("x", "y")


def test_rows_are_frozen() -> None:
    with pytest.raises(AttributeError):
        ModuleSpec(module_class=nn.Linear, op="linear").op = "other"  # type: ignore[misc]
