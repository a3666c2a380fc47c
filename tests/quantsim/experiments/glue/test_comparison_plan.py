from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue.comparison_plan import ComparisonSettings, PlannedRun, plan_runs
from quantsim.experiments.glue.results import Stage, System


@pytest.fixture
def settings(tmp_path: Path) -> ComparisonSettings:
    for task, suffix in (("cola", "tsv"), ("rte", "jsonl")):
        (tmp_path / task).mkdir()
        for part in ("train", "dev"):
            (tmp_path / task / f"{part}.{suffix}").touch()
    return ComparisonSettings(
        model="pretrained", data=tmp_path, output=tmp_path / "out", tasks=("cola",), seeds=(7,), fine_tune_steps=30
    )


def value(run: PlannedRun, flag: str) -> str | None:
    return run.arguments[run.arguments.index(flag) + 1] if flag in run.arguments else None


def test_everything_starts_from_the_float_model(settings: ComparisonSettings) -> None:
    first, *others = plan_runs(settings)
    assert first.key == (System.ORIGINAL, Stage.POST_TRAINING, "cola", 7)
    assert value(first, "--model_name_or_path") == "pretrained"
    assert value(first, "--max_steps") == "200"
    assert "--do_train" in first.arguments
    assert "--transform" not in first.arguments
    assert {value(run, "--model_name_or_path") for run in others} == {value(first, "--output_dir")}
    assert {run.key[:2] for run in others} == {
        (System.RANDOM, Stage.POST_TRAINING),
        *(
            (system, stage)
            for system in (System.OPTICAL, System.SQUEEZELIGHT_AVERAGE, System.SQUEEZELIGHT_LEAST_SQUARES)
            for stage in Stage
        ),
    }
    folders = [run.folder for run in (first, *others)]
    assert len(set(folders)) == len(folders)


def test_each_system_has_its_flags(settings: ComparisonSettings) -> None:
    runs = {run.key[:2]: run for run in plan_runs(settings)}
    random = runs[System.RANDOM, Stage.POST_TRAINING]
    assert "--reinitialize" in random.arguments
    assert "--do_train" not in random.arguments
    optical = runs[System.OPTICAL, Stage.FINE_TUNED]
    assert (value(optical, "--transform"), value(optical, "--max_steps")) == ("optical", "30")
    assert value(optical, "--warmup_steps") == "3"  # a tenth of the steps
    assert "--do_train" not in runs[System.OPTICAL, Stage.POST_TRAINING].arguments
    rings = runs[System.SQUEEZELIGHT_LEAST_SQUARES, Stage.FINE_TUNED]
    assert (value(rings, "--transform"), value(rings, "--squeezelight_conversion")) == ("squeezelight", "least_squares")
    assert value(rings, "--max_steps") == "60"
    assert {value(run, "--seed") for run in runs.values()} == {"7"}


def test_fewer_runs(settings: ComparisonSettings) -> None:
    only = settings.model_copy(update={"systems": (System.OPTICAL,), "fine_tune_steps": 0})
    assert [run.key[:2] for run in plan_runs(only)] == [
        (System.ORIGINAL, Stage.POST_TRAINING),
        (System.OPTICAL, Stage.POST_TRAINING),
    ]


def test_the_float_model_can_be_trained_further(settings: ComparisonSettings) -> None:
    runs = {run.key[:2]: run for run in plan_runs(settings.model_copy(update={"continue_original": True}))}
    further = runs[System.ORIGINAL, Stage.FINE_TUNED]
    assert (value(further, "--max_steps"), value(further, "--transform")) == ("30", None)


def test_optional_flags(settings: ComparisonSettings) -> None:
    optional = settings.model_copy(update={"transform_config": Path("ot.yaml"), "max_eval_samples": 5})
    runs = plan_runs(optional)
    assert {value(run, "--max_eval_samples") for run in runs} == {"5"}
    assert {run.system: value(run, "--transform_config") for run in runs}[System.OPTICAL] == "ot.yaml"
    assert sum("--transform_config" in run.arguments for run in runs) == 2


def test_the_driver_understands_every_command_line(settings: ComparisonSettings) -> None:
    pytest.importorskip("transformers")
    from quantsim.experiments.glue.arguments import parse

    for run in plan_runs(settings.model_copy(update={"continue_original": True})):
        arguments = parse(run.arguments)
        assert (arguments.output, arguments.training.seed) == (run.folder, 7)
        assert arguments.training.do_train is ("--do_train" in run.arguments)


def test_tasks_and_seeds_are_crossed(settings: ComparisonSettings) -> None:
    runs = plan_runs(settings.model_copy(update={"tasks": ("cola", "rte"), "seeds": (1, 2)}))
    assert len(runs) == 4 * 8
    assert [value(runs[number], "--train_file") for number in (0, -1)] == [
        str(settings.data / "cola" / "train.tsv"),
        str(settings.data / "rte" / "train.jsonl"),
    ]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"tasks": ["colla"]}, r"did you mean 'cola'"),
        ({"seeds": []}, r"seeds"),
        ({"steps": 0}, r"steps: got 0"),
        ({"systems": ["photonic"]}, r"photonic"),
        ({"learning_rate": float("nan")}, r"learning_rate"),
        ({"stepz": 3}, r"stepz"),
    ],
)
def test_wrong_settings(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        ComparisonSettings.of(**{"model": "m", "data": "d", "output": "o", **wrong})


def test_a_task_without_data(settings: ComparisonSettings) -> None:
    with pytest.raises(ConfigurationError, match="'mrpc'"):
        plan_runs(settings.model_copy(update={"tasks": ("mrpc",)}))
