"""All systems of the experiment on some tasks and seeds, in an order that can be interrupted and taken up again.

A finished run is a line of ``results.jsonl``, and is not run again. ``comparison.json`` holds the settings and the
checksums of the data, so that runs with other settings or other data never share a folder; data that changes while
runs are under way stops them.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue.comparison_plan import ComparisonSettings, PlannedRun, plan_runs
from quantsim.experiments.glue.preparation import task_files
from quantsim.experiments.glue.results import RunResult, Stage, System, append_result, read_results

__all__ = ["RESULTS_FILE", "SETTINGS_FILE", "compare"]

RESULTS_FILE: Final = "results.jsonl"
SETTINGS_FILE: Final = "comparison.json"
_EXTENSIBLE: Final = frozenset({"tasks", "seeds", "systems", "continue_original", "keep_models", "output"})
"""Settings that may differ when a comparison goes on: they say which runs there are, not what a run does."""

_Key = tuple[System, Stage, str, int]


def compare(
    settings: ComparisonSettings,
    *,
    run_driver: Callable[[list[str]], list[RunResult]] | None = None,
    on_progress: Callable[[PlannedRun, int, int], None] | None = None,
) -> list[RunResult]:
    """Does all runs that are not done yet.

    Args:
        settings: What is compared.
        run_driver: Runs a command line; default: `quantsim.experiments.run_glue.main`.
        on_progress: Called before each run that is not skipped, with the run, the number of those before it and the
            number of all.

    Returns:
        The results of the planned runs, old and new, in the order of the plan.

    Raises:
        ConfigurationError: The folder holds a comparison with other settings or other data, a task has no data, or
            the driver did not give what was asked for.
    """
    runs = plan_runs(settings)
    driver = _driver() if run_driver is None else run_driver
    _record_settings(settings)
    _record_data(settings, settings.tasks)
    path = settings.output / RESULTS_FILE
    done = {_key(result): result for result in read_results(path)}
    for number, run in enumerate(runs):
        if run.key in done and not _is_missing_float_model(run, runs, done):
            continue
        _record_data(settings, [run.task])
        if on_progress is not None:
            on_progress(run, number, len(runs))
        results = _of_comparison(run, driver(list(run.arguments)))
        for result in results:
            if _key(result) not in done:
                append_result(path, result)
                done[_key(result)] = result
        if not (settings.keep_models or _is_float_model(run)):
            shutil.rmtree(run.folder, ignore_errors=True)
    return [done[run.key] for run in runs]


def _driver() -> Callable[[list[str]], list[RunResult]]:
    from quantsim.experiments.run_glue import main  # transformers comes with it

    return main


def _key(result: RunResult) -> _Key:
    return result.system, result.stage, result.task, result.seed


def _is_float_model(run: PlannedRun) -> bool:
    return run.system is System.ORIGINAL and run.stage is Stage.POST_TRAINING


def _is_missing_float_model(run: PlannedRun, runs: Sequence[PlannedRun], done: dict[_Key, RunResult]) -> bool:
    """Whether a run that is to be done starts from a model that was removed."""
    if not _is_float_model(run) or (run.folder / "config.json").is_file():
        return False
    return any(other.key not in done and other.task == run.task and other.seed == run.seed for other in runs)


def _of_comparison(run: PlannedRun, results: Sequence[RunResult]) -> list[RunResult]:
    """The driver's results as the comparison counts them: the float model is what the transform starts from."""
    if _is_float_model(run):
        results = [
            result.model_copy(
                update={
                    "stage": Stage.POST_TRAINING,
                    "train_steps": 0,
                    "settings": {**result.settings, "float_train_steps": result.train_steps},
                }
            )
            for result in results
            if result.stage is Stage.FINE_TUNED
        ]
    found = [
        result for result in results if (result.system, result.task, result.seed) == (run.system, run.task, run.seed)
    ]
    if run.key not in map(_key, found):
        raise ConfigurationError(
            "the driver did not give the result that was asked for",
            where=run.title,
            got=", ".join(f"{item.system.value}/{item.stage.value}/{item.task}/{item.seed}" for item in results)
            or "none",
            expected=f"{run.system.value}/{run.stage.value}/{run.task}/{run.seed}",
        )
    return found


def _record_settings(settings: ComparisonSettings) -> None:
    """Writes the settings; raises if the folder's runs had other ones."""
    path = settings.output / SETTINGS_FILE
    values = settings.model_dump(mode="json", exclude=set(_EXTENSIBLE))
    values["transform"] = None if settings.transform_config is None else settings.transform_config.read_text("utf-8")
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if not {"settings", "data"} <= set(before):
            raise ConfigurationError(
                "the file is not valid",
                where=str(path),
                got=f"the keys {', '.join(before)}",
                expected="settings, data",
                fix="choose another folder",
            )
        changed = [name for name in values if before["settings"].get(name) != values[name]]
        if changed:
            raise ConfigurationError(
                "the folder holds a comparison with other settings",
                where=str(path),
                got=", ".join(f"{name}={values[name]!r}" for name in changed),
                expected=", ".join(f"{name}={before['settings'].get(name)!r}" for name in changed),
                fix="choose another folder, or give the settings of the runs that are there",
            )
        return
    settings.output.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"settings": values, "data": {}}, indent=2) + "\n", encoding="utf-8")


def _record_data(settings: ComparisonSettings, tasks: Iterable[str]) -> None:
    """Writes the checksums of tasks that are new; raises if the files of one were others before."""
    path = settings.output / SETTINGS_FILE
    record = json.loads(path.read_text(encoding="utf-8"))
    known, count = record["data"], len(record["data"])
    for task in tasks:
        files = task_files(settings.data, task)
        sums = {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
        if known.setdefault(task, sums) != sums:
            raise ConfigurationError(
                "the data are others than those of the runs before",
                where=f"data of the task {task!r}",
                got=", ".join(str(file) for file in files if known[task].get(file.name) != sums[file.name]),
                expected=f"files with the checksums in {path}",
                fix="choose another folder for the results, or bring the files back",
            )
    if len(known) > count:
        path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
