"""Charts as inline SVG. Colours are CSS variables of the page, so that one picture serves light, dark and paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from quantsim.report.axes import Axis, inverse_hyperbolic_axis, linear_axis, short_number
from quantsim.report.data import Histogram, LayerSection, RangeSection, SchemeRow, grid_reach
from quantsim.report.svg import circle, line, picture, rectangle, text

__all__ = ["histogram_chart", "layer_chart", "range_chart", "size_chart"]

_WIDE = 960.0
_NARROW = 460.0
_LABEL_HEIGHT = 15.0
_LABEL_WIDTH = 120.0
_LETTER = 6.4  # pixels that one letter of a tick's label takes


def _horizontal_grid(axis: Axis, left: float, right: float) -> list[str]:
    parts = []
    for tick in axis.ticks:
        parts.append(line(left, axis(tick), right, axis(tick), "gridline"))
        parts.append(text(left - 8, axis(tick) + 4, short_number(tick), "tick", "end"))
    return parts


def size_chart(schemes: Sequence[SchemeRow], reference: SchemeRow, colours: Mapping[str, str]) -> Markup:
    """SQNR over size: up and to the left is better.

    Args:
        schemes: Points.
        reference: Gives the size that points are compared with.
        colours: CSS colour of each scheme.
    """
    height, left, right, top, base = 400.0, 34.0, _NARROW - 20.0, 22.0, 350.0
    sizes = [row.size_bytes / reference.size_bytes for row in schemes]
    finite = [row.sqnr_db for row in schemes if math.isfinite(row.sqnr_db)]
    x_axis = linear_axis(0.0, max([1.0, *sizes]), left, right)
    y_axis = linear_axis(min([0.0, *finite]), max([10.0, *finite]) * 1.08, base, top)
    parts = _horizontal_grid(y_axis, left, right)
    parts += [text(x_axis(tick), base + 20, f"{100 * tick:g} %", "tick", "middle") for tick in x_axis.ticks]
    parts.append(text((left + right) / 2, base + 42, "size of the parameters, FP32 = 100 %", "axis-name", "middle"))
    parts.append(text(left, top - 8, "SQNR, dB", "axis-name"))
    labels: list[tuple[float, float]] = []
    for row, size in sorted(zip(schemes, sizes, strict=True), key=lambda pair: -pair[0].sqnr_db):
        x, y = x_axis(size), y_axis(min(row.sqnr_db, y_axis.high))
        label_y = y + 4
        for other_x, other_y in labels:  # placed from top to bottom, so pushing down is enough
            if abs(x - other_x) < _LABEL_WIDTH and label_y - other_y < _LABEL_HEIGHT:
                label_y = other_y + _LABEL_HEIGHT
        labels.append((x, label_y))
        to_the_left = x > right - _LABEL_WIDTH
        label_x, anchor = (x - 16, "end") if to_the_left else (x + 16, "start")
        if label_y - y > 6:
            parts.append(line(x, y, label_x + (2 if to_the_left else -2), label_y - 4, "leader"))
        tip = f"{row.scheme}: {row.sqnr_db:.1f} dB at {100 * size:.1f} % of FP32's size"
        parts.append(circle(x, y, 6, "dot", tip=tip, colour=colours[row.scheme]))
        parts.append(text(label_x, label_y, row.scheme, "label", anchor))
    return picture(_NARROW, height, "SQNR over size by scheme", parts)


def layer_chart(section: LayerSection, colours: Mapping[str, str], width: float = _WIDE) -> Markup:
    """SQNR of each layer's output, one line a scheme, layers in the order they run.

    Args:
        section: The layers.
        colours: CSS colour of each scheme.
        width: Of the picture; labels keep their size, and what does not fit is left out.
    """
    height, left, right, top, base = 320.0, 34.0, width - 12.0, 22.0, 290.0
    finite = [
        value for layer in section.layers for value in layer.sqnr_db if value is not None and math.isfinite(value)
    ]
    y_axis = linear_axis(min([0.0, *finite]), max([10.0, *finite]) * 1.05, base, top, 6)
    x_axis = linear_axis(0.0, max(len(section.layers) - 1, 1), left + 12, right - 12)
    parts = _horizontal_grid(y_axis, left, right)
    parts.append(text(left, top - 8, "SQNR, dB", "axis-name"))
    if section.layers:
        first, last = section.layers[0].module, section.layers[-1].module
        if (len(first) + len(last)) * _LETTER > right - left - 30:
            first, last = "first module", "last module"
        parts.append(text(left + 6, height - 8, first, "tick"))
        parts.append(text(right - 6, height - 8, last, "tick", "end"))
    for column, scheme in enumerate(section.schemes):
        points = [
            (x_axis(index), y_axis(value), layer.module, value)
            for index, layer in enumerate(section.layers)
            if (value := layer.sqnr_db[column]) is not None and math.isfinite(value)
        ]
        if points:
            path = "M" + "L".join(f"{x:g} {y:g}" for x, y, _, _ in points)
            parts.append(f'<path d="{path}" class="curve" style="stroke:{colours[scheme]}"/>')
        parts += [
            circle(x, y, 3, "point", tip=f"{module}\n{scheme}: {value:.1f} dB", colour=colours[scheme])
            for x, y, module, value in points
        ]
    return picture(width, height, f"SQNR by layer of {section.title}", parts)


def range_chart(section: RangeSection) -> Markup:
    """What was observed (thin line) and what the grid holds (bar), a row a tensor, on an asinh axis.

    Args:
        section: The ranges; at least one row.
    """
    rows = section.rows
    row_height, left, right, top, bottom = 17.0, 372.0, _WIDE - 16.0, 28.0, 6.0
    height = top + bottom + row_height * len(rows)
    low = min([0.0, *(min(row.observed_low, row.grid_low) for row in rows)])
    high = max([0.0, *(max(row.observed_high, row.grid_high) for row in rows)])
    reaches = sorted(max(abs(row.grid_low), abs(row.grid_high)) for row in rows)
    # Half of the rows reach at least four units out: most of the width goes to them, the rest to the outliers.
    unit = max(reaches[len(reaches) // 2] / 4, max(-low, high) * 1e-3, 1e-30)
    axis = inverse_hyperbolic_axis(low, high, left, right, unit)
    parts = []
    for tick in axis.ticks:
        parts.append(line(axis(tick), top - 6, axis(tick), height - bottom, "zeroline" if tick == 0 else "gridline"))
        parts.append(text(axis(tick), top - 12, short_number(tick), "tick", "middle"))
    for index, row in enumerate(rows):
        y = top + index * row_height
        tip = (
            f"{row.module}, {row.tensor} ({row.format})\n"
            f"observed {short_number(row.observed_low)} to {short_number(row.observed_high)}\n"
            f"grid {short_number(row.grid_low)} to {short_number(row.grid_high)}"
        )
        parts.append(text(left - 12, y + 12, f"{row.module} · {row.tensor}", "row-name", "end"))
        parts.append(
            rectangle(axis(row.grid_low), y + 4.5, axis(row.grid_high) - axis(row.grid_low), 8, "held", tip=tip)
        )
        parts.append(line(axis(row.observed_low), y + 8.5, axis(row.observed_high), y + 8.5, "observed"))
        parts += [
            line(axis(end), y + 5.5, axis(end), y + 11.5, "observed") for end in (row.observed_low, row.observed_high)
        ]
    return picture(_WIDE, height, f"Ranges of {section.title}", parts)


def histogram_chart(histogram: Histogram, colours: Mapping[str, str]) -> Markup:
    """Counts as bars, the grid as ticks below them, what lies beyond the grid shaded.

    Args:
        histogram: Values and grid.
        colours: CSS colour of each scheme.
    """
    height, left, right, top, base = 220.0, 14.0, _NARROW - 14.0, 10.0, 168.0
    low, high = histogram.edges[0], histogram.edges[-1]
    axis = linear_axis(low, high, left, right, 6)
    scale = math.log1p if histogram.logarithmic else float
    tallest = scale(max(histogram.counts)) or 1.0
    colour = colours.get(histogram.scheme, "var(--accent)")
    parts = []
    if histogram.grid:
        reach_low, reach_high = grid_reach(histogram.grid)
        for start, stop in ((left, axis(reach_low)), (axis(reach_high), right)):
            if stop - start > 1.5:
                parts.append(rectangle(start, top, stop - start, base - top, "clipped", tip="beyond the grid"))
    for count, start, stop in zip(histogram.counts, histogram.edges, histogram.edges[1:], strict=False):
        if count:
            bar = (base - top) * scale(count) / tallest
            tip = f"{short_number(start)} to {short_number(stop)}: {count:,}"
            parts.append(
                rectangle(axis(start), base - bar, axis(stop) - axis(start), bar, "bin", tip=tip, colour=colour)
            )
    parts.append(line(left, base + 0.5, right, base + 0.5, "baseline"))
    points = sorted({axis(point) for point in histogram.grid if low <= point <= high})
    path = "".join(f"M{x:g} {base + 2:g}v9" for x in points)
    parts.append(f'<path d="{path}" class="grid-point{"" if len(points) < 80 else " dense"}"/>')
    parts += [text(axis(tick), base + 27, short_number(tick), "tick", "middle") for tick in axis.ticks]
    name = histogram.unit + (" (counts on a logarithmic axis)" if histogram.logarithmic else "")
    parts.append(text((left + right) / 2, height - 6, name, "axis-name", "middle"))
    return picture(_NARROW, height, f"Histogram of {histogram.title}", parts)
