from __future__ import annotations

import math
import os
import re
import sys
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import pytest

from quantsim.report import (
    AccuracySection,
    CoverageRow,
    CoverageSection,
    EncodingsRow,
    Highlight,
    Histogram,
    HistogramSection,
    LayerRow,
    LayerSection,
    RangeRow,
    RangeSection,
    ReportData,
    SchemeRow,
    UnquantizedRow,
    render_report,
    write_report,
)
from quantsim.report import render as render_module

VOID = {"meta", "link", "br", "line", "rect", "circle", "path", "img", "hr"}
HOSTILE = "<script>alert('x')</script> & \"quotes\""


class Reader(HTMLParser):
    """Checks that tags nest, and gathers ids, links and everything that would be loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loads: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.add(value or "")
            if name == "href" and tag == "a":
                self.links.add(value or "")
            elif name in ("src", "href", "srcset", "action", "data"):
                self.loads.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def scheme(name: str, accuracy: float, sqnr: float, cosine: float = 0.99, size: int = 500) -> SchemeRow:
    return SchemeRow(
        scheme=name, description=f"what {name} means", scores=(accuracy,), cosine=cosine, sqnr_db=sqnr, size_bytes=size
    )


def report(title: str = "A report", module: str = "encoder.layer") -> ReportData:
    reference = scheme("fp32", 0.75, math.inf, 1.0, 1000)
    rows = tuple(
        RangeRow(
            module=f"{module}.{i}",
            tensor="input 0",
            observed_low=-9.0,
            observed_high=9.0,
            grid_low=-5.0,
            grid_high=4.0,
            format="uint8",
        )
        for i in range(30)
    )
    histogram = Histogram(
        title="weight",
        caption="int4",
        scheme="w4",
        edges=(-9.0, 0.0, 9.0),
        counts=(3, 5),
        grid=tuple(map(float, range(-8, 8))),
        unit="code",
    )
    return ReportData(
        title=title,
        subtitle="Said in one sentence.",
        created=datetime(2026, 1, 2, 3, 4, tzinfo=UTC),
        highlights=(Highlight(label="Best", value="27.3 dB", note="w8"),),
        accuracy=(
            AccuracySection(
                title="model",
                task="task",
                score_names=("Accuracy",),
                reference=reference,
                schemes=(scheme("w8", 0.7475, 27.31, 0.9991), scheme("w4", 0.70, 11.5, 0.96, 300)),
            ),
        ),
        layers=(
            LayerSection(
                title="model",
                schemes=("w8", "w4"),
                layers=(
                    LayerRow(module=module, op="Linear", sqnr_db=(30.0, None)),
                    LayerRow(module="b", op="Linear", sqnr_db=(math.inf, -2.0)),
                ),
            ),
        ),
        ranges=(RangeSection(title="model, w8", rows=rows),),
        histograms=(HistogramSection(title="encoder", histograms=(histogram,)),),
        coverage=(
            CoverageSection(
                title="model",
                rows=(CoverageRow(op="Linear", modules=4, weights=3, activations=4, parameters=1234),),
                unquantized=(UnquantizedRow(op="matmul", where=("a", "b", "c", "d"), reason="functional"),),
            ),
        ),
        encodings=(
            EncodingsRow(
                model="model",
                scheme="w8",
                version="quantsim-1",
                file="w8.json",
                entries=7,
                formats=(("int8", 7),),
                size_bytes=2048,
            ),
            EncodingsRow(model="model", scheme="w8", version="aimet-torch", file=None, problem="cannot hold it"),
        ),
        environment=(("torch", "2.13.0"),),
        notes=("A note.",),
    )


def read(text: str) -> Reader:
    reader = Reader()
    reader.feed(text)
    assert reader.open == []
    return reader


def test_the_page_is_well_formed_and_every_link_leads_to_a_section() -> None:
    reader = read(render_report(report()))
    assert reader.links == {f"#{name}" for name in reader.ids if name}
    assert len(reader.links) == 7


def test_the_page_loads_nothing() -> None:
    text = render_report(report())
    assert read(text).loads == ["data:,"]
    assert not re.search(r"https?://|@import|url\(|<script", text)


def test_figures_are_shown_as_measured() -> None:
    words = " ".join(read(render_report(report())).text)
    for shown in (
        "75.00 %",
        "74.75 %",
        "−0.25",
        "−5.00",
        "27.3",
        "0.9991",
        "∞",
        "1.0 kB",
        "300 B",
        "1,234",
        "cannot hold it",
        "2.0 kB",
    ):
        assert shown in words


def test_text_is_escaped_in_html_and_svg() -> None:
    text = render_report(report(title=HOSTILE, module=HOSTILE))
    assert "<script" not in text
    assert text.count("&lt;script&gt;") > 30


def test_empty_sections_are_left_out() -> None:
    text = render_report(ReportData(title="Empty", subtitle="", created=datetime(2026, 1, 1, tzinfo=UTC)))
    assert read(text).ids == set()


def test_each_scheme_keeps_its_colour_over_the_page() -> None:
    text = render_report(report())
    assert 'class="curve" style="stroke:var(--series-0)"' in text
    assert re.search(r'background:var\(--series-1\)"></i>w4', text)
    assert 'class="bin" style="fill:var(--series-1)"' in text


def test_light_dark_and_paper_define_every_colour_that_is_used() -> None:
    text = render_report(report())
    style = text[text.index("<style>") : text.index("</style>")]
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", text)) - {"--share"}
    blocks = re.findall(r":root \{(.*?)\}", style, flags=re.S)
    assert len(blocks) == 3
    for block in blocks[:2]:
        assert used <= set(re.findall(r"(--[a-z0-9-]+):", block))


def test_writing_replaces_the_file_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "report.html"
    assert write_report(path, report()) == path
    write_report(path, report(title="Second"))
    assert "<title>Second</title>" in path.read_text(encoding="utf-8")
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_report(tmp_path / "report.html", report())
    before = path.read_text(encoding="utf-8")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_report(path, report(title="Second"))
    assert path.read_text(encoding="utf-8") == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["report.html"]


def test_without_jinja2_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    render_module._template.cache_clear()
    with pytest.raises(ImportError, match=r"quantsim\[report\]"):
        render_report(report())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: AccuracySection(
                title="m", task="", score_names=("a", "b"), reference=scheme("fp32", 1, 1), schemes=()
            ),
            "1 scores; expected 2",
        ),
        (
            lambda: LayerSection(title="m", schemes=("a",), layers=(LayerRow(module="x", op="Linear", sqnr_db=()),)),
            "'x' has 0 figures",
        ),
        (
            lambda: Histogram(title="h", caption="", scheme="a", edges=(0.0,), counts=(1,), grid=(), unit=""),
            "'h' has 1 edges",
        ),
    ],
)
def test_contradictory_data_is_refused(make, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
