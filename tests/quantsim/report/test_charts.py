from __future__ import annotations

import math
from itertools import pairwise
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from quantsim.report.charts import histogram_chart, layer_chart, range_chart, size_chart
from quantsim.report.data import Histogram, LayerRow, LayerSection, RangeRow, RangeSection, SchemeRow

COLOURS = {"w8": "red", "w4": "blue"}


def of_class(chart: str, name: str) -> list[Element]:
    return [element for element in ElementTree.fromstring(chart).iter() if name in element.get("class", "").split()]


def numbers(elements: list[Element], attribute: str) -> list[float]:
    return [float(element.attrib[attribute]) for element in elements]


def scheme(name: str, sqnr: float, size: int) -> SchemeRow:
    return SchemeRow(scheme=name, description="", scores=(), cosine=1.0, sqnr_db=sqnr, size_bytes=size)


def test_better_is_higher_and_smaller_is_left() -> None:
    chart = size_chart([scheme("w8", 40.0, 500), scheme("w4", 10.0, 250)], scheme("fp32", math.inf, 1000), COLOURS)
    dots = {dot.attrib["style"]: dot for dot in of_class(chart, "dot")}
    (x8, x4), (y8, y4) = (numbers([dots["fill:red"], dots["fill:blue"]], axis) for axis in ("cx", "cy"))
    assert x4 < x8
    assert y8 < y4  # pixels count downwards
    assert dots["fill:red"].findtext("title") == "w8: 40.0 dB at 50.0 % of FP32's size"


def test_labels_of_equal_schemes_do_not_overlap() -> None:
    rows = [scheme(f"s{index}", 30.0, 500) for index in range(4)]
    chart = size_chart(rows, scheme("fp32", math.inf, 1000), dict.fromkeys((row.scheme for row in rows), "red"))
    heights = sorted(numbers(of_class(chart, "label"), "y"))
    assert len(heights) == 4
    assert min(below - above for above, below in pairwise(heights)) >= 15


def test_schemes_without_any_error_are_drawn_at_the_top() -> None:
    chart = size_chart([scheme("w8", math.inf, 1000), scheme("w4", 20.0, 250)], scheme("fp32", math.inf, 1000), COLOURS)
    heights = numbers(of_class(chart, "dot"), "cy")
    assert all(math.isfinite(height) for height in heights)
    assert heights[0] == min(heights) == 22


def test_layers_not_quantized_leave_gaps_in_the_right_line() -> None:
    rows = (
        LayerRow(module="a", op="Linear", sqnr_db=(30.0, None)),
        LayerRow(module="b", op="Linear", sqnr_db=(math.inf, None)),
        LayerRow(module="c", op="Linear", sqnr_db=(20.0, None)),
    )
    chart = layer_chart(LayerSection(title="m", schemes=("w8", "w4"), layers=rows), COLOURS)
    assert [curve.get("style") for curve in of_class(chart, "curve")] == ["stroke:red"]
    points = of_class(chart, "point")
    assert [point.findtext("title") for point in points] == ["a\nw8: 30.0 dB", "c\nw8: 20.0 dB"]
    assert numbers(points, "cx") == sorted(numbers(points, "cx"))
    assert numbers(points, "cy") == sorted(numbers(points, "cy"))  # the better one is higher


def test_a_section_without_layers_is_an_empty_chart() -> None:
    chart = layer_chart(LayerSection(title="m", schemes=("w8",), layers=()), COLOURS)
    assert of_class(chart, "curve") == of_class(chart, "point") == []


@pytest.mark.parametrize("factor", [1e-6, 1.0, 1e6])
def test_clipped_values_stick_out_of_the_bar_of_the_grid(factor: float) -> None:
    row = RangeRow(
        module="fc",
        tensor="input 0",
        observed_low=-1 * factor,
        observed_high=50 * factor,
        grid_low=-2 * factor,
        grid_high=5 * factor,
        format="int8",
    )
    chart = range_chart(RangeSection(title="m", rows=(row,)))
    (bar,) = of_class(chart, "held")
    start = float(bar.attrib["x"])
    stop = start + float(bar.attrib["width"])
    seen = of_class(chart, "observed")[0]
    low, high = float(seen.attrib["x1"]), float(seen.attrib["x2"])
    assert start < low < stop < high
    assert "fc, input 0 (int8)" in (bar.findtext("title") or "")


def test_ranges_of_zeros_can_be_drawn() -> None:
    row = RangeRow(module="fc", tensor="bias", observed_low=0, observed_high=0, grid_low=0, grid_high=0, format="int8")
    chart = range_chart(RangeSection(title="m", rows=(row,)))
    assert "nan" not in chart
    assert len(of_class(chart, "held")) == 1


def values(*, logarithmic: bool = False, grid: tuple[float, ...] = (-1.0, 0.0, 1.0)) -> Histogram:
    return Histogram(
        title="weight",
        caption="",
        scheme="w8",
        edges=(-4.0, -2.0, 0.0, 2.0, 4.0),
        counts=(1, 100, 0, 10),
        grid=grid,
        unit="code",
        logarithmic=logarithmic,
    )


def test_bars_are_as_high_as_their_counts() -> None:
    bars = of_class(histogram_chart(values(), COLOURS), "bin")
    assert [bar.findtext("title") for bar in bars] == ["−4 to −2: 1", "−2 to 0: 100", "2 to 4: 10"]
    heights = numbers(bars, "height")
    assert heights == pytest.approx([1.58, 158, 15.8], rel=1e-3)
    flat = numbers(of_class(histogram_chart(values(logarithmic=True), COLOURS), "bin"), "height")
    assert flat[1] == pytest.approx(heights[1])
    assert flat[0] > 10 * heights[0]


def test_what_is_beyond_the_grid_is_shaded_on_both_sides() -> None:
    chart = histogram_chart(values(), COLOURS)
    left, right = of_class(chart, "clipped")
    bars = of_class(chart, "bin")
    step = float(bars[0].attrib["width"]) / 2  # pixels of one unit
    assert numbers([left, right], "width") == pytest.approx([2.5 * step, 2.5 * step], rel=1e-2)  # beyond ±1.5
    assert float(left.attrib["x"]) == float(bars[0].attrib["x"])
    assert of_class(histogram_chart(values(grid=(-4.0, 4.0)), COLOURS), "clipped") == []
    assert of_class(histogram_chart(values(grid=()), COLOURS), "clipped") == []


def test_only_grid_points_in_the_picture_are_drawn() -> None:
    (points,) = of_class(histogram_chart(values(grid=(-100.0, -1.0, 1.0, 100.0)), COLOURS), "grid-point")
    assert points.attrib["d"].count("M") == 2
    fine = tuple(index / 100 for index in range(-400, 401))
    assert of_class(histogram_chart(values(grid=fine), COLOURS), "dense")
