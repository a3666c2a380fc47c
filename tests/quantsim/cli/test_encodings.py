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
    same = run("encodings", "diff", file, target)
    assert same.code == 0, same.out


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


@pytest.fixture
def lpbq(tmp_path: Path) -> Path:
    """A file of version 2.0.0, which does not say what is a parameter, with LPBQ, whose parts 0.6.1 cannot hold."""
    path = tmp_path / "lpbq.json"
    weight = {
        "name": "fc.weight",
        "output_dtype": "int4",
        "per_block_int_scale": [[1, 2], [3, 4]],
        "per_channel_float_scale": [[0.5], [0.25]],
        "block_size": 2,
        "axis": 1,
    }
    activation = {"name": "x", "output_dtype": "uint8", "y_scale": 0.5, "y_zero_point": 3}
    path.write_text(json.dumps({"version": "2.0.0", "encodings": [weight, activation]}))
    return path


def test_losses_are_accepted_by_name_and_listed(run: Run, lpbq: Path, tmp_path: Path) -> None:
    target = tmp_path / "legacy.json"
    convert = ("encodings", "convert", lpbq, target, "-v", "0.6.1")
    refused = run(*convert)
    assert refused.code == 1
    assert "fc.weight is LPBQ" in refused.err
    assert "--allow grouping" in refused.err
    assert "--parameters" in refused.err
    assert not target.exists()
    assert run(*convert, "--allow", "grouping").code == 1  # still unknown what is a parameter
    done = run(*convert, "--allow", "grouping", "--parameters", "*.weight")
    assert done.code == 0, done.err
    assert "not held by version 0.6.1" in done.out
    assert "fc.weight is LPBQ" in done.out
    written = json.loads(target.read_text())
    assert list(written["param_encodings"]) == ["fc.weight"]
    assert list(written["activation_encodings"]) == ["x"]


def test_a_parameter_may_be_named_in_full(run: Run, lpbq: Path, tmp_path: Path) -> None:
    options = ("-v", "0.6.1", "--allow", "grouping", "--parameters", "fc.weight")
    assert run("encodings", "convert", lpbq, tmp_path / "legacy.json", *options).code == 0


def test_the_other_files_are_checked_when_one_is_missing(run: Run, file: Path, tmp_path: Path) -> None:
    done = run("encodings", "validate", tmp_path / "missing.json", file)
    assert done.code == 1
    assert "missing.json: no such file" in done.err
    assert f"{file}: valid" in done.out


def test_all_problems_are_listed_however_many(run: Run, file: Path, tmp_path: Path) -> None:
    values = json.loads(file.read_text())
    values["encodings"] = [{**values["encodings"][0], "nonsense": 1} for _ in range(80)]
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(values))
    done = run("encodings", "validate", broken)
    assert "$.encodings[79]" in done.err


def test_differences_within_the_tolerance_are_none(run: Run, lpbq: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_text(lpbq.read_text().replace('"y_scale": 0.5', '"y_scale": 0.5000001'))
    assert run("encodings", "diff", lpbq, other).code == 1
    assert run("encodings", "diff", lpbq, other, "--tolerance", "1e-5").code == 0


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
        (["validate"], ["Missing argument"]),
        (["convert", "{file}", "out.json", "-v", "7.0"], ["'7.0'", "quantsim-1"]),
        (["convert", "{file}", "out.json"], ["version"]),
        (["convert", "{file}", "out.json", "-v", "1.0.0", "--allow", "anything"], ["anything", "code_sign"]),
        (["convert", "{text}", "out.json", "-v", "1.0.0"], ["cannot read"]),
        (["diff", "{file}", "{text}"], ["cannot read"]),
        (["diff", "{file}", "nowhere.json"], ["nowhere.json", "no such file"]),
        (["diff", "{file}", "{file}", "--tolerance", "-1"], ["--tolerance"]),
        (["convert", "{file}", "{folder}", "-v", "1.0.0"], ["is a folder"]),
        (["convert", "nowhere.json", "out.json", "-v", "1.0.0"], ["nowhere.json", "no such file"]),
        (["convert", "{file}", "none/out.json", "-v", "1.0.0"], ["none/out.json", "cannot be written"]),
        (["convert", "{file}", "out.json", "-v", "1.0.0", "--parameters", "x.*"], ["x.*", "0.weight"]),
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
    usage = (
        arguments[0] in ("diff", "explode")
        or len(arguments) in (1, 3)
        or {"7.0", "anything"} & {*arguments}
        or {"7.0", "anything"} & set(arguments)
    )
    assert done.code == (2 if usage else 1)
    said = " ".join(done.err.split())
    for word in words:
        assert word in said, said
    assert not (tmp_path / "out.json").exists()
