"""The page on dual-path modules that quantsim was asked to be compatible with: its names, signatures and attributes."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import quantsim.dualpath
from quantsim.dualpath import (
    ConvOPS,
    IntMatMul,
    MatMul,
    MulShift,
    QAttention,
    QBase,
    QBaseConv2d,
    QBaseLinear,
    QBertSelfAttention,
    QWindowAttention,
    dequantize,
    inference,
)
from quantsim.nn import compute_encodings

PAGE = (Path(__file__).parent / "dual-path-basic-modules.md.txt").read_text(encoding="utf-8")

HEADINGS = re.findall(r"^## `(\w+)`", PAGE, flags=re.MULTILINE)
SECTIONS = dict(zip(HEADINGS, re.split(r"^## `\w+`", PAGE, flags=re.MULTILINE)[1:], strict=True))
CONSTRUCTORS = {
    name: inspect.signature(eval(f"lambda {arguments.removeprefix('self').lstrip(', ')}: None", {"nn": nn}))
    for name, section in SECTIONS.items()
    for arguments in [
        re.sub(
            r":\s*(?:int|float|bool)\b",
            "",
            re.sub(r"\s+", " ", re.findall(r"def __init__\((.*?)\):", section, flags=re.DOTALL)[0]).strip().rstrip(","),
        )
    ]
}
ATTRIBUTES = {
    name: sorted(set(re.findall(r"^- `(\w+)(?: \([\w.]+\))?`", section, flags=re.MULTILINE)))
    for name, section in SECTIONS.items()
}
CONFIG = SimpleNamespace(hidden_size=16, num_attention_heads=2, attention_probs_dropout_prob=0.0)
MAKE = {
    "QBase": lambda **_: QBase(8),
    "QBaseConv2d": lambda **bits: QBaseConv2d(2, 4, 3, padding=1, **bits),
    "QBaseLinear": lambda **bits: QBaseLinear(16, 8, **bits),
    "QAttention": lambda **bits: QAttention(16, 2, **bits),
    "QWindowAttention": lambda **bits: QWindowAttention(16, 2, window_size=2, **bits),
    "QBertSelfAttention": lambda **bits: QBertSelfAttention(CONFIG, **bits),
}
INPUTS = {"QBaseConv2d": (3, 2, 6, 6), "QWindowAttention": (3, 4, 16)}


def inputs(name: str) -> torch.Tensor:
    return torch.randn(INPUTS.get(name, (3, 5, 16)))


def calibrated(name: str) -> nn.Module:
    module = MAKE[name](wbit=8, abit=8).eval()
    with compute_encodings(module) if name != "QBase" else module.compute_encodings():
        module(inputs(name))
    return module


def test_all_modules_of_the_page_are_found() -> None:
    assert list(MAKE) == HEADINGS
    assert ATTRIBUTES["QBase"] == ["nbit", "scale", "train_flag", "zero_point"]
    assert ATTRIBUTES["QBaseLinear"] == ["abit", "aq", "qweight", "train_flag", "wbit", "wq", "yq"]
    assert {"xq", "qqkv", "qproj", "qk", "attnv"} <= set(ATTRIBUTES["QAttention"])
    assert {"xq", "qquery", "qkey", "qvalue", "qkv_deq"} <= set(ATTRIBUTES["QBertSelfAttention"])


def test_every_name_of_the_page_imports_with_and_without_underscore() -> None:
    named = {*HEADINGS, *re.findall(r"\b_?(QBase\w*|Q\w+Attention|MulShift|MulQuant|IntMatMul|ConvOPS|MatMul)\b", PAGE)}
    assert {"MulShift", "IntMatMul", "ConvOPS", "MatMul"} <= named
    for name in {*named, "MulQuant", "QLlamaAttention"}:
        assert getattr(quantsim.dualpath, name) is getattr(quantsim.dualpath, f"_{name}")
        assert name in quantsim.dualpath.__all__
    with pytest.raises(AttributeError, match="_Grid"):
        _ = quantsim.dualpath._Grid


def test_the_page_s_export_is_here_too() -> None:
    from quantsim import export

    assert "(`nn2chip`)" in PAGE
    assert quantsim.dualpath.nn2chip is export.nn2chip


@pytest.mark.parametrize("name", HEADINGS)
def test_constructors_take_what_the_page_says(name: str) -> None:
    actual = list(inspect.signature(getattr(quantsim.dualpath, name)).parameters.values())
    for position, documented in enumerate(CONSTRUCTORS[name].parameters.values()):
        found = actual[position]
        assert found.name == documented.name
        assert found.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
        if documented.default is not inspect.Parameter.empty:
            assert found.default == documented.default


@pytest.mark.parametrize("name", HEADINGS)
def test_attributes_are_there(name: str) -> None:
    module = calibrated(name)
    aliases = {"attv": "attnv"}  # the page spells it so in one place
    wanted = {aliases.get(each, each) for each in ATTRIBUTES[name]}
    module.inference()
    for attribute in wanted:
        assert hasattr(module, attribute), attribute
    for method in {*re.findall(r"^#### `(\w+)`", SECTIONS[name], flags=re.MULTILINE), "trainFunc", "evalFunc"}:
        assert callable(getattr(module, method)), method


def test_quantizer_parameters_are_buffers_with_the_defaults_of_the_page() -> None:
    quantizer = QBase(8)
    assert set(dict(quantizer.named_buffers())) == {"scale", "zero_point"}
    assert float(quantizer.zero_point) == 0.0
    assert (quantizer.nbit, quantizer.train_flag, quantizer.unsigned) == (8, True, True)


@pytest.mark.parametrize("name", ["QBaseConv2d", "QBaseLinear"])
def test_quantizers_are_identity_by_default(name: str) -> None:
    layer = MAKE[name]()
    assert (layer.wbit, layer.abit) == (32, 32)
    assert all(isinstance(getattr(layer, each), nn.Identity) for each in ("wq", "aq", "yq"))
    assert isinstance(layer, getattr(nn, name.removeprefix("QBase")))


@pytest.mark.parametrize(("name", "operation"), [("QBaseConv2d", ConvOPS), ("QBaseLinear", MatMul)])
def test_inference_defines_the_operation_and_the_low_precision_weight(name: str, operation: type) -> None:
    layer = calibrated(name)
    assert "qweight" not in dict(layer.named_buffers())
    layer.inference()
    assert isinstance(layer.ops, operation)
    assert dict(layer.named_buffers())["qweight"].dtype == torch.int8
    assert not layer.wq.train_flag
    assert not layer.aq.train_flag


@pytest.mark.parametrize("name", HEADINGS)
def test_paths_are_real_in_training_and_integer_in_inference(name: str) -> None:
    module, x = calibrated(name), inputs(name)
    first = lambda result: result[0] if isinstance(result, tuple) else result  # noqa: E731
    real = first(module(x)).detach()
    assert real.is_floating_point()
    integers = first(inference(module)(x))
    assert not integers.is_floating_point()
    if name == "QBase":
        found = (integers.double() - module.zero_point) * module.scale
    else:
        found = dequantize(integers, module.output_grid)
    assert float((found - real).norm() / real.norm()) < 0.03


@pytest.mark.parametrize("name", ["QAttention", "QWindowAttention", "QBertSelfAttention"])
def test_attention_is_made_of_the_parts_of_the_page(name: str) -> None:
    module = calibrated(name)
    assert isinstance(module.qk, IntMatMul)
    assert isinstance(module.attnv, IntMatMul)
    assert isinstance(module.attn_scale, MulShift)
    assert float(module.attn_scale.scale) == pytest.approx(8**-0.5)


def test_a_customised_quantizer_as_the_page_describes_it() -> None:
    class Scaled(QBase):
        """Updates the buffers inside `q`, from an observer of its own."""

        def observer(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return x.abs().max() / self.qmax, torch.zeros(())

        def q(self, x: torch.Tensor) -> torch.Tensor:
            if self.train_flag:
                scale, zero_point = self.observer(x.detach())
                self.scale.copy_(scale)
                self.zero_point.copy_(zero_point)
            return self.on_grid(x)

    quantizer, x = Scaled(4, unsigned=False), torch.tensor([-7.0, 3.4, 7.0])
    assert quantizer(x).tolist() == [-7.0, 3.0, 7.0]
    layer = QBaseLinear(3, 2)
    layer.wq, layer.aq = Scaled(4, unsigned=False), quantizer
    layer(x)
    codes = layer.inference().aq(x)
    assert (codes.dtype, codes.tolist()) == (torch.int8, [-7, 3, 7])
    assert layer(x).dtype == torch.int32
