from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from quantsim.cli import chip as commands
from quantsim.export import load_chip
from quantsim.export.chip import FirstCode, MemoryFormat, TileOrder

Run = Callable[..., Any]


@pytest.fixture(scope="module")
def integer_simulation(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a simulation that integers can compute, of what ``model`` of `code` makes."""
    from quantsim.sim import QuantizationSimModel

    folder = tmp_path_factory.mktemp("saved") / "simulation"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    sim = QuantizationSimModel(model, torch.zeros(1, 32), config="integer_w8a8")
    sim.compute_encodings([torch.randn(64, 32, generator=torch.Generator().manual_seed(1))])
    sim.save_pretrained(folder)
    return folder


@pytest.fixture
def folder(run: Run, code: Path, integer_simulation: Path, tmp_path: Path) -> Path:
    """An export of it."""
    path = tmp_path / "chip"
    done = run(
        *("chip", "export", integer_simulation, "-m", f"{code}:model", "-d", f"{code}:batches", "-o", path),
        *("--tile-rows", "4", "--tile-columns", "8", "--tile-order", "outputs_first", "--first-code", "high"),
        *("--format", "hex", "--format", "decimal", "--no-onnx", "--strict", "--weight-bits", "8"),
    )
    assert (done.code, done.err) == (0, "")
    assert "2 integer nodes, 3 test vectors" in done.out
    assert "integer coverage: 3 of 3 operations" in done.out
    return path


def test_an_export_is_verified_and_shown(run: Run, folder: Path) -> None:
    chip = load_chip(folder)
    tiling = chip.manifest.tiling
    assert (tiling.rows, tiling.columns, tiling.order, tiling.first_code) == (4, 8, "outputs_first", "high")
    assert chip.vectors[chip.graph.inputs[0]].shape == (8, 32)
    done = run("chip", "verify", folder, "--executor", "numpy", "--executor", "torch")
    assert (done.code, done.err) == (0, "")
    assert "exact: executor 'numpy' reproduced 160 integers of 2 nodes; 22 memory files hold the same" in done.out
    assert "exact: executor 'torch' reproduced" in done.out
    shown = run("chip", "show", folder)
    assert "weight 64 x 64 bits" in shown.out
    assert json.loads(run("chip", "show", folder, "--json").out)["format"] == "quantsim-chip"


def test_a_changed_file_is_refused_by_its_name(run: Run, folder: Path) -> None:
    path = next((folder / "mem").glob("*weight.hex"))
    path.write_bytes(path.read_bytes().replace(b"0", b"1", 1))
    done = run("chip", "verify", folder)
    assert done.code == 1
    assert f"mem/{path.name}: SHA-256" in done.err


def test_vectors_that_do_not_follow_are_told(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from quantsim_kernels.reference import integer

    true = integer.linear

    def off_by_one(*args: Any, **kwargs: Any) -> np.ndarray:
        return np.clip(true(*args, **kwargs) + 1, kwargs["low"], kwargs["high"])

    monkeypatch.setattr(integer, "linear", off_by_one)
    done = run("chip", "verify", folder)
    assert done.code == 1
    assert "not exact: executor 'numpy' computed 2 values otherwise" in done.err


def test_a_test_bench(run: Run, folder: Path, tmp_path: Path) -> None:
    printed = run("chip", "test-bench", folder)
    assert printed.code == 0
    assert "localparam integer OUTPUTS_FIRST = 1;" in printed.out
    done = run("chip", "test-bench", folder, "-o", tmp_path / "new" / "layer.v")
    assert done.out.startswith(f"{tmp_path / 'new' / 'layer.v'}: run 'iverilog ")
    assert (tmp_path / "new" / "layer.v").read_text() == printed.out
    assert run("chip", "test-bench", folder, "--node", "tail").code == 1


def test_what_is_wrong_is_said_before_anything_slow(
    run: Run, code: Path, saved: Path, integer_simulation: Path, tmp_path: Path
) -> None:
    out = ("-o", tmp_path / "out")
    source = (integer_simulation, "-m", f"{code}:model_with_inputs")
    full = tmp_path / "full"
    full.mkdir()
    (full / "thesis.txt").touch()
    for arguments, status, words in (
        (("export", tmp_path / "none", *out), 1, "no such folder"),
        (("export", *source, "-o", full), 1, "is not empty"),
        (("export", *source, "-o", full, "--overwrite"), 1, "other things than an export"),
        (("export", *source, *out, "--weight-bits", "3"), 1, "weight_bits: got 3, expected one of 2, 4, 8"),
        (("export", *source, *out, "--weight-bits", "4"), 1, "weights do not fit the memory's bits"),
        (("export", *source, *out, "--tile-rows", "0"), 2, "--tile-rows"),
        (("export", *source, *out, "--format", "coe"), 2, "--format"),
        (("verify", tmp_path), 1, "holds no finished export"),
        (("verify", tmp_path / "none"), 1, "no such folder"),
    ):
        done = run("chip", *arguments)
        assert (done.code, words in done.err) == (status, True), done.err
    assert not (tmp_path / "out").exists()
    assert (full / "thesis.txt").exists()


def test_an_unknown_executor(run: Run, folder: Path) -> None:
    done = run("chip", "verify", folder, "--executor", "abacus")
    assert done.code == 1
    assert "got 'abacus'; expected numpy, torch, triton, onnxruntime" in done.err


def test_choices_are_those_of_the_library() -> None:
    for name, known in (("_TileOrder", TileOrder), ("_FirstCode", FirstCode), ("_MemoryFormat", MemoryFormat)):
        assert [each.value for each in getattr(commands, name)] == [each.value for each in known]
