"""Every example of the float-precision layers page that quantsim was asked to be compatible with, run as written."""

from __future__ import annotations

import inspect
import re
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import quantsim.layers

PAGE = (Path(__file__).parent / "float-precision-layers.rst.txt").read_text(encoding="utf-8")

CLASSES = dict(re.findall(r"^\.\. class:: (\w+)\((.*)\)$", PAGE, flags=re.MULTILINE))
EXAMPLES = {
    name: textwrap.dedent(code)
    for name, code in re.findall(
        r"^\.\. class:: (\w+)\(.*?\.\. code-block:: python\n\n((?:      [^\n]*\n)+)",
        PAGE,
        flags=re.MULTILINE | re.DOTALL,
    )
}


def run(name: str) -> dict[str, Any]:
    names: dict[str, Any] = {"torch": torch, **{key: getattr(quantsim.layers, key) for key in CLASSES}}
    exec(compile(EXAMPLES[name], name, "exec"), names)
    return names


def test_every_class_and_example_of_the_page_is_found() -> None:
    assert len(CLASSES) == PAGE.count(".. class::") == 8
    assert list(EXAMPLES) == list(CLASSES)
    assert PAGE.count(".. code-block::") == len(EXAMPLES)


@pytest.mark.parametrize("name", CLASSES)
def test_example_runs_and_gives_the_shapes_it_states(name: str) -> None:
    names = run(name)
    stated = re.search(r"# (?:Shape|y): \[([\d, ]+)\]", EXAMPLES[name])
    assert stated is not None
    assert list(names["y"].shape) == [int(size) for size in stated.group(1).split(",")]


@pytest.mark.parametrize("name", CLASSES)
def test_constructor_takes_what_the_page_says(name: str) -> None:
    documented = inspect.signature(eval(f"lambda {CLASSES[name]}: None"))
    actual = list(inspect.signature(getattr(quantsim.layers, name)).parameters.values())
    for position, parameter in enumerate(documented.parameters.values()):
        found = actual[position]
        assert found.name == parameter.name
        assert found.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if parameter.default is not inspect.Parameter.empty:
            assert found.default == parameter.default
    assert documented.parameters["rmode"].default == 1


@pytest.mark.parametrize("name", CLASSES)
def test_results_are_those_of_quantized_operands(name: str) -> None:
    """The layers are near torch's with fp16, and differ from them."""
    layer, x = next((names[key], names["x"]) for names in [run(name)] for key in names if names[key].__class__ in ALL)
    original = layer.get_original_module()
    assert type(original).__module__.startswith("torch.nn")
    arguments = (x, x, x) if isinstance(layer, nn.MultiheadAttention) else (x,)
    got, wanted = layer(*arguments), original(*arguments)
    got, wanted = (result[0] if isinstance(result, tuple) else result for result in (got, wanted))
    assert not torch.equal(got, wanted)
    torch.testing.assert_close(got, wanted, rtol=0.02, atol=0.02)


ALL = {getattr(quantsim.layers, name) for name in CLASSES}


@pytest.mark.parametrize("name", ["QuantizedRNN", "QuantizedLSTM", "QuantizedGRU"])
def test_final_states_are_the_last_step(name: str) -> None:
    names = run(name)
    assert names["h"].shape == (1, 2, 20)
    assert torch.equal(names["y"][:, -1], names["h"][0])
    if name == "QuantizedLSTM":
        assert names["c"].shape == (1, 2, 20)


def test_attention_weights_are_averaged_over_heads_as_in_torch() -> None:
    names = run("QuantizedMultiheadAttention")
    assert names["weights"].shape == (2, 10, 10)
    torch.testing.assert_close(names["weights"].sum(-1), torch.ones(2, 10), rtol=0, atol=5e-3)


def test_the_simulator_the_page_names_is_there() -> None:
    assert "FloatPrecisionSimulator" in PAGE
    assert isinstance(quantsim.layers.FloatPrecisionSimulator(5, 10), nn.Module)
