from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import pytest

from quantsim.report.data import Histogram
from quantsim.report.sensitivity_chart import noise_chart, small_histogram
from quantsim.report.simulation_data import SensitivityRow, SensitivitySection


def section(count: int = 12) -> SensitivitySection:
    rows = tuple(
        SensitivityRow(
            name=f"encoder.layer.{index // 4}.part<{index % 4}>",
            formats="int8",
            alone_db=math.inf if index == 0 else 30.0 - index,
            without_db=20.0,
            alone_share=index / 100,
            removed_share=-0.02 if index == 3 else 0.2,
        )
        for index in range(count)
    )
    return SensitivitySection(total_db=20.0, rows=rows, kinds=())


@pytest.mark.parametrize("width", [340.0, 1024.0])
def test_a_column_for_each_module_inside_of_the_picture(width: float) -> None:
    root = ElementTree.fromstring(str(noise_chart(section(), width)))
    columns = [part for part in root if part.get("class") == "alone"]
    assert len(columns) == 12
    heights = [float(part.attrib["height"]) for part in columns]
    assert heights[1:] == sorted(heights[1:])
    for part in columns:
        assert 0 <= float(part.attrib["x"]) <= width - float(part.attrib["width"])
        assert float(part.attrib["y"]) >= 0
    marks = [part for part in root if part.get("class") == "removed"]
    assert all(0 <= float(part.attrib["y1"]) <= 250 for part in marks)  # a negative share is drawn at zero


def test_labels_of_stages_do_not_overlap() -> None:
    for width in (340.0, 1024.0):
        root = ElementTree.fromstring(str(noise_chart(section(60), width)))
        labels = [
            (float(part.attrib["x"]), len(part.text or ""))
            for part in root
            if part.get("class") == "tick" and part.get("text-anchor") == "middle"
        ]
        assert labels
        for (x, letters), (next_x, next_letters) in pairwise(labels):
            assert next_x - x >= 6.4 * (letters + next_letters) / 2 - 0.01


def test_names_are_escaped_and_no_error_has_words() -> None:
    text = str(noise_chart(section(), 400))
    assert "part&lt;0&gt;" in text
    assert "no error" in text


def test_nothing_measured_is_an_empty_picture() -> None:
    assert "<svg" in str(noise_chart(section(0), 400))


def test_a_small_histogram_is_one_shape_with_what_is_clipped_shaded() -> None:
    histogram = Histogram(
        title="x",
        caption="",
        scheme="",
        edges=(-4.0, -2.0, 0.0, 2.0, 4.0),
        counts=(1, 0, 100, 9),
        grid=(-1.0, 0.0, 1.0),
        unit="",
        logarithmic=True,
    )
    text = str(small_histogram(histogram))
    root = ElementTree.fromstring(text)
    assert root.get("preserveAspectRatio") == "none"
    assert [part.get("class") for part in root] == ["clipped", "clipped", "shape", "baseline"]
    heights = [float(y) for y in re.findall(r"L[\d.]+ ([\d.]+)H", text)]
    assert heights[2] == min(heights) == 2.0
    assert heights[1] == 40.0
