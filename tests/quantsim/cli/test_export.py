from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import quantsim_encodings
from quantsim.cli.export import ExportTarget
from quantsim.cli.saved_simulation import load_simulation
from quantsim.export import load_program

Run = Callable[..., Any]


def inputs(rows: int) -> torch.Tensor:
    return torch.randn(rows, 32, generator=torch.Generator().manual_seed(3))


def test_encodings_of_each_version(run: Run, code: Path, saved: Path, tmp_path: Path) -> None:
    for version in ("quantsim-1", "0.6.1", "2.0.0"):
        path = tmp_path / "new" / f"{version}.json"
        options = ("--encodings-version", version)
        done = run("export", saved, "-m", f"{code}:model", "--to", "encodings", "-o", path, *options)
        assert (done.code, done.err) == (0, "")
        assert f"4 encodings, version {version}" in done.out
        assert quantsim_encodings.read(path).version.value == version


def test_weights_rounded_or_not(run: Run, code: Path, saved: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    arguments = ("export", saved, "-m", f"{code}:model", "--to", "safetensors", "-o")
    assert run(*arguments, tmp_path / "rounded").code == 0
    assert run(*arguments, tmp_path / "float", "--float-weights").code == 0
    rounded, plain, before = (
        load_file(folder / "model.safetensors") for folder in (tmp_path / "rounded", tmp_path / "float", saved)
    )
    assert all(torch.equal(plain[name], before[name]) for name in before)
    assert len(rounded["0.weight"][0].unique()) <= 32 < rounded["0.weight"].numel()
    assert not torch.equal(rounded["0.weight"], before["0.weight"])
    again = load_simulation(tmp_path / "rounded", f"{code}:model").sim
    assert torch.equal(again(inputs(3)), load_simulation(saved, f"{code}:model").sim(inputs(3)))


def test_a_program_that_takes_any_number_of_samples(run: Run, code: Path, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "program.pt2"
    done = run("export", saved, "-m", f"{code}:model_with_inputs", "--to", "program", "-o", path, "--dynamic-batch")
    assert (done.code, done.err) == (0, "")
    sim = load_simulation(saved, f"{code}:model").sim
    program = load_program(path).program.module()
    for rows in (1, 5):
        torch.testing.assert_close(program(inputs(rows)), sim(inputs(rows)))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_onnx_file_that_takes_any_number_of_samples(run: Run, code: Path, saved: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from quantsim.integrations.onnxruntime import run_onnx

    path = tmp_path / "model.onnx"
    data = ("-d", f"{code}:batches", "--dynamic-batch", "--float-graph", "--encodings-version", "1.0.0")
    done = run("export", saved, "-m", f"{code}:model", "--to", "onnx", "-o", path, *data)
    assert done.code == 0, done.err
    assert "2 int8 constants, 2 uint8 activations" in done.out
    assert {"model.onnx", "model.float.onnx", "model.encodings.json"} <= {each.name for each in tmp_path.iterdir()}
    sim = load_simulation(saved, f"{code}:model").sim
    for rows in (1, 5):
        [got] = run_onnx(path, inputs(rows)).values()
        np.testing.assert_allclose(got, sim(inputs(rows)).detach().numpy(), atol=2e-2)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_folder_for_integer_hardware(run: Run, code: Path, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "chip"
    arguments = ("export", saved, "-m", f"{code}:model_with_inputs", "--to", "chip", "-o", path)
    done = run(*arguments)
    assert (done.code, done.err) == (0, "")
    assert "integer coverage: " in done.out
    assert run("chip", "verify", path).code == 0
    assert "is not empty" in run(*arguments).err
    assert run(*arguments, "--overwrite").code == 0


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_text_model_as_onnx(run: Run, saved_classifier: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from quantsim.integrations.onnxruntime import run_onnx

    path = tmp_path / "folder"
    done = run("export", saved_classifier, "--to", "onnx", "-o", path, "--dynamic-batch", "--dynamic-length")
    assert done.code == 0, done.err
    ids = torch.tensor([[2, 5, 6, 7, 3]] * 3)
    batch = {"input_ids": ids, "token_type_ids": torch.zeros_like(ids), "attention_mask": torch.ones_like(ids)}
    [got] = run_onnx(path / "model.onnx", batch).values()
    expected = load_simulation(saved_classifier, None).sim(**batch).logits
    assert float(torch.nn.functional.cosine_similarity(torch.tensor(got), expected).min()) > 0.99


@pytest.mark.parametrize(
    ("arguments", "code_of_exit", "words"),
    [
        (["{saved}", "-o", "new.onnx"], 2, "--to"),
        (["{saved}", "--to", "onnx"], 2, "--output"),
        (["{saved}", "--to", "tflite", "-o", "new"], 2, "'onnx', 'encodings', 'safetensors', 'program'"),
        (["--to", "onnx", "-o", "new.onnx"], 2, "'simulation'"),
        (["missing", "--to", "onnx", "-o", "new.onnx"], 1, "SIMULATION missing: no such folder"),
        (["{saved}", "--to", "onnx", "-o", "new.onnx"], 1, "pass --model"),
        (["{saved}", "-m", "{code}:model", "--to", "onnx", "-o", "new.onnx"], 1, "needs an input to be run on"),
        (["{saved}", "-m", "{code}:model", "--to", "program", "-o", "new.onnx"], 1, "ends in .pt2 for --to program"),
        (["{saved}", "-m", "{code}:model", "--to", "encodings", "-o", "new"], 1, "ends in .json for --to encodings"),
        (["{saved}", "-m", "{code}:model", "--to", "encodings", "-o", "{folder}"], 1, "is a folder"),
        (["{saved}", "-m", "{code}:model", "--to", "encodings", "-o", "{file}"], 1, "exists; choose another name"),
        (["{saved}", "-m", "{code}:model", "--to", "encodings", "-o", "{file}/x.json"], 1, "is a file"),
        (["{saved}", "-m", "{code}:model", "--to", "safetensors", "-o", "{saved}"], 1, "is the folder that is read"),
        (["{saved}", "-m", "{code}:model", "--to", "safetensors", "-o", "{folder}"], 1, "is not empty"),
        (["{saved}", "-m", "{code}:model", "--to", "safetensors", "-o", "{file}"], 1, "is a file"),
        (["{saved}", "--to", "encodings", "-o", "x.json", "--opset", "21"], 2, "--opset: goes with --to onnx, not"),
        (["{saved}", "--to", "program", "-o", "x.pt2", "--strict"], 2, "--strict: goes with --to onnx"),
        (["{saved}", "--to", "onnx", "-o", "x.onnx", "--fold-weights"], 2, "--fold-weights: goes with --to program or"),
        (["{saved}", "--to", "onnx", "-o", "x.onnx", "--allow", "layout"], 2, "--allow: goes with --to encodings"),
        (["{saved}", "--to", "encodings", "-o", "x.json", "-d", "x"], 2, "--data: goes with --to onnx or program"),
        (["{saved}", "--to", "encodings", "-o", "x.json", "--encodings-version", "9"], 2, "got '9'"),
        (["{saved}", "--to", "encodings", "-o", "x.json", "--allow", "all"], 2, "got all"),
        (["{saved}", "--to", "onnx", "-o", "x.onnx", "--label", "y"], 2, "--data: missing; --label says"),
        (["{saved}", "-m", "{code}:model", "--to", "onnx", "-o", "x", "-d", "{code}:wrong_width"], 1, "mat1"),
        (
            [
                "{saved}",
                "-m",
                "{code}:model_with_inputs",
                "--to",
                "onnx",
                "-o",
                "x",
                "--dynamic-length",
                "--opset",
                "17",
            ],
            1,
            "opset",
        ),
        (["{classifier}", "--to", "encodings", "-o", "x.json", "-m", "{code}:model"], 1, "does not fit"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    run: Run,
    code: Path,
    saved: Path,
    saved_classifier: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code_of_exit: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    file, folder = tmp_path / "file.json", tmp_path / "folder"
    file.write_text("mine")
    folder.mkdir()
    (folder / "something").write_text("")
    before = sorted(path.name for path in tmp_path.iterdir())
    known = {"code": code, "saved": saved, "classifier": saved_classifier, "file": file, "folder": folder}
    done = run("export", *(argument.format(**known) for argument in arguments))
    assert (done.code, done.out) == (code_of_exit, "")
    assert done.err.count("\n") == 1, done.err
    assert words in done.err
    assert file.read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == before


def test_inputs_without_a_common_first_size(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "scaled.py"
    file.write_text(
        """
import torch
class Scaled(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
    def forward(self, x, scale):
        return self.linear(x) * scale
def model():
    return Scaled(), (torch.zeros(2, 4), torch.tensor(2.0))
"""
    )
    assert run("calibrate", f"{file}:model", "-c", "bf16", "-o", tmp_path / "simulation").code == 0
    for option, sizes in (("--dynamic-batch", "first sizes of the inputs are 0, 2"), ("--dynamic-length", "first")):
        arguments = ("--to", "program", "-o", tmp_path / "x.pt2", option)
        done = run("export", tmp_path / "simulation", "-m", f"{file}:model", *arguments)
        assert done.code == 1
        assert f"{option}: the {sizes}" in done.err


def test_a_version_that_cannot_hold_it(run: Run, code: Path, tmp_path: Path) -> None:
    folder = tmp_path / "simulation"
    assert run("calibrate", f"{code}:model_with_inputs", "-c", "mxfp8", "-o", folder).code == 0
    path = tmp_path / "x.json"
    options = ("--to", "encodings", "-o", path, "--encodings-version", "0.6.1")
    done = run("export", folder, "-m", f"{code}:model", *options)
    assert done.code == 1
    assert "cannot" in done.err
    assert not path.exists()


def test_the_targets_are_those_of_the_help(run: Run) -> None:
    shown = run("export", "--help").out
    for target in ExportTarget:
        assert target.value in shown
