"""Writes the type stub of the generated layers: ``python -m quantsim.layers.stubs``.

Type checkers and editors do not run the table, so they read classes and constructors from ``quantized_layers.pyi``
beside this file. A test holds the stub to the table.
"""

from __future__ import annotations

import inspect
from inspect import Parameter
from pathlib import Path
from typing import Final

from quantsim.layers.generation import layer_signature
from quantsim.layers.table import ALIASES, LAYERS, LayerSpec

__all__ = ["stub_text", "write_stub"]

_HEAD: Final = '''# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false
# fmt: off

"""Written by `python -m quantsim.layers.stubs`; do not edit."""

from typing import Any

import quantsim.nn
from quantsim.layers.generation import FloatPrecisionLayer
from quantsim_encodings.formats import BlockFormat, FloatFormat, RoundingMode

'''
_PLAIN: Final = (int, float, bool, str)
_SETTINGS: Final = frozenset(
    "exp_bits sig_bits rmode format saturate subnormal seed gradient_format quantize_output".split()
)


def stub_text() -> str:
    """Returns the text of the stub."""
    names = sorted([*(spec.name for spec in LAYERS), *ALIASES])
    listed = "".join(f'    "{name}",\n' for name in names)
    classes = "\n".join(_class(spec) for spec in LAYERS)
    aliases = "".join(f"{alias} = {name}\n" for alias, name in ALIASES.items())
    return f"{_HEAD}__all__ = [\n{listed}]\n\n{classes}\n{aliases}"


def write_stub(folder: Path | None = None) -> None:
    """Writes the stub.

    Args:
        folder: Where; beside this file by default.
    """
    ((folder or Path(__file__).parent) / "quantized_layers.pyi").write_text(stub_text(), encoding="utf-8")


def _class(spec: LayerSpec) -> str:
    base = f"quantsim.nn.Quantized{spec.torch_class.__name__}"
    parameters = layer_signature(spec).parameters.values()
    arguments: list[str] = []
    for parameter in parameters:
        if parameter.kind is Parameter.KEYWORD_ONLY and "*" not in arguments:
            arguments.append("*")
        default = "" if parameter.default is inspect.Parameter.empty else f" = {parameter.default!r}"
        arguments.append(f"{parameter.name}: {_annotation(parameter)}{default}")
    lines = "".join(f"        {argument},\n" for argument in ("self", *arguments))
    return f"class {spec.name}(FloatPrecisionLayer, {base}):\n    def __init__(\n{lines}    ) -> None: ...\n"


def _annotation(parameter: Parameter) -> str:
    """The type as a stub says it; torch's own aliases (of sizes, devices) are left open."""
    annotation = parameter.annotation
    if annotation in _PLAIN:
        return annotation.__name__
    if isinstance(annotation, str) and (parameter.name in _SETTINGS or annotation in ("int", "float", "bool", "str")):
        return annotation
    return "Any"


if __name__ == "__main__":
    write_stub()
