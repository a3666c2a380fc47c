"""Load encodings that quantsim wrote beside an ONNX graph into aimet-onnx's simulation and run it. Run by test_onnx.py:

    .oracle/bin/python tests/interop/onnx_oracle.py FOLDER

For each ``NAME.float.onnx`` in the folder reads ``NAME.npz`` (inputs) and the encodings ``NAME.*.encodings.json``;
writes ``NAME.<version>.oracle.npz`` (the first output) and ``.json`` (names of the quantizers that are on).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from aimet_onnx.quantsim import QuantizationSimModel, load_encodings_to_sim


def run(graph: Path, encodings: Path) -> None:
    """Simulate one graph with one encodings file."""
    sim = QuantizationSimModel(onnx.load(graph))
    load_encodings_to_sim(sim, str(encodings), strict=False)
    with np.load(graph.with_name(graph.name.replace(".float.onnx", ".npz"))) as inputs:
        outputs = sim.session.run(None, dict(inputs))
    target = encodings.with_name(encodings.name.replace(".encodings.json", ".oracle"))
    np.savez(f"{target}.npz", output=outputs[0])
    active = sorted(name for name, quantizer in sim.qc_quantize_op_dict.items() if quantizer.enabled)
    Path(f"{target}.json").write_text(json.dumps(active), encoding="utf-8")


def main(folder: Path) -> int:
    """Every graph with every encodings file beside it."""
    for graph in sorted(folder.glob("*.float.onnx")):
        stem = graph.name.removesuffix(".float.onnx")
        for encodings in sorted(folder.glob(f"{stem}.*.encodings.json")):
            run(graph, encodings)
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1])))
