from __future__ import annotations

import ast
from pathlib import Path

import quantsim.layers
from quantsim.layers import quantized_layers, stubs


def test_stub_is_current(tmp_path: Path) -> None:
    stub = Path(quantsim.layers.__file__).parent / "quantized_layers.pyi"
    assert stub.read_text(encoding="utf-8") == stubs.stub_text(), "run `python -m quantsim.layers.stubs`"
    stubs.write_stub(tmp_path)
    assert (tmp_path / stub.name).read_text(encoding="utf-8") == stubs.stub_text()


def test_stub_has_every_layer_and_its_arguments() -> None:
    tree = ast.parse(stubs.stub_text())
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    assert {*classes, "QuantizedLinearNorm"} == set(quantized_layers.__all__)
    constructor = classes["QuantizedConv2d"].body[0]
    assert isinstance(constructor, ast.FunctionDef)
    names = [argument.arg for argument in constructor.args.args]
    assert names == ["self", "in_channels", "out_channels", "kernel_size", "exp_bits", "sig_bits", "stride", "padding",
                     "rmode"]  # fmt: skip
    keywords = {argument.arg for argument in constructor.args.kwonlyargs}
    assert {"dilation", "groups", "padding_mode", "format", "gradient_format", "seed"} <= keywords
