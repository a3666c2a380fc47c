from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from quantsim.dualpath.integer_graph import IntegerGraph
from quantsim.errors import ConfigurationError
from quantsim.export.chip import (
    ChipFolder,
    FirstCode,
    MemoryTiling,
    TileOrder,
    fully_connected_test_bench,
    nn2chip,
)

LAYERS = ("linear uint8", "linear int8 4096", "linear int16", "linear 4 bits", "linear accumulator", "residual block")
TILINGS = {
    "16x16": MemoryTiling(),
    "4x8": MemoryTiling(rows=4, columns=8, order=TileOrder.OUTPUTS_FIRST, first_code=FirstCode.HIGH),
    "1x3": MemoryTiling(rows=1, columns=3),
}
CASES = [(name, tiles) for name in LAYERS for tiles in TILINGS if "4096" not in name or tiles == "4x8"]

with_icarus = pytest.mark.skipif(shutil.which("iverilog") is None, reason="Icarus Verilog is not installed")


def simulate(chip: ChipFolder, text: str) -> str:
    source, program = chip.path.parent / "layer.v", chip.path.parent / "layer"
    source.write_text(text)
    subprocess.run(["iverilog", "-g2005-sv", "-Wall", "-o", program, source], check=True, timeout=60)
    finished = subprocess.run(["vvp", program], cwd=chip.path, check=True, capture_output=True, text=True, timeout=60)
    assert "WARNING" not in finished.stdout + finished.stderr
    return finished.stdout.strip()


@with_icarus
@pytest.mark.parametrize(("name", "tiles"), CASES)
def test_verilog_computes_the_same_integers(
    name: str,
    tiles: str,
    graphs: dict[str, Callable[[], IntegerGraph]],
    random_inputs: Callable[..., dict[str, np.ndarray]],
    tmp_path: Path,
) -> None:
    graph = graphs[name]()
    chip = nn2chip(graph, tmp_path / "chip", random_inputs(graph), tiling=TILINGS[tiles], formats=("hex",), onnx=False)
    integers = chip.vectors[graph.nodes[-1].output].size
    assert simulate(chip, fully_connected_test_bench(chip)) == f"PASS: {integers} integers match"


@with_icarus
def test_verilog_notices_a_wrong_integer(chip: ChipFolder) -> None:
    vector = next(value for value in chip.manifest.values if value.name == "logits")
    path = chip.path / next(name for name in vector.memory.files.values() if name.endswith(".hex"))
    lines = path.read_text().splitlines()
    code = int(lines[1][-2:], 16)
    lines[1] = f"{lines[1][:-2]}{(code + 1) % 256:02x}"
    path.write_text("\n".join(lines) + "\n")
    printed = simulate(chip, fully_connected_test_bench(chip))
    assert printed.endswith("FAIL: 1 of 30 integers differ")
    assert "vector 0, output 8: got " in printed


def test_the_layer_is_named_and_must_fit(
    chip: ChipFolder,
    graphs: dict[str, Callable[[], IntegerGraph]],
    random_inputs: Callable[..., dict[str, np.ndarray]],
    tmp_path: Path,
) -> None:
    text = fully_connected_test_bench(chip, "head")
    assert '`define WEIGHT_FILE "mem/0004_head.weight.hex"' in text
    assert "localparam integer WEIGHT_BITS = 4;" in text
    with pytest.raises(ConfigurationError, match=r"got 'block\.conv'; expected head"):
        fully_connected_test_bench(chip, "block.conv")
    graph = graphs["linear uint8"]()
    other = nn2chip(graph, tmp_path / "bin", random_inputs(graph), formats=("bin",), onnx=False)
    with pytest.raises(ConfigurationError, match=r"no \.hex files; got bin"):
        fully_connected_test_bench(other)
