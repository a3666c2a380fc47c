from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import quantsim_encodings
from quantsim.sim import QuantizationSimModel

Run = Callable[..., Any]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    sim = QuantizationSimModel(nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.zeros(1, 4), config="w8a8")
    sim.compute_encodings([torch.randn(8, 4)])
    path = tmp_path / "encodings.json"
    sim.save_encodings(path)
    return path


def test_a_valid_file(run: Run, file: Path) -> None:
    done = run("encodings", "validate", file)
    assert done.code == 0
    assert "valid, version quantsim-1, 2 encodings" in done.out


def test_every_problem_of_every_file_is_listed(run: Run, file: Path, tmp_path: Path) -> None:
    values = json.loads(file.read_text())
    broken = tmp_path / "broken.json"
    entries = values["encodings"]
    entries[0]["nonsense"] = 1
    del entries[1]["encoding"]
    broken.write_text(json.dumps(values))
    done = run("encodings", "validate", file, broken)
    assert done.code == 1
    assert "$.encodings[0]" in done.err
    assert "$.encodings[1]" in done.err


@pytest.mark.parametrize("version", ["aimet-torch", "0.6.1", "1.0.0", "2.0.0", "2.1.0", "quantsim-1"])
def test_conversion_keeps_the_numbers(run: Run, file: Path, tmp_path: Path, version: str) -> None:
    target = tmp_path / "converted.json"
    done = run("encodings", "convert", file, target, "--version", version)
    assert done.code == 0, done.err
    assert quantsim_encodings.read(target).version == version
    assert run("encodings", "diff", target, target).code == 0


def test_an_existing_target_is_kept(run: Run, file: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.json"
    target.write_text("mine")
    done = run("encodings", "convert", file, target, "-v", "1.0.0")
    assert done.code == 1
    assert "--overwrite" in done.err
    assert target.read_text() == "mine"
    assert run("encodings", "convert", file, target, "-v", "1.0.0", "--overwrite").code == 0


def test_what_a_version_cannot_hold_is_listed_and_nothing_written(run: Run, tmp_path: Path) -> None:
    sim = QuantizationSimModel(nn.Linear(4, 3), torch.zeros(1, 4), config="w8a8_dynamic")
    sim.compute_param_encodings()
    source, target = tmp_path / "a.json", tmp_path / "b.json"
    sim.save_encodings(source)
    done = run("encodings", "convert", source, target, "-v", "0.6.1")
    assert done.code == 1
    assert "input[0]" in done.err
    assert not target.exists()


def test_differences_are_shown(run: Run, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    values = json.loads(file.read_text())
    del values["encodings"][0]
    other.write_text(json.dumps(values))
    done = run("encodings", "diff", file, other)
    assert done.code == 1
    assert "presence" in done.out
    same = run("encodings", "diff", file, file)
    assert same.code == 0
    assert "no difference" in same.out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["validate", "nowhere.json"], ["nowhere.json", "no such file"]),
        (["validate", "{folder}"], ["is a folder"]),
        (["validate"], ["files"]),
        (["convert", "{file}", "out.json", "-v", "7.0"], ["'7.0'", "quantsim-1"]),
        (["convert", "{file}", "out.json"], ["version"]),
        (["convert", "{file}", "out.json", "-v", "1.0.0", "--allow", "anything"], ["anything", "code_sign"]),
        (["convert", "{text}", "out.json", "-v", "1.0.0"], ["cannot read"]),
        (["diff", "{file}", "{text}"], ["cannot read"]),
        (["explode"], ["explode"]),
    ],
)
def test_what_cannot_be_used_is_said_in_words(
    run: Run, file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    text = tmp_path / "text.json"
    text.write_text("no JSON")
    known = {"file": file, "folder": tmp_path, "text": text}
    done = run("encodings", *(argument.format(**known) for argument in arguments))
    usage = arguments[0] in ("diff", "explode") or len(arguments) in (1, 3) or {"7.0", "anything"} & set(arguments)
    assert done.code == (2 if usage else 1)
    said = " ".join(done.err.split())
    for word in words:
        assert word in said, said
    assert not (tmp_path / "out.json").exists()
