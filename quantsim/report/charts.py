"""Charts as inline SVG. Colours are CSS variables of the page, so that one picture serves light, dark and paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

from markupsafe import Markup

from quantsim.report.axes import Axis, inverse_hyperbolic_axis, linear_axis, short_number
from quantsim.report.data import Histogram, LayerSection, RangeSection, SchemeRow

__all__ = ["histogram_chart", "layer_chart", "range_chart", "size_chart"]

_WIDTH = 960.0


def _svg(width: float, height: float, label: str, parts: Sequence[str]) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" width="{width:g}" height="{height:g}" role="img" aria-label="{escape(label)}">'
        + "".join(parts)
        + "</svg>"
    )


def _text(x: float, y: float, text: str, css: str = "", anchor: str = "start") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" class="{css}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, css: str) -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" class="{css}"/>'


def _rectangle(x: float, y: float, width: float, height: float, css: str, title: str = "", colour: str = "") -> str:
    style = f' style="fill:{colour}"' if colour else ""
    tip = f"<title>{escape(title)}</title>" if title else ""
    return f'<rect x="{x:g}" y="{y:g}" width="{max(width, 0.5):g}" height="{max(height, 0.5):g}" class="{css}"{style}>{tip}</rect>'


def _horizontal_grid(axis: Axis, left: float, right: float, suffix: str = "") -> list[str]:
    parts = []
    for tick in axis.ticks:
        parts.append(_line(left, axis(tick), right, axis(tick), "gridline"))
        parts.append(_text(left - 8, axis(tick) + 4, short_number(tick) + suffix, "tick", "end"))
    return parts


def size_chart(schemes: Sequence[SchemeRow], reference: SchemeRow, colours: Mapping[str, str]) -> Markup:
    """SQNR over size: up and to the left is better.

    Args:
        schemes: Points.
        reference: Gives the size that points are compared with.
        colours: CSS colour of each scheme.
    """
    width, height, left, right, top, bottom = 460.0, 300.0, 46.0, 24.0, 16.0, 44.0
    sizes = [row.size_bytes / reference.size_bytes for row in schemes]
    decibels = [row.sqnr_db for row in schemes if math.isfinite(row.sqnr_db)]
    x_axis = linear_axis(0.0, max(1.0, *sizes), left, width - right)
    y_axis = linear_axis(0.0, max([10.0, *decibels]) * 1.08, height - bottom, top)
    parts = _horizontal_grid(y_axis, left, width - right)
    parts += [_text(x_axis(tick), height - bottom + 18, f"{100 * tick:g} %", "tick", "middle") for tick in x_axis.ticks]
    parts.append(
        _text((left + width - right) / 2, height - 6, "size of the parameters, FP32 = 100 %", "axis-name", "middle")
    )
    parts.append(_text(left, top - 4, "SQNR, dB", "axis-name"))
    placed: list[tuple[float, float]] = []
    for row, size in sorted(zip(schemes, sizes, strict=True), key=lambda pair: -pair[0].sqnr_db):
        x, y = x_axis(size), y_axis(row.sqnr_db if math.isfinite(row.sqnr_db) else y_axis.high)
        label_y = y + 4
        while any(abs(label_y - other_y) < 14 and abs(x - other_x) < 110 for other_x, other_y in placed):
            label_y += 14
        placed.append((x, label_y))
        to_the_left = x > width - right - 110
        title = f"{row.scheme}: {row.sqnr_db:.1f} dB at {100 * size:.1f} % of FP32's size"
        parts.append(
            f'<circle cx="{x:g}" cy="{y:g}" r="6" class="dot" style="fill:{colours[row.scheme]}"><title>{escape(title)}</title></circle>'
        )
        parts.append(
            _text(x - 11 if to_the_left else x + 11, label_y, row.scheme, "label", "end" if to_the_left else "start")
        )
    return _svg(width, height, "SQNR over size by scheme", parts)


def layer_chart(section: LayerSection, colours: Mapping[str, str]) -> Markup:
    """SQNR of each layer's output, one line a scheme, layers in the order they run.

    Args:
        section: The layers.
        colours: CSS colour of each scheme.
    """
    height, left, right, top, bottom = 320.0, 46.0, 12.0, 18.0, 30.0
    finite = [
        value for layer in section.layers for value in layer.sqnr_db if value is not None and math.isfinite(value)
    ]
    y_axis = linear_axis(min([0.0, *finite]), max([10.0, *finite]) * 1.05, height - bottom, top, 6)
    x_axis = linear_axis(0.0, max(len(section.layers) - 1, 1), left + 10, _WIDTH - right - 10)
    parts = _horizontal_grid(y_axis, left, _WIDTH - right)
    parts.append(_text(left, top - 6, "SQNR, dB", "axis-name"))
    parts.append(_text(left + 10, height - 8, section.layers[0].module if section.layers else "", "tick"))
    parts.append(_text(_WIDTH - right, height - 8, section.layers[-1].module if section.layers else "", "tick", "end"))
    for column, scheme in enumerate(section.schemes):
        points = [
            (x_axis(index), y_axis(value), layer.module, value)
            for index, layer in enumerate(section.layers)
            if (value := layer.sqnr_db[column]) is not None and math.isfinite(value)
        ]
        if points:
            path = "M" + "L".join(f"{x:g} {y:g}" for x, y, _, _ in points)
            parts.append(f'<path d="{path}" class="curve" style="stroke:{colours[scheme]}"/>')
        for x, y, module, value in points:
            title = f"{module}\n{scheme}: {value:.1f} dB"
            parts.append(
                f'<circle cx="{x:g}" cy="{y:g}" r="2.6" class="point" style="fill:{colours[scheme]}"><title>{escape(title)}</title></circle>'
            )
    return _svg(_WIDTH, height, f"SQNR by layer of {section.title}", parts)


def range_chart(section: RangeSection) -> Markup:
    """What was observed (thin line) and what the grid holds (bar), a row a tensor, on an asinh axis.

    Args:
        section: The ranges; at least one row.
    """
    row_height, left, right, top, bottom = 16.0, 372.0, 16.0, 26.0, 10.0
    height = top + bottom + row_height * len(section.rows)
    ends = [
        abs(end) for row in section.rows for end in (row.observed_low, row.observed_high, row.grid_low, row.grid_high)
    ]
    largest = max(ends, default=1.0) or 1.0
    medians = sorted(max(abs(row.grid_low), abs(row.grid_high)) for row in section.rows)
    unit = max(medians[len(medians) // 2] / 4 if medians else 1.0, largest * 1e-3)
    low = min([0.0, *(min(row.observed_low, row.grid_low) for row in section.rows)])
    high = max([0.0, *(max(row.observed_high, row.grid_high) for row in section.rows)])
    axis = inverse_hyperbolic_axis(low, high, left, _WIDTH - right, unit)
    parts = []
    for tick in axis.ticks:
        parts.append(_line(axis(tick), top - 6, axis(tick), height - bottom, "zeroline" if tick == 0 else "gridline"))
        parts.append(_text(axis(tick), top - 12, short_number(tick), "tick", "middle"))
    for index, row in enumerate(section.rows):
        y = top + index * row_height
        title = (
            f"{row.module}, {row.tensor} ({row.format})\nobserved {short_number(row.observed_low)} to {short_number(row.observed_high)}, "
            f"grid {short_number(row.grid_low)} to {short_number(row.grid_high)}"
        )
        parts.append(_text(left - 10, y + 11, f"{row.module} · {row.tensor}", "row-name", "end"))
        parts.append(_line(axis(row.observed_low), y + 7, axis(row.observed_high), y + 7, "observed"))
        parts.append(
            _rectangle(axis(row.grid_low), y + 3.5, axis(row.grid_high) - axis(row.grid_low), 7, "held", title)
        )
    return _svg(_WIDTH, height, f"Ranges of {section.title}", parts)


def histogram_chart(histogram: Histogram, colours: Mapping[str, str]) -> Markup:
    """Counts as bars, the grid as ticks below them, what lies beyond the grid shaded.

    Args:
        histogram: Values and grid.
        colours: CSS colour of each scheme.
    """
    width, height, left, right, top, bottom = 460.0, 220.0, 14.0, 14.0, 10.0, 50.0
    base = height - bottom
    axis = linear_axis(histogram.edges[0], histogram.edges[-1], left, width - right, 6)
    scale = math.log1p if histogram.logarithmic else float
    tallest = scale(max(histogram.counts)) or 1.0
    parts = []
    if histogram.grid:
        held_low, held_high = axis(histogram.grid[0]), axis(histogram.grid[-1])
        for start, stop in ((left, held_low), (held_high, width - right)):
            if stop - start > 0.5:
                parts.append(_rectangle(start, top, stop - start, base - top, "clipped", "beyond the grid: clipped"))
    for count, low, high in zip(histogram.counts, histogram.edges, histogram.edges[1:], strict=False):
        if count:
            bar = (base - top) * scale(count) / tallest
            title = f"{short_number(low)} to {short_number(high)}: {count:,}"
            parts.append(
                _rectangle(
                    axis(low),
                    base - bar,
                    axis(high) - axis(low),
                    bar,
                    "bar",
                    title,
                    colours.get(histogram.scheme, "var(--accent)"),
                )
            )
    parts.append(_line(left, base + 0.5, width - right, base + 0.5, "baseline"))
    ticks = sorted({axis(point) for point in histogram.grid if histogram.edges[0] <= point <= histogram.edges[-1]})
    path = "".join(f"M{x:g} {base + 2:g}v9" for x in ticks)
    parts.append(f'<path d="{path}" class="{"grid-point" if len(ticks) < 80 else "grid-point dense"}"/>')
    parts += [_text(axis(tick), base + 26, short_number(tick), "tick", "middle") for tick in axis.ticks]
    parts.append(
        _text(
            width / 2,
            height - 6,
            histogram.unit + (", counts on a log axis" if histogram.logarithmic else ""),
            "axis-name",
            "middle",
        )
    )
    return _svg(width, height, f"Histogram of {histogram.title}", parts)
