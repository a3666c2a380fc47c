from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors
import torch
from torch import nn

from quantsim.transforms import float_precision_module_transform_pass, load_transform_config

Run = Callable[..., Any]

ARGUMENTS = {"by": "regex_name", "[a-z0]": {"format": "bf16"}, "default": {"exp_bits": 4, "sig_bits": 3, "rmode": 5}}


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "pass.json"
    path.write_text(json.dumps(ARGUMENTS))
    return path


def rows(text: str) -> list[list[str]]:
    """Cells of the printed table."""
    return [[cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")]


def test_what_is_replaced_is_shown(run: Run, code: Path, config: Path) -> None:
    done = run("transform", f"{code}:model_with_inputs", "--pass", "float_precision", "--config", config)
    assert done.code == 0, done.err
    assert rows(done.out) == [
        ["0", "Linear", "QuantizedLinear", "bf16, nearest_even", "[a-z0]"],
        ["1", "ReLU", "QuantizedReLU", "e4m3, stochastic", "default"],
        ["2", "Linear", "QuantizedLinear", "e4m3, stochastic", "default"],
    ]
    assert "Sequential: 3 modules replaced" in done.out
    assert "left alone" not in done.out
    assert done.err == ""


def test_counts_by_type(run: Run, code: Path, tmp_path: Path) -> None:
    path = tmp_path / "pass.yaml"
    path.write_text("by: name\n'2': {format: e4m3fn}\n")
    done = run("transform", f"{code}:model", "-c", path, "--summary")
    assert done.code == 0, done.err
    assert rows(done.out) == [["Linear", "QuantizedLinear", "e4m3fn, nearest_even", "1"]]
    assert "1 module replaced" in done.out
    assert "left alone, with parameters of their own: 1 Linear (0)" in done.out


def test_the_result_can_be_loaded_again(run: Run, code: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "folder"
    done = run("transform", f"{code}:model", "-c", config, "-o", out)
    assert done.code == 0, done.err
    assert sorted(path.name for path in out.iterdir()) == ["model.safetensors", "transform.json"]
    assert done.out.count("wrote ") == 2
    record = json.loads((out / "transform.json").read_text())
    assert record["pass"] == "float_precision" and record["pass_args"] == ARGUMENTS
    assert [item["path"] for item in record["modules"]] == ["0", "1", "2"]
    torch.manual_seed(0)
    original = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
    with safetensors.safe_open(out / "model.safetensors", "pt") as file:  # pyright: ignore[reportPrivateImportUsage]
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    assert all(torch.equal(tensors[name], value) for name, value in original.state_dict().items())
    again = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))
    again = float_precision_module_transform_pass(again, record["pass_args"])
    again.load_state_dict(tensors)
    assert torch.equal(again.state_dict()["2.weight"], original.state_dict()["2.weight"])


def test_what_would_be_lost_is_kept(run: Run, code: Path, config: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert run("transform", f"{code}:model", "-c", config, "-o", out).code == 0
    before = (out / "model.safetensors").read_bytes()
    done = run("transform", f"{code}:model", "-c", config, "-o", out)
    assert done.code == 1 and "already" in done.err and "transform.json" in done.err
    assert (out / "model.safetensors").read_bytes() == before
    other = tmp_path / "other.yaml"
    other.write_text("by: name\n'0': {format: fp16}\n")
    assert run("transform", f"{code}:model", "-c", other, "-o", out, "--overwrite").code == 0
    assert json.loads((out / "transform.json").read_text())["pass_args"]["0"] == {"format": "fp16"}
    assert sorted(path.name for path in out.iterdir()) == ["model.safetensors", "transform.json"]


def test_passes_are_listed(run: Run) -> None:
    done = run("transform", "--list")
    assert done.code == 0
    for word in ("float_precision", "exp_bits", "rmode", "default 1", "Rounding mode", "gradient_format"):
        assert word in done.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["MODEL", "--list"]),
        (["{code}:model"], ["--config"]),
        (["{code}:model", "-c", "none.yaml"], ["no such file", "none.yaml"]),
        (["{code}:model", "-c", "{code}"], [".json or .yaml"]),
        (["{code}:model", "-c", "{config}", "-p", "float_presicion"], ["no such pass", "did you mean"]),
        (["{code}:model", "-c", "{unmatched}"], ["fc1", "matches no module"]),
        (["{code}:modell", "-c", "{wrong}"], ["wrong.yaml['default']", "did you mean 'exp_bits'"]),
        (["{code}:modell", "-c", "{config}"], ["no function 'modell'"]),
        (["{code}:number", "-c", "{config}"], ["returned int", "torch.nn.Module"]),
        (["{code}:fails_on_its_inputs", "-c", "{config}"], ["fails on the example inputs", "RuntimeError"]),
        (["{code}:model", "-c", "{config}", "-o", "{config}"], ["--output", "is a file"]),
        (["{folder}", "-c", "{config}"], ["config.json", "Hugging Face"]),
        (["{code}:model", "--nonsense"], ["--nonsense"]),
    ],
)
def test_what_cannot_be_used_is_said_in_words(
    run: Run, code: Path, config: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    code.write_text(code.read_text() + "\ndef fails_on_its_inputs():\n    return model(), torch.zeros(1, 31)\n")
    unmatched, wrong, folder = tmp_path / "unmatched.yaml", tmp_path / "wrong.yaml", tmp_path / "folder"
    unmatched.write_text("by: name\nfc1: {format: bf16}\n")
    wrong.write_text("by: name\ndefault: {exp_bit: 5, sig_bits: 2}\n")
    folder.mkdir()
    known = {"code": code, "config": config, "unmatched": unmatched, "wrong": wrong, "folder": folder}
    done = run("transform", *(argument.format(**known) for argument in arguments))
    # 2 if the command line is wrong, 1 if what it names cannot be used.
    assert done.code == (2 if "--help'" in done.err else 1), done.err
    said = " ".join(done.err.split())
    for word in words:
        assert word in said, said


def test_a_hugging_face_folder_with_tied_weights(run: Run, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    folder, out = tmp_path / "tiny-bert", tmp_path / "out"
    torch.manual_seed(0)
    settings = transformers.BertConfig(
        vocab_size=16, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    transformers.BertModel(settings).save_pretrained(folder)
    path = tmp_path / "pass.yaml"
    path.write_text("by: regex_name\n'.*attention.*': {format: bf16}\n")
    done = run("transform", folder, "-c", path, "-o", out)
    assert done.code == 0, done.err
    assert "tiny-bert" in done.out
    assert "encoder.layer.0.attention.self.query" in done.out
    assert "left alone" in done.out and "Embedding" in done.out
    assert json.loads((out / "config.json").read_text())["hidden_size"] == 32
    assert load_transform_config(out / "transform.json")["pass"] == "float_precision"


def test_the_optical_pass_takes_its_ranges_from_the_example_inputs(run: Run, code: Path, tmp_path: Path) -> None:
    config, out = tmp_path / "optical.yaml", tmp_path / "out"
    config.write_text("by: regex_name\n'0': {q_levels: 64}\ndefault: {q_lut_min: null, noise: none}\n")
    code.write_text(code.read_text() + "\ndef evaluated():\n    return model().eval(), torch.ones(1, 32)\n")
    done = run("transform", f"{code}:evaluated", "--pass", "optical", "--config", config, "-o", out)
    assert done.code == 0, done.err
    assert rows(done.out) == [
        ["0", "Linear", "OtLinear", "64 levels, floor 0.02004, noise dither", "0"],
        ["2", "Linear", "OtLinear", "256 levels, no floor, noise none", "default"],
    ]
    with safetensors.safe_open(out / "model.safetensors", "pt") as file:  # pyright: ignore[reportPrivateImportUsage]
        ranges = [file.get_tensor(name) for name in file.keys() if name.endswith(".range")]  # noqa: SIM118
    assert len(ranges) == 6 and all(torch.isfinite(values).all() for values in ranges)


def test_the_optical_pass_takes_kinds_of_layers(run: Run, code: Path, tmp_path: Path) -> None:
    config = tmp_path / "transform_cfg.yaml"
    config.write_text("fc: {q_levels: 64}\n")
    done = run("transform", f"{code}:model", "--pass", "optical", "--config", config)
    assert done.code == 0 and [row[2] for row in rows(done.out)] == ["OtLinear", "OtLinear"]
    config.write_text("fc: {q_level: 64}\n")
    done = run("transform", f"{code}:model", "--pass", "optical", "--config", config)
    assert done.code != 0 and "did you mean 'q_levels'" in " ".join(done.err.split())
