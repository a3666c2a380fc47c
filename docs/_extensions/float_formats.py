"""Directives of the page on floating-point numbers: its tables and its plot are made from the code."""

from __future__ import annotations

import io
import itertools
import re
from typing import TYPE_CHECKING, Any

from docutils import nodes
from docutils.parsers.rst import Directive
from tables_from_code import table

if TYPE_CHECKING:
    from sphinx.application import Sphinx

_STAIRS = (3, 1)
"""Exponent and fraction bits of the format whose numbers lie far enough apart to be seen."""


def number(value: float) -> str:
    """A number in at most five digits."""
    return f"{value:.5g}"


def special_values(format: Any) -> str:
    """What the codes beyond the numbers mean."""
    from quantsim_encodings.formats import NanEncoding

    words = {
        NanEncoding.IEEE: "NaN",
        NanEncoding.ALL_ONES: "one NaN" if not format.signed else "one NaN of each sign",
        NanEncoding.NEGATIVE_ZERO: "one NaN",
        NanEncoding.NONE: "none",
    }
    return ("infinities, " if format.has_infinity else "") + words[format.nan]


class FloatFormatsDirective(Directive):
    """Every named floating-point format."""

    def run(self) -> list[nodes.Node]:
        from quantsim_encodings.formats import NAMED_FLOAT_FORMATS

        rows = [
            (
                f"`{name}`",
                f"{format.exponent_bits} / {format.mantissa_bits}",
                str(format.exponent_bias),
                number(format.max),
                number(format.min_normal),
                number(format.tiny),
                str(2**format.bits),
                special_values(format),
            )
            for name, format in NAMED_FLOAT_FORMATS.items()
        ]
        header = ("format", "bits e / m", "bias", "largest", "smallest normal", "smallest", "codes", "beside numbers")
        return [table(header, rows, (12, 12, 8, 14, 16, 14, 14, 24))]


class BlockFormatsDirective(Directive):
    """Every named block format."""

    def run(self) -> list[nodes.Node]:
        from quantsim_encodings.formats import NAMED_MX_FORMATS, FloatFormat, NVFP4Format

        rows = [
            (
                f"`{name}`",
                format.element.label if isinstance(format.element, FloatFormat) else f"int{format.element.bits}",
                str(format.block_size),
                f"{format.scale_format.label}, a power of two",
                f"{format.bits_per_element:g}",
            )
            for name, format in NAMED_MX_FORMATS.items()
        ]
        for name, format in (("nvfp4", NVFP4Format()), ("nvfp4_one_level", NVFP4Format(two_level=False))):
            tensor = ", and one float32 for the tensor" if format.two_level else ""
            scale = format.scale_format.label + tensor
            rows.append(
                (f"`{name}`", format.element.label, str(format.block_size), scale, f"{format.bits_per_element:g}")
            )
        return [table(("format", "element", "block", "scale", "bits an element"), rows, (20, 12, 8, 36, 16))]


class RoundingModesDirective(Directive):
    """Number, name and law of every rounding mode."""

    def run(self) -> list[nodes.Node]:
        from quantsim_encodings.formats import RoundingMode

        modes = sorted(RoundingMode, key=lambda mode: mode.number)
        rows = [(str(mode.number), f"`{mode.value}`", LAWS[mode.value]) for mode in modes]
        return [table(("number", "name", "law"), rows, (10, 24, 66))]


LAWS = {
    "nearest_odd": "to the nearest number; halfway, to the one with an odd code",
    "nearest_even": "to the nearest; halfway, to the one with an even code (also called `nearest`)",
    "up": "toward +∞",
    "down": "toward −∞",
    "toward_zero": "toward zero (also called `towards_zero`)",
    "stochastic": "up with a probability equal to the fraction; numbers of the format never move",
    "stochastic_equal": "up or down with probability ½ each; numbers of the format never move",
    "nearest_zero": "to the nearest; halfway, toward zero",
    "nearest_away": "to the nearest; halfway, away from zero",
    "odd": "to the neighbour with an odd code (jamming); numbers of the format never move",
}


class RoundingPlotDirective(Directive):
    """Staircases of all modes, drawn with the library's own cast."""

    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", rounding_plot(), format="html")]


def rounding_plot() -> str:
    """An SVG of ten small panels."""
    import matplotlib as mpl

    mpl.use("agg")
    import torch
    from matplotlib.figure import Figure

    from quantsim_encodings.formats import FloatFormat, RoundingMode
    from quantsim_kernels import float_cast

    format = FloatFormat(*_STAIRS)
    x = torch.linspace(-2.2, 2.2, 881)
    numbers = torch.unique(float_cast(x, format))
    halfway = (numbers[1:] + numbers[:-1]) / 2
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(2, 5, sharex=True, sharey=True)
    modes = sorted(RoundingMode, key=lambda mode: mode.number)
    for panel, mode in zip(itertools.chain.from_iterable(panels), modes, strict=True):
        panel.plot(x, x, color="#b8b8b8", linewidth=0.8)
        if mode.is_stochastic:
            draws = torch.stack([float_cast(x, format, mode, seed=seed) for seed in range(24)])
            panel.scatter(
                x.repeat(24, 1).flatten(), draws.flatten(), s=0.6, alpha=0.15, color="#c2410c", rasterized=True
            )
        else:
            panel.plot(x, float_cast(x, format, mode), color="#1d4ed8", linewidth=1.4, drawstyle="steps-mid")
            panel.scatter(halfway, float_cast(halfway, format, mode), s=9, color="#1d4ed8", zorder=3)
        panel.set_title(f"{mode.number}  {mode.value}", fontsize=9)
        panel.grid(linewidth=0.3)
        panel.set_xlim(-2.2, 2.2)
        panel.set_ylim(-2.3, 2.3)
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
    app.add_directive("float-formats", FloatFormatsDirective)
    app.add_directive("block-formats", BlockFormatsDirective)
    app.add_directive("rounding-modes", RoundingModesDirective)
    app.add_directive("rounding-plot", RoundingPlotDirective)
    return {"parallel_read_safe": True}
