"""The report of an export as text."""

from __future__ import annotations

from pathlib import Path

from quantsim.export.onnx_coverage import GraphCoverage
from quantsim.export.onnx_report import ExportedQuantizer, OnnxExportReport


def test_text() -> None:
    report = OnnxExportReport(
        path=Path("m.onnx"),
        float_path=None,
        encodings={"1.0.0": Path("m.encodings.json")},
        quantizers=(
            ExportedQuantizer("fc.param_quantizers['weight']", ("fc.weight",), "INT8", is_constant=True),
            ExportedQuantizer("fc.input_quantizers[0]", ("x",), "decomposed"),
        ),
        unreached=("other.input_quantizers[0]",),
        coverage=GraphCoverage(("x",), (), (), ()),
        name_map={"x": ("fc.input_quantizers[0]",)},
        size=1_500_000,
        float_size=6_000_000,
        notes=("fc: its kernel is not in the graph",),
    )
    assert report.decomposed == ("fc.input_quantizers[0]",)
    assert str(report).splitlines() == [
        "m.onnx: 1.50 MB (constants in floating point: 6.00 MB)",
        "quantizers: 1 int8 constants, 1 decomposed activations",
        "coverage: 1 tensors with an encoding, 0 that carry its numbers on, 0 small constants, 0 without",
        "encodings 1.0.0: m.encodings.json",
        "not reached by the example inputs: other.input_quantizers[0]",
        "fc: its kernel is not in the graph",
    ]
