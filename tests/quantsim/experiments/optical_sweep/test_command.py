from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from quantsim.experiments.demo import MissingDemoPackageError
from quantsim.experiments.demo.workloads import Workload
from quantsim.experiments.optical_sweep import SweepResult, command
from quantsim.experiments.optical_sweep.command import main, write_results


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def printed(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_command_writes_results_and_plots(
    workload: Workload, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "minilm_workload", lambda settings, progress: workload)
    arguments = ["--output", str(tmp_path / "r"), "--figures", str(tmp_path / "f"), "--engine", "no floor"]
    assert main([*arguments, "--levels", "64,128", "--photons", "10"], console) == 0
    result = SweepResult.load(tmp_path / "r" / "optical-minilm.json")
    assert [point.levels for point in result.levels] == [64, 128]
    assert [point.photons for point in result.photons] == [10.0]
    names = {path.name for path in tmp_path.rglob("optical-*")}
    assert names == {
        "optical-minilm.json",
        "optical-minilm.md",
        "optical-minilm-levels.png",
        "optical-minilm-photons.png",
    }
    assert "128 levels" in (tmp_path / "r" / "optical-minilm.md").read_text()
    assert "no floor, 64 levels" in printed(console)


def test_redrawing_measures_nothing(
    result: SweepResult, console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(command, "minilm_workload")
    result.save(tmp_path / "optical-minilm.json")
    assert main(["--redraw", "--output", str(tmp_path)], console) == 0
    assert (tmp_path / "optical-minilm-photons.png").exists()
    assert "engine a" in printed(console)


def test_plots_of_what_was_not_measured_are_left_out(result: SweepResult, tmp_path: Path) -> None:
    only_levels = SweepResult(**{**vars(result), "photons": ()})
    assert [path.suffix for path in write_results(only_levels, tmp_path, tmp_path)] == [".json", ".md", ".png"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--engine", "steam"], "'steam'"),
        (["--levels", "1", "--photons", ""], "q_levels"),
        (["--redraw"], "cannot be read"),
    ],
)
def test_bad_input_ends_with_a_message(arguments: list[str], words: str, console: Console, tmp_path: Path) -> None:
    assert main([*arguments, "--output", str(tmp_path)], console) == 1
    assert words in printed(console)


def test_a_missing_package_ends_with_its_fix(console: Console, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object) -> None:
        raise MissingDemoPackageError("run `make demo`")

    monkeypatch.setattr(command, "minilm_workload", missing)
    assert main(["--output", str(tmp_path)], console) == 1
    assert "make demo" in printed(console)
