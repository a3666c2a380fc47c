"""The tasks of GLUE: which columns hold their texts and labels, what the labels mean, how they are judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

from quantsim.errors import ConfigurationError
from quantsim.sim.slots import nearest_names

__all__ = ["GLUE_TASKS", "GlueTask", "Judge", "custom_task", "glue_task"]


class Judge(StrEnum):
    """Which metrics a task is judged by."""

    ACCURACY = "accuracy"
    ACCURACY_AND_F1 = "accuracy_and_f1"
    MATTHEWS = "matthews"
    CORRELATION = "correlation"


_HEADLINES: Final[Mapping[Judge, str]] = MappingProxyType(
    {
        Judge.ACCURACY: "accuracy",
        Judge.ACCURACY_AND_F1: "accuracy",
        Judge.MATTHEWS: "matthews_correlation",
        Judge.CORRELATION: "combined_score",
    }
)


@dataclass(frozen=True)
class GlueTask:
    """One task.

    Attributes:
        name: As on the command line.
        texts: One or two texts of an example, each with the names that its column may have; the first is that of the
            hub's data set, the others are those of GLUE's own files.
        label_columns: Names that the column of labels may have.
        labels: What the labels 0, 1, ... mean; empty: the label is a number to be predicted.
        judge: By which metrics.
        headerless: Column numbers of texts and label in files without a heading; None: all files have one.
        mismatched: Whether there is a second validation set from other sources (MNLI).

    Example:
        >>> glue_task("cola").headline, glue_task("stsb").num_labels
        ('matthews_correlation', 1)
    """

    name: str
    texts: tuple[tuple[str, ...], ...]
    label_columns: tuple[str, ...]
    labels: tuple[str, ...]
    judge: Judge
    headerless: tuple[tuple[int, ...], int] | None = None
    mismatched: bool = False

    @property
    def is_regression(self) -> bool:
        """Whether a number is predicted."""
        return not self.labels

    @property
    def num_labels(self) -> int:
        """Outputs of the model."""
        return len(self.labels) or 1

    @property
    def headline(self) -> str:
        """Name of the one metric that tables show: higher is better."""
        return _HEADLINES[self.judge]


_INFERENCE: Final = ("entailment", "not_entailment")

GLUE_TASKS: Final[Mapping[str, GlueTask]] = MappingProxyType(
    {
        task.name: task
        for task in (
            GlueTask(
                "cola",
                (("sentence",),),
                ("label",),
                ("unacceptable", "acceptable"),
                Judge.MATTHEWS,
                headerless=((3,), 1),
            ),
            GlueTask("sst2", (("sentence",),), ("label",), ("negative", "positive"), Judge.ACCURACY),
            GlueTask(
                "mrpc",
                (("sentence1", "#1 String"), ("sentence2", "#2 String")),
                ("label", "Quality"),
                ("not_equivalent", "equivalent"),
                Judge.ACCURACY_AND_F1,
            ),
            GlueTask(
                "qqp",
                (("question1",), ("question2",)),
                ("label", "is_duplicate"),
                ("not_duplicate", "duplicate"),
                Judge.ACCURACY_AND_F1,
            ),
            GlueTask("stsb", (("sentence1",), ("sentence2",)), ("label", "score"), (), Judge.CORRELATION),
            GlueTask(
                "mnli",
                (("premise", "sentence1"), ("hypothesis", "sentence2")),
                ("label", "gold_label"),
                ("entailment", "neutral", "contradiction"),
                Judge.ACCURACY,
                mismatched=True,
            ),
            GlueTask("qnli", (("question",), ("sentence",)), ("label",), _INFERENCE, Judge.ACCURACY),
            GlueTask("rte", (("sentence1",), ("sentence2",)), ("label",), _INFERENCE, Judge.ACCURACY),
            GlueTask("wnli", (("sentence1",), ("sentence2",)), ("label",), _INFERENCE[::-1], Judge.ACCURACY),
        )
    }
)
"""Every task by its name."""

_SPELLINGS: Final = MappingProxyType({"sst": "sst2", "sst-2": "sst2", "sts-b": "stsb", "sts": "stsb"})


def glue_task(name: str) -> GlueTask:
    """A task by its name, in any case; ``sst-2`` and ``sts-b`` are understood.

    Raises:
        ConfigurationError: There is none of that name; says which are near.

    Example:
        >>> glue_task("SST-2").name
        'sst2'
    """
    lower = name.strip().lower()
    found = GLUE_TASKS.get(_SPELLINGS.get(lower, lower))
    if found is None:
        near = nearest_names(lower, GLUE_TASKS, 1)
        raise ConfigurationError(
            "there is no such task",
            where="--task_name",
            got=repr(name),
            expected=f"one of {', '.join(GLUE_TASKS)}",
            fix=f"did you mean {near[0]!r}?" if near else None,
        )
    return found


def custom_task(labels: tuple[str, ...]) -> GlueTask:
    """A classification of one's own files: columns ``sentence1`` (or ``sentence``, ``text``), ``sentence2``, ``label``.

    Args:
        labels: Every label that occurs.

    Example:
        >>> custom_task(("ham", "spam")).headline
        'accuracy'
    """
    return GlueTask("custom", (("sentence1", "sentence", "text"), ("sentence2",)), ("label",), labels, Judge.ACCURACY)
