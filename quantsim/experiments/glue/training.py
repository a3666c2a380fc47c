"""One run of the GLUE experiment: load, transform, calibrate, train through the transform, evaluate, save."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers import DataCollatorWithPadding, EvalPrediction, Trainer, TrainingArguments, set_seed
from transformers.utils import logging
from typing_extensions import override

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue.arguments import GlueArguments, parse
from quantsim.experiments.glue.datasets import Examples, TaskData, TokenizedExamples, load_task_data
from quantsim.experiments.glue.metrics import is_constant, metrics_of, predictions_of
from quantsim.experiments.glue.model import Classifier, load_classifier, system_of, transform_classifier
from quantsim.experiments.glue.results import RunResult, Stage
from quantsim.experiments.glue.tasks import GlueTask
from quantsim.experiments.transformed_model import (
    TRANSFORM_FILE,
    TransformRecord,
    is_transformed,
    preserved_noise,
    save_transform,
    transform_saving_callback,
)

__all__ = ["RESULTS_FILE", "BestState", "GlueTrainer", "parse", "run"]

RESULTS_FILE: Final = "quantsim_results.json"
"""What a run measured, in its output folder."""

_logger = logging.get_logger(__name__)

_SPEED: Final = ("runtime", "samples_per_second", "steps_per_second", "model_preparation_time")


@dataclass
class BestState:
    """The best state of a model that was measured; the start counts, so training never ends below it.

    Attributes:
        metrics: What was measured there.
        step: When; 0 is the start.
    """

    headline: str
    metrics: dict[str, float] = field(default_factory=dict)
    step: int = 0
    _state: dict[str, Tensor] = field(default_factory=dict)

    def consider(self, model: nn.Module, metrics: Mapping[str, float], step: int) -> None:
        """Keeps a copy of the model if its headline is higher than any before, or as high at a lower loss.

        Args:
            model: As it was measured; its noise stands where it stood before.
            metrics: What was measured.
            step: Of training.
        """
        if not self.metrics or self._rank(metrics) > self._rank(self.metrics):
            self.metrics, self.step = dict(metrics), step
            self._state = {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}

    def restore(self, model: nn.Module) -> None:
        """Gives a model the best state: weights, ranges and noise."""
        model.load_state_dict(self._state)

    def _rank(self, metrics: Mapping[str, float]) -> tuple[float, float]:
        return metrics[self.headline], -metrics.get("loss", math.inf)


class GlueTrainer(Trainer):
    """Trainer whose evaluations leave no trace: noise stands where it stood, so one state always gives one figure.

    Args:
        model: The classifier.
        task: What it is judged by.
        training: Arguments of Trainer.
        labels: Number that the model has for each label.
        best: Is shown every evaluation.
        others: Further arguments of Trainer.
    """

    def __init__(
        self,
        model: nn.Module,
        task: GlueTask,
        training: TrainingArguments,
        *,
        labels: Sequence[int] | None = None,
        best: BestState | None = None,
        **others: Any,
    ) -> None:
        self._task = task
        self._label_of = None if labels is None else {number: label for label, number in enumerate(labels)}
        self.best = best
        self.last: tuple[int, dict[str, float]] | None = None
        self.constant = False
        super().__init__(model=model, args=training, compute_metrics=self._metrics, **others)  # pyright: ignore[reportArgumentType]
        # Classifiers of transformers take the number of items but average over their own batch all the same; Trainer
        # believes them, and multiplies losses and gradients by the number of processes or accumulated batches.
        self.model_accepts_loss_kwargs = False

    @override
    def evaluate(self, eval_dataset: Any = None, *args: Any, **kwargs: Any) -> dict[str, float]:
        model: Any = self.model
        with preserved_noise(model):
            values = super().evaluate(eval_dataset, *args, **kwargs)
        if eval_dataset is None:  # not one of several sets
            metrics = task_metrics(values)
            self.last = (self.state.global_step, metrics)
            if self.best is not None:
                self.best.consider(model, metrics, self.state.global_step)
        return values

    def _metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        predictions = predictions_of(self._task, prediction.predictions)
        labels: Any = prediction.label_ids
        self.constant = is_constant(predictions)
        if self._label_of is not None:
            predictions = [self._label_of[int(value)] for value in predictions]
            labels = [self._label_of[int(value)] for value in labels]
        return metrics_of(self._task, predictions, labels)


def task_metrics(values: Mapping[str, float]) -> dict[str, float]:
    """The metrics of a task from what Trainer's evaluation returns; not finite ones, and speeds, are left out.

    Example:
        >>> task_metrics(
        ...     {"eval_matched_accuracy": 0.5, "eval_mismatched_accuracy": 0.25, "eval_matched_runtime": 1.0}
        ... )
        {'accuracy': 0.5, 'accuracy_mismatched': 0.25}
    """
    found = {}
    for key, value in values.items():
        name, ending = key.removeprefix("eval_"), ""
        if name == key or name.endswith(_SPEED) or not math.isfinite(value):
            continue
        if name.startswith("mismatched_"):
            name, ending = name.removeprefix("mismatched_"), "_mismatched"
        found[name.removeprefix("matched_") + ending] = float(value)
    return found


def run(arguments: GlueArguments) -> list[RunResult]:
    """Runs one task, or several one after the other.

    A transform takes its ranges from training batches and is measured before any training (`Stage.POST_TRAINING`).
    Where training is asked for, it then goes through the transform, and ends with the best of that start and all
    evaluations (`Stage.FINE_TUNED`). The output folder holds ``quantsim_results.json`` and, after training or a
    transform, the model with all its ranges and seeds: evaluated from there, it gives the same figures, bit for bit.
    Trainer seeds the global generators.

    Args:
        arguments: See `parse`.

    Returns:
        What was measured, in that order; nothing where neither evaluation nor a transform was asked for.

    Raises:
        ConfigurationError: Arguments, files and model do not fit each other.
        NonFiniteError: NaN or infinity was observed while ranges were taken.
    """
    results: list[RunResult] = []
    for single in arguments.single_tasks():
        results += _run_task(single)
    if arguments.task_list and arguments.training.process_index == 0:
        _write_results(arguments.output, results)
    return results


def _run_task(arguments: GlueArguments) -> list[RunResult]:
    began = time.perf_counter()
    training, source = arguments.training, arguments.model.model_name_or_path
    saved = is_transformed(source)
    fresh = arguments.kind is not None and not saved
    keeps_best = training.do_train and arguments.transform.keep_best and (fresh or saved)
    if fresh or training.do_train:
        _require_free(arguments)
    if keeps_best:
        _require_whole_model(training)
    evaluates = training.do_eval or keeps_best or training.eval_strategy != "no"
    data = load_task_data(
        arguments.task, arguments.data, needs_train=training.do_train or fresh, needs_validation=evaluates
    )
    set_seed(training.seed)
    classifier = load_classifier(arguments, data.task)
    train, validation = _tokenized(arguments, classifier, data)
    collate = DataCollatorWithPadding(classifier.tokenizer, pad_to_multiple_of=8 if training.fp16 else None)

    def batches() -> list[dict[str, Tensor]]:
        assert train is not None
        count, size = arguments.transform.calibration_batches, training.per_device_train_batch_size
        return train.batches(count, size, collate, training.seed)

    model, record, _ = transform_classifier(arguments, classifier, batches)
    if training.device.type == "cpu":
        training.dataloader_pin_memory = False  # there is nothing to pin for
    trainer = GlueTrainer(
        model,
        data.task,
        training,
        labels=classifier.labels,
        best=BestState(data.task.headline) if keeps_best else None,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collate,
        processing_class=classifier.tokenizer,
        callbacks=[] if record is None else [transform_saving_callback(record)],
    )
    trainer_results = _Results(arguments, data, record, trainer)
    if evaluates and (keeps_best or not training.do_train or fresh):
        start = task_metrics(trainer.evaluate())
        if fresh or not training.do_train:
            stage, steps = _saved_stage(Path(source)) if saved else (Stage.POST_TRAINING, 0)
            trainer_results.add(stage, start, steps, steps, began)
    if training.do_train:
        _train(trainer, trainer_results, evaluates)
    _save(trainer, record, arguments.output, weights=training.do_train or fresh, results=trainer_results.results)
    return trainer_results.results


@dataclass
class _Results:
    """What one run measured so far."""

    arguments: GlueArguments
    data: TaskData
    record: TransformRecord | None
    trainer: GlueTrainer
    results: list[RunResult] = field(default_factory=list)

    def add(self, stage: Stage, metrics: Mapping[str, float], steps: int, kept: int, began: float) -> None:
        arguments, data = self.arguments, self.data
        training = arguments.training
        self.results.append(
            RunResult(
                system=system_of(self.record, reinitialized=arguments.model.reinitialize),
                stage=stage,
                task=data.task.name,
                seed=training.seed,
                metrics=dict(metrics),
                headline=metrics[data.task.headline],
                train_steps=steps,
                seconds=time.perf_counter() - began,
                settings={
                    "model": arguments.model.model_name_or_path,
                    "transform": None if self.record is None else self.record.model_dump(mode="json"),
                    "kept_step": kept,
                    "train_examples": 0 if data.train is None else len(data.train),
                    "validation_examples": 0 if data.validation is None else len(data.validation),
                    "max_seq_length": arguments.data.max_seq_length,
                    "train_batch_size": training.train_batch_size * training.world_size,
                    "eval_batch_size": training.eval_batch_size * training.world_size,
                    "learning_rate": training.learning_rate,
                    "num_train_epochs": training.num_train_epochs,
                    "max_steps": training.max_steps,
                    "warmup_steps": training.warmup_steps,
                    "weight_decay": training.weight_decay,
                    "calibration_batches": arguments.transform.calibration_batches,
                    "torch": torch.__version__,
                },
            )
        )


def _train(trainer: GlueTrainer, results: _Results, evaluates: bool) -> None:
    training, best = results.arguments.training, trainer.best
    start = None if best is None else best.metrics
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=training.resume_from_checkpoint)
    steps = trainer.state.global_step
    if not evaluates:
        return
    last = trainer.last
    if last is None or last[0] != steps or training.load_best_model_at_end:
        trainer.evaluate()
        last = trainer.last
    assert last is not None
    metrics, headline = last[1], results.data.task.headline
    collapsed = trainer.constant
    kept = steps
    if best is not None and start is not None:
        if collapsed or metrics[headline] < start[headline]:
            what = "all predictions are the same" if collapsed else "it is below the start"
            _logger.warning(
                f"training on {results.data.task.name} ended at {headline} {metrics[headline]:.4f} ({what}; the start "
                f"was {start[headline]:.4f}): a lower --learning_rate or more --warmup_steps may help"
            )
        if best.step != steps:
            _logger.warning(f"the state of step {best.step} is kept: {headline} {best.metrics[headline]:.4f}")
            best.restore(trainer.model)  # pyright: ignore[reportArgumentType]
        metrics, kept = best.metrics, best.step
    elif collapsed:
        _logger.warning(f"training on {results.data.task.name} collapsed: all predictions are the same")
    results.add(Stage.FINE_TUNED, metrics, steps, kept, began)


def _tokenized(
    arguments: GlueArguments, classifier: Classifier, data: TaskData
) -> tuple[TokenizedExamples | None, TokenizedExamples | dict[str, TokenizedExamples] | None]:
    length = classifier.max_length(arguments.data.max_seq_length)

    def tokenized(examples: Examples) -> TokenizedExamples:
        pad = arguments.data.pad_to_max_length
        return TokenizedExamples(examples, classifier.tokenizer, max_length=length, pad=pad, labels=classifier.labels)

    train = None if data.train is None else tokenized(data.train)
    if data.validation is None:
        return train, None
    if data.mismatched is None:
        return train, tokenized(data.validation)
    return train, {"matched": tokenized(data.validation), "mismatched": tokenized(data.mismatched)}


def _require_free(arguments: GlueArguments) -> None:
    output = arguments.output
    if arguments.overwrite_output_dir or arguments.training.resume_from_checkpoint:
        return
    if output.is_dir() and any(
        path.name == "config.json" or path.name.startswith("checkpoint-") for path in output.iterdir()
    ):
        raise ConfigurationError(
            "the output folder holds a model already",
            where="--output_dir",
            got=str(output),
            fix="choose another folder, or pass --overwrite_output_dir, or --resume_from_checkpoint FOLDER",
        )


def _require_whole_model(training: TrainingArguments) -> None:
    if training.fsdp or training.deepspeed:
        raise ConfigurationError(
            "the best state cannot be kept of a model in shards",
            where="--keep_best",
            got="--fsdp or --deepspeed",
            fix="pass --no_keep_best, and --load_best_model_at_end if wanted",
        )


def _saved_stage(folder: Path) -> tuple[Stage, int]:
    """How far the transformed model of a folder had come when it was saved."""
    path = folder / RESULTS_FILE
    if not path.is_file():
        return Stage.POST_TRAINING, 0
    try:
        results = [RunResult.model_validate(item) for item in json.loads(path.read_text(encoding="utf-8"))["results"]]
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigurationError(
            "the file is not valid", where=str(path), got=str(error)[:200], expected="results of a run", fix="delete it"
        ) from None
    return (results[-1].stage, results[-1].train_steps) if results else (Stage.POST_TRAINING, 0)


def _save(
    trainer: GlueTrainer, record: TransformRecord | None, output: Path, *, weights: bool, results: list[RunResult]
) -> None:
    if weights:
        trainer.save_model(str(output))
        trainer.save_state()
    if not trainer.is_world_process_zero():
        return
    if weights and record is not None:
        save_transform(output, record)
    elif weights:
        (output / TRANSFORM_FILE).unlink(missing_ok=True)  # of a model that was there before
    _write_results(output, results)


def _write_results(folder: Path, results: Sequence[RunResult]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"results": [result.model_dump(mode="json") for result in results]}, indent=2)
    (folder / RESULTS_FILE).write_text(text + "\n", encoding="utf-8")
