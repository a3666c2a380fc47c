"""Directives whose tables are made from the code, so that no page can disagree with it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.parsers.rst import Directive

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def table(header: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int]) -> nodes.table:
    """A docutils table; text between backticks becomes code."""
    group = nodes.tgroup(cols=len(header))
    group += [nodes.colspec(colwidth=width) for width in widths]
    head, body = nodes.thead(), nodes.tbody()
    head += row(header)
    body += [row(cells) for cells in rows]
    group += [head, body]
    whole = nodes.table(classes=["colwidths-given"])
    whole += group
    return whole


def row(cells: Sequence[str]) -> nodes.row:
    """One row of a table."""
    result = nodes.row()
    for cell in cells:
        paragraph = nodes.paragraph()
        for place, piece in enumerate(cell.split("`")):
            if piece:
                paragraph += nodes.literal(text=piece) if place % 2 else nodes.Text(piece)
        result += nodes.entry("", paragraph)
    return result


class PresetsDirective(Directive):
    """Name, meaning, weights and activations of every preset."""

    def run(self) -> list[nodes.Node]:
        from quantsim.sim import preset, preset_names

        rows = []
        for name in preset_names():
            config = preset(name)
            weights, activations = (
                setting.label if setting else "not quantized" for setting in (config.weights, config.activations)
            )
            rows.append((f"`{name}`", weights, activations, config.activation_placement.value))
        return [table(("preset", "weights", "activations", "placed at"), rows, (20, 32, 32, 16))]


class KernelsDirective(Directive):
    """Every registered kernel."""

    def run(self) -> list[nodes.Node]:
        from quantsim_kernels import registry

        rows = [
            (f"`{kernel.op}`", kernel.scheme.value, kernel.backend.value, str(kernel.priority), kernel.description)
            for kernel in registry.kernels()
        ]
        return [table(("op", "scheme", "backend", "priority", "what it is"), rows, (28, 10, 12, 10, 40))]


class QuantizedModulesDirective(Directive):
    """Every row of the tables of quantized modules: of torch.nn, or of functional operations."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        from quantsim.nn import TORCH_MODULES
        from quantsim.nn.functional_modules import FUNCTIONAL_MODULES

        rows = []
        for spec in FUNCTIONAL_MODULES if "functional" in self.content else TORCH_MODULES:
            inputs = "any number" if spec.variadic_inputs else str(spec.input_count)
            outputs = "any number" if spec.variadic_outputs else str(spec.outputs)
            rows.append((f"`Quantized{spec.module_class.__name__}`", f"`{spec.op}`", inputs, outputs))
        return [table(("quantized form", "op", "inputs", "outputs"), rows, (45, 30, 12, 12))]


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.add_directive("presets", PresetsDirective)
    app.add_directive("kernels", KernelsDirective)
    app.add_directive("quantized-modules", QuantizedModulesDirective)
    return {"parallel_read_safe": True}
