from __future__ import annotations

import io
import json
import math
from pathlib import Path

import pytest
from rich.console import Console

from quantsim.experiments.demo import DEMO_PRESETS, DemoResult, DemoSettings, ExperimentResult, SchemeResult, command
from quantsim.experiments.demo.command import parse_settings, run_in_terminal
from quantsim.experiments.demo.minilm import MissingDemoPackageError
from quantsim.experiments.demo.results import EncodingsFile
from quantsim.experiments.demo.table import result_table
from quantsim.sim import preset_names


def scheme(name: str, accuracy: float, retrieval: float | None, sqnr: float = 20.0) -> SchemeResult:
    return SchemeResult(
        scheme=name,
        accuracy=accuracy,
        retrieval_at_1=retrieval,
        cosine=0.99,
        sqnr_db=sqnr,
        size_bytes=5_000_000,
        seconds=1.0,
    )


def result(retrieval: float | None = 0.5) -> DemoResult:
    files = (
        EncodingsFile(scheme="w8a8", version="quantsim-1", path=Path("out/a.json"), formats=(("int8", 3),)),
        EncodingsFile(scheme="w8a8", version="aimet-torch", path=None, problem="cannot hold it"),
    )
    experiment = ExperimentResult(
        model="m",
        title="Model",
        task="What was measured.",
        parameters=1234,
        reference=scheme("fp32", 0.75, retrieval, math.inf),
        schemes=(scheme("w8a8", 0.7475, retrieval), scheme("w4a8", 0.70, retrieval)),
        files=files,
    )
    return DemoResult(experiments=(experiment,), quick=False, seconds=12.3)


def console() -> Console:
    return Console(file=io.StringIO(), width=200, color_system=None)


def printed(target: Console) -> str:
    assert isinstance(target.file, io.StringIO)
    return target.file.getvalue()


def test_every_preset_of_the_simulation_is_in_the_demo() -> None:
    assert set(DEMO_PRESETS) <= set(preset_names())
    assert len(DEMO_PRESETS) == 6


def test_options() -> None:
    assert parse_settings("demo", []) == DemoSettings()
    quick = parse_settings("demo", ["--quick", "--output", "x"])
    assert quick == DemoSettings.quick_run(Path("x"))
    assert quick.quick
    assert quick.pairs < DemoSettings().pairs
    with pytest.raises(SystemExit):
        parse_settings("demo", ["--unknown"])


def test_the_table_shows_differences_in_points() -> None:
    target = console()
    target.print(result_table(result().experiments[0]))
    text = printed(target)
    for shown in ("1,234 parameters", "retrieval@1", "75.00", "74.75 -0.25", "70.00 -5.00", "∞", "5.0 MB"):
        assert shown in text
    target = console()
    target.print(result_table(result(None).experiments[0]))
    assert "retrieval" not in printed(target)


def test_the_command_prints_tables_and_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(command, "run_demo", lambda settings, console, on_simulation: result())
    target, finished = console(), []

    def finish(value: DemoResult) -> list[Path]:
        finished.append(value)
        return [tmp_path / "report.html"]

    assert run_in_terminal(DemoSettings(output=tmp_path), finish=finish, console=target) == 0
    assert len(finished) == 1
    text = printed(target)
    for shown in ("report.html", "results.json", "(1 files)", "not in aimet-torch form", "w8a8", "What was measured."):
        assert shown in text


def test_an_expected_error_is_a_sentence_not_a_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fail(*_: object) -> DemoResult:
        raise MissingDemoPackageError("Fix: pip install 'quantsim[demo]'")

    monkeypatch.setattr(command, "run_demo", fail)
    target = console()
    assert run_in_terminal(DemoSettings(output=tmp_path), console=target) == 1
    assert printed(target) == "The demo stopped: Fix: pip install 'quantsim[demo]'\n"


def test_results_are_json() -> None:
    plain = json.loads(json.dumps(result().as_json(), allow_nan=False))
    assert plain["experiments"][0]["reference"]["sqnr_db"] is None
    assert plain["experiments"][0]["schemes"][0]["accuracy"] == 0.7475
    assert plain["experiments"][0]["files"][0]["path"] == "out/a.json"
