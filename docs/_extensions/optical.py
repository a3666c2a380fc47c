"""Directives of the page on optical compute: its tables of parameters and its plots are made from the code."""

from __future__ import annotations

import io
import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.parsers.rst import Directive
from tables_from_code import table

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_BLUE, _ORANGE, _GREY = "#1d4ed8", "#c2410c", "#b8b8b8"


def default_of(field: Any) -> str:
    """A default as it is written in YAML."""
    value = getattr(field.default, "value", field.default)
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


class OpticalParametersDirective(Directive):
    """Every parameter of a pass: ``optical`` or ``squeezelight``."""

    has_content = True

    def run(self) -> list[nodes.Node]:
        from quantsim.transforms import transform_pass

        fields = transform_pass(self.content[0]).parameters.model_fields
        rows = [(f"`{name}`", f"`{default_of(field)}`", field.description or "") for name, field in fields.items()]
        return [table(("parameter", "default", "what it is"), rows, (22, 16, 62))]


class OpticalPlotDirective(Directive):
    """Levels and floor, noise, and the transmission of a ring, drawn with the library's own kernels."""

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", optical_plot(), format="html")]


def optical_plot() -> str:
    """An SVG of three panels."""
    import math

    import matplotlib as mpl

    mpl.use("agg")
    import torch
    from matplotlib.figure import Figure

    from quantsim_kernels.optical import optical_quantize
    from quantsim_kernels.reference.squeezelight import resonance_width, transmission

    figure = Figure(figsize=(10, 3.1), layout="constrained")
    levels, noise, ring = figure.subplots(1, 3)
    ends = torch.tensor([-1.0, 1.0])

    x = torch.linspace(-1.2, 1.2, 2401)
    levels.plot(x, x, color=_GREY, linewidth=0.8)
    levels.plot(x, optical_quantize(x, ends, 16), color=_BLUE, linewidth=1.2, label="no floor")
    floored = optical_quantize(x, ends, 16, lut=0.25)
    levels.plot(x, floored, color=_ORANGE, linewidth=1.2, linestyle="--", label="floor 0.25")
    levels.set_title("16 levels from −1 to 1", fontsize=9)
    levels.legend(frameon=False, fontsize=8)

    x = torch.linspace(-1, 1, 161)
    for kind, colour, photons in (("shot", _ORANGE, 100.0), ("dither", _BLUE, None)):
        draws = torch.stack(
            [
                optical_quantize(x, ends, 64, noise=kind, seed=seed, photons=photons) - x
                for seed in torch.arange(12).tolist()
            ]
        )
        label = kind if photons is None else f"{kind}, {photons:g} photons at full scale"
        noise.scatter(x.repeat(12, 1).flatten(), draws.flatten(), s=1.2, alpha=0.5, color=colour, label=label)
    noise.set_title("error of 64 levels", fontsize=9)
    noise.legend(frameon=False, fontsize=8, markerscale=5, loc="upper center")
    noise.set_ylim(-0.4, 0.55)

    width = resonance_width()
    phase = torch.linspace(-4 * width, 4 * width, 801)
    ring.plot(phase, transmission(phase), color=_BLUE, linewidth=1.4)
    ring.axvspan(0, math.sqrt(3 / 4 / 4) * width, color=_ORANGE, alpha=0.15, label="weights as drawn, k = 4")
    ring.set_title("transmission of a SqueezeLight ring", fontsize=9)
    ring.set_xlabel("phase, radians", fontsize=8)
    ring.legend(frameon=False, fontsize=8)
    for panel in (levels, noise, ring):
        panel.grid(linewidth=0.3)
        panel.tick_params(labelsize=7)

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, dpi=160)
    svg = buffer.getvalue()
    # As wide as the text, whatever that is; the view box keeps the proportions.
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r'\1 width="100%"', svg, count=1)
    return f'<div style="background:white">{svg[svg.index("<svg") :]}</div>'


def setup(app: Sphinx) -> dict[str, Any]:
    """Sphinx's entry point."""
    app.add_directive("optical-parameters", OpticalParametersDirective)
    app.add_directive("optical-plot", OpticalPlotDirective)
    return {"parallel_read_safe": True}
