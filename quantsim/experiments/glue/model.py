"""Loading a classifier for a task, and putting it through a transform."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSequenceClassification, AutoTokenizer
from transformers.utils import logging

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue.arguments import GlueArguments
from quantsim.experiments.glue.results import System
from quantsim.experiments.glue.tasks import GlueTask
from quantsim.experiments.transformed_model import (
    TransformKind,
    TransformRecord,
    apply_transform,
    calibrate_transformed,
    default_transform_config,
    is_transformed,
    load_transformed,
    read_transform,
)
from quantsim.optical.squeezelight import RingConversion
from quantsim.transforms import (
    PassArguments,
    load_transform_config,
    squeezelight_module_transform_pass,
    transform_pass,
)

__all__ = ["Classifier", "load_classifier", "system_of", "transform_classifier", "transform_config"]

_logger = logging.get_logger(__name__)

_METHOD: Final = "method"
"""Parameter of the SqueezeLight pass: how layers become rings."""

Batches = Callable[[], Sequence[Mapping[str, Tensor]]]


@dataclass(frozen=True)
class Classifier:
    """A model for a task.

    Attributes:
        model: On the CPU.
        tokenizer: Its tokenizer.
        labels: Number that the model has for each label of the task; None where a number is predicted.
        record: What was done to the model before it was saved; None: it is a float model.
    """

    model: Any
    tokenizer: Any
    labels: tuple[int, ...] | None
    record: TransformRecord | None

    def max_length(self, asked: int) -> int:
        """Tokens of an example: as many as asked for, and as the model takes."""
        limit = min(asked, self.tokenizer.model_max_length)
        if limit < asked:
            _logger.warning(f"the model takes {limit} tokens; --max_seq_length {asked} is lowered to that")
        return limit


def load_classifier(arguments: GlueArguments, task: GlueTask) -> Classifier:
    """Loads model and tokenizer; weights of a new head come from torch's global generator.

    Args:
        arguments: Of the run.
        task: What the head is for.

    Raises:
        ConfigurationError: There is no such model, or it is for another number of labels.
    """
    asked = arguments.model
    source = asked.model_name_or_path
    hub: dict[str, Any] = {"cache_dir": asked.cache_dir, "revision": asked.model_revision}
    if Path(source).is_dir() and not (Path(source) / "config.json").is_file():
        raise ConfigurationError(
            "the folder holds no model", where="--model_name_or_path", got=source, expected="a folder with config.json"
        )
    record = None
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(asked.tokenizer_name or source, **hub)
        if is_transformed(source):
            if asked.reinitialize:
                raise ConfigurationError(where="--reinitialize", got="a transformed model", expected="a float model")
            record, model = read_transform(source), load_transformed(source, AutoModelForSequenceClassification)
            _require_labels(model.config.num_labels or 0, task, source)
            labels = _labels_of(model.config, task)
        else:
            saved = AutoConfig.from_pretrained(source, **hub)
            config = AutoConfig.from_pretrained(source, num_labels=task.num_labels, **hub)
            labels = _labels_of(saved, task) if saved.num_labels == task.num_labels else None
            labels = _labels_of(config, task) if labels is None else labels
            config.problem_type = "regression" if task.is_regression else "single_label_classification"
            if asked.reinitialize:
                model = AutoModelForSequenceClassification.from_config(config)
            else:
                model = AutoModelForSequenceClassification.from_pretrained(
                    source, config=config, ignore_mismatched_sizes=asked.ignore_mismatched_sizes, **hub
                )
    except ConfigurationError:
        raise
    except RuntimeError as error:
        if "size mismatch" not in str(error) and "ignore_mismatched_sizes" not in str(error):
            raise
        raise ConfigurationError(
            "the model has a head for another task",
            where="--model_name_or_path",
            got=source,
            expected=f"a pretrained model, or one for {task.num_labels} labels",
            fix="--ignore_mismatched_sizes draws a new head",
        ) from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            "the model cannot be loaded",
            where="--model_name_or_path",
            got=f"{source}: {' '.join(str(error).split())[:300]}",
            expected="the folder of a model with its tokenizer, or a name on the hub with a network",
            fix="`quantsim glue prepare FOLDER` makes a model without a network",
        ) from error
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return Classifier(model, tokenizer, labels, record)


def _require_labels(found: int, task: GlueTask, source: str) -> None:
    if found != task.num_labels:
        raise ConfigurationError(
            "the transformed model is for another task",
            where="--model_name_or_path",
            got=f"{source} with {found} outputs",
            expected=f"{task.num_labels}, for {task.name}",
            fix="fine-tune a float model on the task, and transform that",
        )


def _labels_of(config: Any, task: GlueTask) -> tuple[int, ...] | None:
    """The order that a fine-tuned model gives the labels of its task; else the task's own, which is put in its config.

    A model whose labels have no names, or other names, is taken to have the task's order.
    """
    if task.is_regression:
        return None
    known = {str(name).lower(): int(number) for name, number in (config.label2id or {}).items()}
    if sorted(known) == sorted(name.lower() for name in task.labels):
        return tuple(known[name.lower()] for name in task.labels)
    config.id2label = dict(enumerate(task.labels))
    config.label2id = {name: number for number, name in enumerate(task.labels)}
    return tuple(range(task.num_labels))


def transform_config(arguments: GlueArguments, model: nn.Module) -> dict[str, Any] | None:
    """Arguments of the pass that a run asks for; None: no transform.

    Without a file, optics take all attention and linear layers but the head, SqueezeLight all linear layers but the
    head.

    Args:
        arguments: Of the run.
        model: The float model, for the name of its base.

    Raises:
        ConfigurationError: The file is missing or not valid.
    """
    asked, kind = arguments.transform, arguments.kind
    if kind is None:
        return None
    if asked.transform_config is not None:
        config = load_transform_config(asked.transform_config)
    else:
        config = default_transform_config(kind)
        prefix = getattr(model, "base_model_prefix", "")
        if kind is TransformKind.SQUEEZELIGHT and isinstance(getattr(model, prefix, None), nn.Module):
            config = {"by": "regex_name", rf"{re.escape(prefix)}\..*": {}}
    if asked.squeezelight_conversion is not None:
        config = {
            key: {**value, _METHOD: asked.squeezelight_conversion} if isinstance(value, Mapping) else value
            for key, value in config.items()
        }
    transform_pass(kind.value).check(config, where=asked.transform_config or "--transform")
    return config


def transform_classifier(
    arguments: GlueArguments, classifier: Classifier, batches: Batches
) -> tuple[Any, TransformRecord | None, bool]:
    """Transforms a float model as a run asks for, and takes its ranges from training batches.

    A model that was saved transformed stays as it is: its ranges are those it was saved with.

    Args:
        arguments: Of the run.
        classifier: The model.
        batches: Makes the batches, where they are needed.

    Returns:
        The model, what was done to it, and whether that was done here.

    Raises:
        ConfigurationError: The arguments do not fit the model, or it is transformed in another way.
    """
    config = transform_config(arguments, classifier.model)
    kind = arguments.kind
    if classifier.record is not None:
        explicit = arguments.transform.transform_config or arguments.transform.squeezelight_conversion
        _require_same(classifier.record, kind, config if explicit else None)
        return classifier.model, classifier.record, False
    if kind is None or config is None:
        return classifier.model, None, False
    record = TransformRecord.of(config, kind)
    model = classifier.model.to(arguments.training.device)
    if kind is TransformKind.SQUEEZELIGHT:
        fitted = system_of(record) is System.SQUEEZELIGHT_LEAST_SQUARES
        inputs = [_on(batch, arguments) for batch in batches()] if fitted else None
        return squeezelight_module_transform_pass(model, config, inputs), record, True
    model = apply_transform(model, config, kind)
    calibrate_transformed(model, batches())
    return model, record, True


def _on(batch: Mapping[str, Tensor], arguments: GlueArguments) -> dict[str, Tensor]:
    return {name: value.to(arguments.training.device) for name, value in batch.items()}


def _require_same(saved: TransformRecord, kind: TransformKind | None, config: Mapping[str, Any] | None) -> None:
    same = kind is None or (
        kind is saved.kind and (config is None or _parsed(kind, config) == _parsed(kind, saved.config))
    )
    if not same:
        raise ConfigurationError(
            "the model is transformed in another way already",
            where="--transform, --transform_config",
            got=f"{kind.value if kind is not None else 'none'} {'' if config is None else dict(config)}",
            expected=f"{saved.kind.value} {saved.config}, as it was saved, or neither flag",
        )


def _parsed(kind: TransformKind, config: Mapping[str, Any]) -> object:
    chosen = transform_pass(kind.value)
    return PassArguments.parse(config, chosen.parameters) if chosen.parse is None else chosen.parse(config)


def system_of(record: TransformRecord | None, *, reinitialized: bool = False) -> System:
    """The row of the table that a model belongs to.

    Args:
        record: What was done to it; None: nothing.
        reinitialized: Whether its weights were drawn anew.

    Example:
        >>> system_of(TransformRecord.of({"fc": {}}, "optical")).value
        'optical'
        >>> system_of(
        ...     TransformRecord.of({"by": "name", "default": {"method": "least_squares"}}, "squeezelight")
        ... ).value
        'squeezelight_least_squares'
    """
    if record is None:
        return System.RANDOM if reinitialized else System.ORIGINAL
    if record.kind is TransformKind.OPTICAL:
        return System.OPTICAL
    methods = {value.get(_METHOD) for value in record.config.values() if isinstance(value, Mapping)}
    fitted = RingConversion.LEAST_SQUARES.value in methods
    return System.SQUEEZELIGHT_LEAST_SQUARES if fitted else System.SQUEEZELIGHT_AVERAGE
