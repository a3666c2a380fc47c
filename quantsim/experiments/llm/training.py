"""Training, calibrating, tuning and measuring a causal language model with transformers' Trainer."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from transformers import (
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging
from typing_extensions import override

from quantsim.errors import ConfigurationError
from quantsim.experiments.llm.arguments import LanguageArguments
from quantsim.experiments.llm.bytes_data import (
    Encoder,
    LanguageText,
    TextBlocks,
    byte_encoder,
    docstring_text,
    file_text,
)
from quantsim.experiments.llm.model import LoadedLanguageModel, load_language_model, new_byte_llama
from quantsim.experiments.llm.results import LanguageResult, LanguageStage, write_language_results
from quantsim.experiments.transformed_model import (
    TransformRecord,
    apply_transform,
    calibrate_transformed,
    preserved_noise,
    save_transform,
    transform_saving_callback,
)
from quantsim.transforms import load_transform_config

__all__ = ["BestState", "LanguageTrainer", "load_blocks", "load_text", "perplexity", "run"]

_logger = logging.get_logger(__name__)

_ORIGINAL = "original"


class LanguageTrainer(Trainer):
    """Trainer that measures without trace: noise stands where it stood, so the same state gives the same figure.

    Evaluations give ``eval_perplexity`` too, by byte of text.

    Args:
        model: A causal language model.
        training: Arguments of Trainer.
        train: What to learn from.
        validation: What to measure on.
        callbacks: See Trainer.
        quiet: Whether measurements are not printed.
    """

    def __init__(
        self,
        model: nn.Module,
        training: TrainingArguments,
        train: TextBlocks | None,
        validation: TextBlocks,
        *,
        callbacks: list[TrainerCallback] | None = None,
        quiet: bool = False,
    ) -> None:
        training.prediction_loss_only = True
        training.dataloader_pin_memory = training.dataloader_pin_memory and training.device.type != "cpu"
        super().__init__(
            model=model,  # pyright: ignore[reportArgumentType]
            args=training,
            train_dataset=train,
            eval_dataset=validation,
            data_collator=default_data_collator,
            callbacks=callbacks,
        )
        self._bytes_per_token = validation.bytes_per_token
        if quiet:
            self.remove_callback(PrinterCallback)

    @override
    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        # Not around `evaluate`, at whose end callbacks look at the model.
        with preserved_noise(self.model):  # pyright: ignore[reportArgumentType]
            return super().evaluation_loop(*args, **kwargs)

    @override
    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "eval_loss" in logs:
            logs["eval_perplexity"] = perplexity(logs["eval_loss"], self._bytes_per_token)
        super().log(logs, *args, **kwargs)


def perplexity(loss: float, bytes_per_token: float = 1.0) -> float:
    """``exp`` of the loss by byte; infinite where that is more than a float holds.

    Args:
        loss: Mean negative log-likelihood of a token, in nats.
        bytes_per_token: How many bytes of text one token stands for.

    Example:
        >>> round(perplexity(1.5), 3), perplexity(1e4)
        (4.482, inf)
    """
    try:
        return math.exp(loss / bytes_per_token)
    except OverflowError:
        return math.inf


class BestState(TrainerCallback):
    """Keeps a copy of the best state that was measured; the start counts, so training never ends below it.

    Args:
        model: The model, at its start.
        loss: What was measured there; None: the start does not count.

    Attributes:
        step: Step of the best state; 0 is the start.
        loss: Its loss.
    """

    def __init__(self, model: nn.Module, loss: float | None = None) -> None:
        self.loss = math.inf if loss is None or math.isnan(loss) else loss
        self.step = 0
        self._state = _copied(model) if loss is not None else None

    @override
    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        """Compares what was measured."""
        loss = (metrics or {}).get("eval_loss", math.nan)
        if loss < self.loss:  # not for NaN
            self.loss, self.step, self._state = loss, state.global_step, _copied(kwargs["model"])

    def restore(self, model: nn.Module) -> None:
        """Gives a model the best state, ranges and noise included."""
        if self._state is not None:
            model.load_state_dict(self._state)


def _copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().to("cpu", copy=True) for name, value in model.state_dict().items()}


def load_text(arguments: LanguageArguments) -> LanguageText:
    """The text of a run: files, or docstrings of the standard library.

    Args:
        arguments: Of the run.
    """
    train, validation = arguments.data.train_file, arguments.data.validation_file
    return docstring_text() if train is None or validation is None else file_text(train, validation)


def load_blocks(arguments: LanguageArguments, encode: Encoder = byte_encoder) -> tuple[TextBlocks, TextBlocks]:
    """The text of a run in blocks: what to learn from, what to measure on.

    Args:
        arguments: Of the run.
        encode: Makes the model's tokens.

    Raises:
        ConfigurationError: A text is missing or too short.
    """
    text, data = load_text(arguments), arguments.data
    size = data.block_size
    return (
        TextBlocks(text.train, encode, block_size=size, limit=data.max_train_samples, name="training text"),
        TextBlocks(text.validation, encode, block_size=size, limit=data.max_eval_samples, name="validation text"),
    )


def run(arguments: LanguageArguments) -> list[LanguageResult]:
    """One run: loads or makes the model, transforms and calibrates it, trains it, measures, saves.

    A new model is trained in float. With a transform configuration, the model is transformed and calibrated on
    training text, measured (post-training), and then trained through the transform (fine-tuned), where the best of the
    start and all evaluations is kept. A folder that holds a transformed model goes on from where it was saved.

    Args:
        arguments: Of the run. ``levels`` is not looked at; see `quantsim.experiments.llm.levels`.

    Returns:
        What was measured, in that order; also in the output folder.

    Raises:
        ConfigurationError: Arguments, files and model do not fit each other.
    """
    training, asked = arguments.training, arguments.transform
    output = Path(str(training.output_dir))
    _require_free(output, arguments)
    config = None if asked.transform_config is None else load_transform_config(asked.transform_config)
    wanted = None if config is None else TransformRecord.of(config, asked.transform)
    set_seed(training.seed)
    loaded = _model_of(arguments)
    if (
        wanted is not None
        and loaded.record is not None
        and (wanted.kind, wanted.config)
        != (
            loaded.record.kind,
            loaded.record.config,
        )
    ):
        raise ConfigurationError(
            "the model is transformed in another way already",
            where="--transform_config",
            got=f"{wanted.kind.value} {wanted.config}",
            expected=f"{loaded.record.kind.value} {loaded.record.config}, as saved, or no --transform_config",
        )
    record = loaded.record or wanted
    train, validation = load_blocks(arguments, loaded.encode)
    model: Any = loaded.model
    if record is not None and loaded.record is None:
        model = apply_transform(model, record.config, record.kind)
        calibrate_transformed(
            model.to(training.device),
            train.batches(asked.calibration_batches, training.per_device_train_batch_size),
        )
    callbacks = [] if record is None else [transform_saving_callback(record)]
    trainer = LanguageTrainer(model, training, train, validation, callbacks=callbacks)
    results: list[LanguageResult] = []
    start = None
    if record is not None and (loaded.record is None or training.do_train):
        start = trainer.evaluate()
        results.append(_result(arguments, trainer, record, LanguageStage.POST_TRAINING, start))
    if training.do_train:
        results.append(_train(arguments, trainer, record, None if start is None else start["eval_loss"]))
    elif record is None or loaded.record is not None:
        stage = LanguageStage.TRAINED if record is None else LanguageStage.FINE_TUNED
        results.append(_result(arguments, trainer, record, stage, trainer.evaluate()))
    if trainer.is_world_process_zero():
        write_language_results(output, results)
    if training.do_train or (record is not None and loaded.record is None):
        _save(trainer, loaded, record, output)
    return results


def _require_free(output: Path, arguments: LanguageArguments) -> None:
    if arguments.overwrite_output_dir or not (arguments.training.do_train or arguments.transform.transform_config):
        return
    if (output / "model.safetensors").exists():
        raise ConfigurationError(
            "the output folder holds a model already",
            where="--output_dir",
            got=str(output),
            fix="choose another folder, or pass --overwrite_output_dir",
        )


def _model_of(arguments: LanguageArguments) -> LoadedLanguageModel:
    source = arguments.model.model_name_or_path
    if source is None:
        return LoadedLanguageModel(new_byte_llama(arguments.model.size), byte_encoder)
    return load_language_model(source)


def _train(
    arguments: LanguageArguments, trainer: LanguageTrainer, record: TransformRecord | None, start: float | None
) -> LanguageResult:
    model: Any = trainer.model
    best = BestState(model, start) if arguments.transform.keep_best and record is not None else None
    if best is not None:
        trainer.add_callback(best)
    began = time.perf_counter()
    trainer.train(resume_from_checkpoint=arguments.training.resume_from_checkpoint)
    measured = trainer.evaluate()
    steps = trainer.state.global_step
    if best is not None:
        best.restore(model)
        if best.loss != measured["eval_loss"]:
            _logger.warning(
                f"training ended at a loss of {measured['eval_loss']:.4f}; that of step {best.step} "
                f"({best.loss:.4f}) is kept"
            )
            measured = trainer.evaluate()
    stage = LanguageStage.TRAINED if record is None else LanguageStage.FINE_TUNED
    return _result(
        arguments,
        trainer,
        record,
        stage,
        measured,
        train_steps=steps,
        kept_step=steps if best is None else best.step,
        seconds=time.perf_counter() - began,
    )


def _result(
    arguments: LanguageArguments,
    trainer: LanguageTrainer,
    record: TransformRecord | None,
    stage: LanguageStage,
    measured: Mapping[str, float],
    **more: Any,
) -> LanguageResult:
    model: Any = trainer.model
    validation: Any = trainer.eval_dataset
    settings = {} if record is None else {"config": record.config}
    return LanguageResult(
        system=_ORIGINAL if record is None else record.kind.value,
        stage=stage,
        loss=measured["eval_loss"],
        perplexity=perplexity(measured["eval_loss"], validation.bytes_per_token),
        blocks=len(validation),
        seed=arguments.training.seed,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        settings=settings,
        **more,
    )


def _save(trainer: LanguageTrainer, loaded: LoadedLanguageModel, record: TransformRecord | None, output: Path) -> None:
    trainer.save_model(str(output))
    if not trainer.is_world_process_zero():
        return
    if loaded.tokenizer is not None:
        loaded.tokenizer.save_pretrained(str(output))
    if record is not None:
        save_transform(output, record)
