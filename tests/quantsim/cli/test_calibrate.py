from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from quantsim.cli.calibrate import calibrate_quantizers
from quantsim.cli.console import progress_console
from quantsim.cli.outcome import CommandError
from quantsim.export import load_simulation
from quantsim.sim import QuantizationSimModel

Run = Callable[..., Any]


def test_a_model_of_code_is_calibrated_and_saved(run: Run, code: Path, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "simulation"
    done = run("calibrate", f"{code}:model", "-d", f"{code}:batches", "-o", folder, "--summary")
    assert (done.code, done.err) == (0, "")
    assert "4 quantizers, config w8a8" in done.out
    assert "weight: int8/channel" in done.out
    assert f"wrote {folder}" in done.out
    # The same as without the command line.
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    generator = torch.Generator().manual_seed(1)
    batches = [torch.randn(8, 32, generator=generator) for _ in range(6)]
    sim = QuantizationSimModel(model, batches[0], config="w8a8")
    sim.compute_encodings(batches)
    again = load_simulation(folder, model)
    assert torch.equal(again(batches[0]), sim(batches[0]))
    record = json.loads((folder / "calibration.json").read_text())
    assert record["model"] == f"{code}:model"
    assert record["batches"] == 6


def test_a_hugging_face_folder_and_a_table(run: Run, classifier: Path, tmp_path: Path) -> None:
    table = tmp_path / "reviews.csv"
    table.write_text("text,label\nalpha beta,good\ndelta,bad\n")
    folder = tmp_path / "simulation"
    done = run("calibrate", classifier, "-d", table, "-o", folder, "-c", "w8a8")
    assert (done.code, done.err) == (0, "")
    assert {"config.json", "tokenizer.json", "quantsim.json", "encodings.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert not load_simulation(folder).uncalibrated()


def test_arrays_as_data(run: Run, code: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=np.random.default_rng(0).normal(size=(20, 32)), y=np.zeros(20, np.int64))
    data = ("-d", tmp_path / "x.npz", "--column", "x", "--label", "y", "--batch-size", "8")
    done = run("calibrate", f"{code}:model", *data, "-o", tmp_path / "simulation")
    assert done.code == 0, done.err
    assert json.loads((tmp_path / "simulation" / "calibration.json").read_text())["batches"] == 3


@pytest.mark.parametrize("config", ["w8a8_dynamic", "mxfp8", "bf16"])
def test_configs_that_need_no_data(run: Run, code: Path, tmp_path: Path, config: str) -> None:
    done = run("calibrate", f"{code}:model_with_inputs", "-c", config, "-o", tmp_path / "simulation")
    assert done.code == 0, done.err


def test_an_old_simulation_is_replaced_only_if_asked_for(run: Run, code: Path, tmp_path: Path) -> None:
    arguments = ("calibrate", f"{code}:model_with_inputs", "-c", "bf16", "-o", tmp_path / "simulation")
    assert run(*arguments).code == 0
    refused = run(*arguments)
    assert refused.code == 1
    assert "is not empty; choose another folder, or pass --overwrite" in refused.err
    assert run(*arguments, "--overwrite", "--fold-weights").code == 0


@pytest.mark.parametrize(
    ("arguments", "code_of_exit", "words"),
    [
        (["{code}:model", "-o", "new", "--device", "nonesuch"], 1, "--device nonesuch"),
        (["{code}:model"], 2, "--output"),
        (["-o", "new"], 2, "'model'"),
        (["{code}:model", "-o", "{code}"], 1, "is a file; expected a folder"),
        (["{code}:model", "-o", "{folder}"], 1, "is not empty"),
        (["{code}:model", "-o", "new"], 1, "needs an input to be run on"),
        (["{code}:model_with_inputs", "-o", "new"], 1, "fixed ranges, which need data; pass --data"),
        (["{code}:model", "-o", "new", "--label", "y"], 2, "--data: missing; --label says how"),
        (["{code}:model", "-o", "new", "--column", "y"], 2, "--data: missing; --column says how"),
        (["{code}:model", "-o", "new", "--no-header"], 2, "--data: missing; --no-header says how"),
        (["{code}:model", "-o", "new", "-c", "w8a9"], 1, "did you mean"),
        (["{code}:model", "-o", "new", "-c", "none.yaml"], 1, "no such file"),
        (["{code}:model", "-o", "new", "-d", "none.csv"], 1, "--data none.csv: no such file"),
        (["{code}:model", "-o", "new", "-d", "{folder}"], 1, "is a folder"),
        (["{code}:model", "-o", "new", "-d", "{table}"], 1, "no tokenizer for texts; pass --tokenizer"),
        (["{code}:model", "-o", "new", "-d", "{table}", "--tokenizer", "none"], 1, "--tokenizer none: no such folder"),
        (["{code}:model", "-o", "new", "-d", "{code}:wrong_width"], 1, "the model fails on batch 0"),
        (["{code}:model_with_inputs", "-o", "new", "-d", "{code}:wrong_width"], 1, "the model fails on batch 0"),
        (["{code}:model_with_inputs", "-o", "new", "-d", "{code}:nan"], 1, "0.input_quantizers[0]"),
        (["{code}:model", "-o", "new", "-d", "{code}:nothing"], 1, "no batch"),
        (["{code}:model", "-o", "new", "-d", "{code}:dictionary_of_text"], 1, "returned dict"),
        (["{code}:model", "-o", "new", "-d", "{code}:batches", "--column", "x"], 1, "has no columns"),
        (["{code}:model", "-o", "new", "-d", "{code}:batches", "--label", "1"], 1, "batch 0 is Tensor"),
        (["{code}:model", "-o", "new", "-d", "{code}:labelled"], 1, "if its batches hold labels, pass --label"),
        (["{saved}", "-o", "new"], 1, "holds a simulation already"),
        (["{code}:fails", "-o", "new"], 1, "ValueError: the disk is full"),
        (["{code}:number", "-o", "new"], 1, "returned int"),
        (["missing", "-o", "new"], 1, "not understood"),
        (["{code}:model", "-o", "new", "--batch-size", "0"], 2, "--batch-size"),
        (["{code}:model", "-o", "new", "--limit", "none"], 2, "--limit"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    run: Run,
    code: Path,
    saved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code_of_exit: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "table.csv").write_text("text\nalpha\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "something").write_text("")
    known = {"code": code, "saved": saved, "folder": tmp_path / "folder", "table": tmp_path / "table.csv"}
    done = run("calibrate", *(argument.format(**known) for argument in arguments))
    assert (done.code, done.out) == (code_of_exit, "")
    assert done.err.count("\n") == 1, done.err
    assert words in done.err
    assert not (tmp_path / "new").exists()  # nothing half written


def test_quantizers_that_saw_no_data_are_named_and_nothing_is_written(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "experts.py"
    file.write_text(
        """
import torch
class Experts(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.left, self.right = torch.nn.Linear(4, 4), torch.nn.Linear(4, 4)
    def forward(self, x):
        return self.left(x) if x.sum() > 0 else self.right(x)
def model():
    return Experts(), torch.ones(2, 4)
def data():
    return [torch.ones(2, 4)]
def both():
    return [torch.ones(2, 4), -torch.ones(2, 4)]
"""
    )
    arguments = ("calibrate", f"{file}:model", "-o", tmp_path / "simulation", "-d")
    done = run(*arguments, f"{file}:data")
    assert done.code == 1
    assert done.err.count("\n") == 1
    assert "saw no data and have no range: right.input_quantizers[0]" in done.err
    assert not (tmp_path / "simulation").exists()
    assert run(*arguments, f"{file}:both").code == 0


def test_an_error_that_is_not_the_models_is_not_blamed_on_it(monkeypatch: pytest.MonkeyPatch) -> None:
    sim = QuantizationSimModel(nn.Linear(2, 2), torch.zeros(1, 2), config="w8a8")

    def broken(batches: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(sim, "compute_encodings", broken)
    with pytest.raises(ZeroDivisionError):
        calibrate_quantizers(sim, [torch.zeros(1, 2)], progress_console())
    monkeypatch.undo()
    with pytest.raises(CommandError, match="the model fails on batch 1: RuntimeError"):
        calibrate_quantizers(sim, [torch.zeros(1, 2), torch.zeros(1, 3)], progress_console())
