from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue.comparison import RESULTS_FILE, compare
from quantsim.experiments.glue.comparison_plan import ComparisonSettings, PlannedRun, plan_runs
from quantsim.experiments.glue.results import RunResult, Stage, System, append_result, read_results


class Driver:
    """Gives what the true driver gives, without training: where it trains a transform, the start as well."""

    def __init__(self) -> None:
        self.calls: list[list[str]] = []
        self.fails_at: int | None = None

    def __call__(self, arguments: list[str]) -> list[RunResult]:
        if len(self.calls) == self.fails_at:
            raise RuntimeError("the power is off")
        self.calls.append(arguments)
        given = dict(itertools.pairwise(arguments))
        folder = Path(given["--output_dir"])
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").touch()
        system = System.ORIGINAL
        if "--reinitialize" in arguments:
            system = System.RANDOM
        elif given.get("--transform") == "optical":
            system = System.OPTICAL
        elif given.get("--transform") == "squeezelight":
            system = System(f"squeezelight_{given['--squeezelight_conversion']}")
        trains = "--do_train" in arguments
        stages = [Stage.FINE_TUNED] if trains else [Stage.POST_TRAINING]
        if trains and system is not System.ORIGINAL:
            stages = list(Stage)
        return [
            RunResult(
                system=system,
                stage=stage,
                task=given["--task_name"],
                seed=int(given["--seed"]),
                metrics={},
                headline=0.5,
                train_steps=int(given["--max_steps"]) if stage is Stage.FINE_TUNED else 0,
                seconds=1.0,
            )
            for stage in stages
        ]


@pytest.fixture
def driver() -> Driver:
    return Driver()


@pytest.fixture
def settings(tmp_path: Path) -> ComparisonSettings:
    for task in ("cola", "mrpc"):
        (tmp_path / task).mkdir()
        for part in ("train", "dev"):
            (tmp_path / task / f"{part}.tsv").touch()
    return ComparisonSettings(model="m", data=tmp_path, output=tmp_path / "out", tasks=("cola",), seeds=(0,))


def test_all_runs_are_done_and_written(settings: ComparisonSettings, driver: Driver) -> None:
    seen: list[tuple[PlannedRun, int, int]] = []
    results = compare(settings, run_driver=driver, on_progress=lambda *progress: seen.append(progress))
    written = read_results(settings.output / RESULTS_FILE)
    assert sorted(map(repr, written)) == sorted(map(repr, results))
    assert [(result.system, result.stage) for result in results] == [run.key[:2] for run in plan_runs(settings)]
    assert len(driver.calls) == 5  # a fine-tuning run gives the start as well
    assert [number for _, number, _ in seen] == [0, 1, 2, 4, 6]
    assert {total for _, _, total in seen} == {8}


def test_the_float_model_counts_as_what_the_transform_starts_from(settings: ComparisonSettings, driver: Driver) -> None:
    original = compare(settings, run_driver=driver)[0]
    assert (original.system, original.stage, original.train_steps) == (System.ORIGINAL, Stage.POST_TRAINING, 0)
    assert original.settings["float_train_steps"] == 200


def test_only_the_float_model_is_kept(settings: ComparisonSettings, driver: Driver) -> None:
    compare(settings, run_driver=driver)
    assert [path.name for path in (settings.output / "original").iterdir()] == ["cola-seed0"]
    assert list((settings.output / "runs").iterdir()) == []
    more = settings.model_copy(update={"keep_models": True, "seeds": (0, 1)})
    compare(more, run_driver=driver)
    assert len(list((settings.output / "runs").iterdir())) == 4


def test_it_goes_on_where_it_was_cut_off(settings: ComparisonSettings, driver: Driver) -> None:
    driver.fails_at = 3
    with pytest.raises(RuntimeError, match="the power is off"):
        compare(settings, run_driver=driver)
    assert len(read_results(settings.output / RESULTS_FILE)) == 4
    again = Driver()
    assert len(compare(settings, run_driver=again)) == 8
    assert len(again.calls) == 2
    assert compare(settings, run_driver=again) == compare(settings, run_driver=again)
    assert len(again.calls) == 2


def test_tasks_and_seeds_can_be_added(settings: ComparisonSettings, driver: Driver) -> None:
    compare(settings, run_driver=driver)
    more = settings.model_copy(update={"tasks": ("cola", "mrpc"), "seeds": (0, 1)})
    assert len(compare(more, run_driver=driver)) == 4 * 8
    assert len(driver.calls) == 4 * 5


def test_a_float_model_that_was_removed_is_trained_again_where_it_is_needed(
    settings: ComparisonSettings, driver: Driver
) -> None:
    few = settings.model_copy(update={"systems": (System.ORIGINAL, System.RANDOM)})
    compare(few, run_driver=driver)
    (settings.output / "original" / "cola-seed0" / "config.json").unlink()
    compare(few, run_driver=driver)
    assert len(driver.calls) == 2  # nothing starts from it any more
    assert len(compare(settings, run_driver=driver)) == 8
    assert len(driver.calls) == 2 + 1 + 3
    written = read_results(settings.output / RESULTS_FILE)
    assert len(written) == len({(result.system, result.stage) for result in written})


def test_other_settings_need_another_folder(settings: ComparisonSettings, driver: Driver) -> None:
    compare(settings, run_driver=driver)
    with pytest.raises(ConfigurationError, match=r"other settings; got steps=3; expected steps=200; to fix: choose"):
        compare(settings.model_copy(update={"steps": 3}), run_driver=driver)


def test_other_data_need_another_folder(settings: ComparisonSettings, driver: Driver) -> None:
    compare(settings, run_driver=driver)
    (settings.data / "mrpc" / "dev.tsv").write_text("new")  # was not used so far
    both = settings.model_copy(update={"tasks": ("cola", "mrpc")})
    assert len(compare(both, run_driver=driver)) == 16
    (settings.data / "cola" / "dev.tsv").write_text("new")
    with pytest.raises(ConfigurationError, match=r"'cola': the data are others .* got \S*dev\.tsv; expected"):
        compare(settings, run_driver=driver)


def test_data_that_change_under_way_stop_it(settings: ComparisonSettings, driver: Driver) -> None:
    def changes_data(arguments: list[str]) -> list[RunResult]:
        if len(driver.calls) == 2:
            (settings.data / "cola" / "train.tsv").write_text("prepared anew")
        return driver(arguments)

    with pytest.raises(ConfigurationError, match=r"got \S*train\.tsv"):
        compare(settings, run_driver=changes_data)
    assert len(driver.calls) == 3


def test_the_text_of_the_transform_is_a_setting(settings: ComparisonSettings, driver: Driver, tmp_path: Path) -> None:
    config = tmp_path / "ot.yaml"
    config.write_text("fc: {q_levels: 256}")
    with_config = settings.model_copy(update={"transform_config": config})
    compare(with_config, run_driver=driver)
    config.write_text("fc: {q_levels: 16}")
    with pytest.raises(ConfigurationError, match="q_levels: 16"):
        compare(with_config, run_driver=driver)


def test_a_driver_that_gives_something_else(settings: ComparisonSettings) -> None:
    with pytest.raises(ConfigurationError, match=r"got none; expected original/post_training/cola/0"):
        compare(settings, run_driver=lambda _: [])


def test_a_broken_line_is_named(settings: ComparisonSettings, driver: Driver) -> None:
    compare(settings, run_driver=driver)
    path = settings.output / RESULTS_FILE
    with path.open("a") as file:
        file.write('{"system": "opt')
    with pytest.raises(ValueError, match=r"results.jsonl, line 9"):
        compare(settings, run_driver=driver)


def test_results_of_elsewhere_in_the_file_do_no_harm(settings: ComparisonSettings, driver: Driver) -> None:
    other = Driver()(["--task_name", "rte", "--seed", "9", "--output_dir", str(settings.output / "x")])[0]
    append_result(settings.output / RESULTS_FILE, other)
    assert len(compare(settings, run_driver=driver)) == 8


def test_a_true_comparison_from_the_command_line(
    tiny_roberta: Path, tiny_data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from quantsim.cli.main import main

    arguments = [
        *("glue", "compare", "--model", str(tiny_roberta), "--data", str(tiny_data), "--output", str(tmp_path)),
        *("--tasks", "cola", "--seeds", "3", "--steps", "30", "--fine_tune_steps", "2", "--squeezelight_steps", "2"),
        *("--learning_rate", "2e-2", "--batch_size", "8", "--max_seq_length", "16", "--calibration_batches", "2"),
    ]
    printed = []
    for _ in range(2):  # the second time nothing is left to do
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        captured = capfd.readouterr()
        assert ended.value.code == 0, captured.err
        printed.append(captured.out)
    assert printed[0] == printed[1]
    assert "8 results in" in printed[0]
    assert "SqueezeLight (least squares)" in printed[0]
    results = {(result.system, result.stage): result for result in read_results(tmp_path / RESULTS_FILE)}
    assert len(results) == 8
    original = results[System.ORIGINAL, Stage.POST_TRAINING]
    optical = results[System.OPTICAL, Stage.POST_TRAINING]
    assert original.headline > 0.8  # it has learned the task, and what follows starts from it
    assert optical.headline > original.headline - 0.2
    for system in (System.OPTICAL, System.SQUEEZELIGHT_AVERAGE, System.SQUEEZELIGHT_LEAST_SQUARES):
        assert results[system, Stage.FINE_TUNED].headline >= results[system, Stage.POST_TRAINING].headline
        assert results[system, Stage.FINE_TUNED].train_steps == 2
    assert "original, post training: run_glue --task_name cola" in (tmp_path / "log.txt").read_text()
