"""Writes the type stubs of the generated classes: ``python -m quantsim.nn.stubs``.

Type checkers and editors do not run the table, so they read its classes from ``functional_modules.pyi`` and
``quantized_modules.pyi`` beside this file. A test holds the stubs to the table.
"""

from __future__ import annotations

import inspect
from pathlib import Path

from torch import nn

from quantsim.nn import functional_modules
from quantsim.nn.functional_modules import FUNCTIONAL_MODULES
from quantsim.nn.specification import ModuleSpec
from quantsim.nn.table import TORCH_MODULES

__all__ = ["stub_texts", "write_stubs"]

_NOTE = '"""Written by `python -m quantsim.nn.stubs`; do not edit."""\n'
_SETTINGS = "# pyright: reportIncompatibleMethodOverride=false, reportIncompatibleVariableOverride=false\n# fmt: off\n"


def stub_texts() -> dict[str, str]:
    """Returns the text of each stub by file name."""
    return {"functional_modules.pyi": _functional_stub(), "quantized_modules.pyi": _quantized_stub()}


def write_stubs(folder: Path | None = None) -> None:
    """Writes the stubs.

    Args:
        folder: Where; beside this file by default.
    """
    for name, text in stub_texts().items():
        ((folder or Path(__file__).parent) / name).write_text(text, encoding="utf-8")


def _all_of(names: list[str]) -> str:
    return "__all__ = [\n" + "".join(f'    "{name}",\n' for name in names) + "]\n"


def _functional_stub() -> str:
    lines = [
        _SETTINGS,
        _NOTE,
        "from typing import Any\n\nimport torch\nfrom torch import Tensor, nn\n",
        "from quantsim.nn.specification import ModuleSpec\n",
        _all_of(functional_modules.__all__),
        "FUNCTIONAL_MODULES: tuple[ModuleSpec, ...]\n",
    ]
    for spec in FUNCTIONAL_MODULES:
        module_class = spec.module_class
        lines.append(f"class {module_class.__name__}(nn.Module):")
        if module_class.__init__ is not nn.Module.__init__:
            lines.append(f"    def __init__{_source(module_class.__init__)}: ...")
            lines.append(f"    def forward{_source(module_class.forward)}: ...\n")
        else:
            names = list(inspect.signature(module_class.forward).parameters)[1:]
            arguments = "".join(f"{name}: Any = ..., " for name in names)
            lines.append(f"    def forward(self, {arguments}*args: Any, **kwargs: Any) -> Any: ...\n")
    return "\n".join(lines)


def _source(function: object) -> str:
    # Annotations are strings already, so only their quotes have to go.
    return str(inspect.signature(function)).replace("'", "")  # pyright: ignore[reportArgumentType]


def _quantized_stub() -> str:
    specs = sorted((*TORCH_MODULES, *FUNCTIONAL_MODULES), key=lambda spec: spec.module_class.__name__)
    names = sorted(
        f"{prefix}{spec.module_class.__name__}" for spec in specs for prefix in ("Quantized", "FakeQuantized")
    )
    behaviours = sorted({spec.behaviour for spec in specs if spec.behaviour}, key=lambda each: each.__name__)
    imports = {(cls.__module__, cls.__name__) for cls in behaviours}
    imports.add(("torch.nn.modules.linear", "NonDynamicallyQuantizableLinear"))
    imports.add(("quantsim.nn.fake_quant", "SpecifiedFakeQuantizedModule"))
    imports.add(("quantsim.nn.kernel_quant", "SpecifiedQuantizedModule"))
    imports |= {(spec.module_class.__module__, spec.module_class.__name__) for spec in specs if not _is_torch(spec)}
    imports = {
        ("quantsim.nn.functional_modules" if module == "quantsim.nn" else module, name) for module, name in imports
    }
    imported = "\n".join(f"from {module} import {name}" for module, name in sorted(imports))
    lines = [
        f"{_SETTINGS}# ruff: noqa: I001\n",
        _NOTE,
        f"from torch import nn\n\n{imported}\n",
        _all_of(names),
    ]
    for spec in specs:
        for prefix, base in (
            ("Quantized", "SpecifiedQuantizedModule"),
            ("FakeQuantized", "SpecifiedFakeQuantizedModule"),
        ):
            first = f"{spec.behaviour.__name__}, " if spec.behaviour else ""
            lines.append(f"class {prefix}{spec.module_class.__name__}({first}{base}, {_name(spec)}): ...")
    return "\n".join(lines) + "\n"


def _is_torch(spec: ModuleSpec) -> bool:
    return spec.module_class.__module__.startswith("torch.")


def _name(spec: ModuleSpec) -> str:
    name = spec.module_class.__name__
    return f"nn.{name}" if _is_torch(spec) and hasattr(nn, name) else name


if __name__ == "__main__":
    write_stubs()
