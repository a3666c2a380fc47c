"""Examples of a task: from the hub's data set, GLUE's own files, or CSV, TSV and JSON files of one's own."""

from __future__ import annotations

import csv
import importlib
import io
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import Tensor

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue.tasks import GlueTask, custom_task

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from quantsim.experiments.glue.arguments import DataArguments

__all__ = ["Examples", "TaskData", "TokenizedExamples", "find_file", "load_task_data", "read_examples"]

_HUB_DATA: Final = "nyu-mll/glue"
_SUFFIXES: Final = (".tsv", ".csv", ".json", ".jsonl")


@dataclass(frozen=True)
class Examples:
    """Texts with their labels.

    Attributes:
        texts: One sequence of texts, or two of pairs; all as long as ``labels``.
        labels: Numbers of labels, or what is to be predicted.
        source: Where they are from, for errors.
    """

    texts: tuple[tuple[str, ...], ...]
    labels: tuple[int, ...] | tuple[float, ...]
    source: str

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, limit: int | None) -> Examples:
        """The first of them, as many as asked for."""
        return (
            self
            if limit is None
            else Examples(tuple(part[:limit] for part in self.texts), self.labels[:limit], self.source)
        )


@dataclass(frozen=True)
class TaskData:
    """Everything that a run reads.

    Attributes:
        task: What the examples are for.
        train: To train on and calibrate with; None where neither is done.
        validation: To evaluate on.
        mismatched: The second validation set of MNLI, if it is there.
    """

    task: GlueTask
    train: Examples | None
    validation: Examples | None
    mismatched: Examples | None = None


class TokenizedExamples(torch.utils.data.Dataset[dict[str, Any]]):
    """Examples as a model takes them.

    Args:
        examples: Texts and labels.
        tokenizer: The model's.
        max_length: Tokens of an example at most.
        pad: Whether all are padded to that length; else the batch's collator does what is needed.
        labels: Number that the model has for each label; None: the same.
    """

    def __init__(
        self,
        examples: Examples,
        tokenizer: PreTrainedTokenizerBase,
        *,
        max_length: int,
        pad: bool = False,
        labels: Sequence[int] | None = None,
    ) -> None:
        encode: Any = tokenizer
        self._encoded: Any = encode(
            *(list(part) for part in examples.texts),
            max_length=max_length,
            truncation=True,
            padding="max_length" if pad else False,
        )
        self._labels = [value if labels is None else labels[int(value)] for value in examples.labels]

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        item = {name: values[index] for name, values in self._encoded.items()}
        return {**item, "label": self._labels[index]}

    def batches(self, count: int, size: int, collate: Callable[[list[Any]], Any], seed: int) -> list[dict[str, Tensor]]:
        """Inputs of some batches, without labels, drawn by a generator of their own.

        Args:
            count: Batches at most.
            size: Examples of each.
            collate: Makes a batch.
            seed: Of the order.
        """
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))[: count * size].tolist()
        rows = [order[start : start + size] for start in range(0, len(order), size)]
        made = [collate([self[row] for row in batch]) for batch in rows]
        return [{name: value for name, value in batch.items() if name not in ("label", "labels")} for batch in made]


def load_task_data(
    task: GlueTask | None, data: DataArguments, *, needs_train: bool, needs_validation: bool
) -> TaskData:
    """Reads what a run needs.

    Args:
        task: The task; None: a classification of one's own files.
        data: Where the data is.
        needs_train: Whether training examples are needed.
        needs_validation: Whether validation examples are needed.

    Raises:
        ConfigurationError: A file or a package is missing, or a file is not what the task needs.
    """
    files = _files(task, data)
    if files is None:
        if task is None:
            raise ConfigurationError(where="--task_name", got="no such flag", expected="a task, or files")
        return _from_hub(task, data, needs_train=needs_train, needs_validation=needs_validation)
    train, validation, mismatched = files
    flags = (("--train_file", train, needs_train), ("--validation_file", validation, needs_validation))
    for flag, path, needed in flags:
        if needed and path is None:
            raise ConfigurationError(
                "a file is missing",
                where=flag,
                got="no such flag",
                expected="a file to train on, or to calibrate the transform with"
                if flag == "--train_file"
                else "a file to evaluate on",
                fix="give it; the model of a folder that holds a transformed one needs no calibration"
                if flag == "--train_file"
                else None,
            )
    if task is None:
        task = custom_task(_labels_in(Path(str(train))))

    def read(path: Path | None, needed: bool, limit: int | None) -> Examples | None:
        return read_examples(path, task).first(limit) if needed and path is not None else None

    return TaskData(
        task,
        read(train, needs_train, data.max_train_samples),
        read(validation, needs_validation, data.max_eval_samples),
        read(mismatched, needs_validation and task.mismatched, data.max_eval_samples),
    )


def find_file(folder: Path, stems: Sequence[str]) -> Path | None:
    """The one data file of that name in a folder; the first name that has one counts.

    Args:
        folder: Of one task.
        stems: Names without their endings.

    Raises:
        ConfigurationError: There are several that differ by their ending only.
    """
    for stem in stems:
        found = [path for suffix in _SUFFIXES if (path := folder / f"{stem}{suffix}").is_file()]
        if len(found) > 1:
            raise ConfigurationError(where=str(folder), got=" and ".join(p.name for p in found), expected="one of them")
        if found:
            return found[0]
    return None


def _files(task: GlueTask | None, data: DataArguments) -> tuple[Path | None, Path | None, Path | None] | None:
    """Training, validation and second validation file; None: the hub's data is meant."""
    if data.data_dir is None:
        named = (data.train_file, data.validation_file, data.validation_mismatched_file)
        paths = [None if name is None else Path(name) for name in named]
        return None if not any(named) else (paths[0], paths[1], paths[2])
    folder = Path(data.data_dir) / (task.name if task is not None else "")
    if not folder.is_dir():
        raise ConfigurationError(
            "there is no folder for the task",
            where="--data_dir",
            got=str(folder),
            expected="one with train.* and dev.*",
        )
    return (
        find_file(folder, ("train",)),
        find_file(folder, ("dev", "validation", "dev_matched", "validation_matched")),
        find_file(folder, ("dev_mismatched", "validation_mismatched")),
    )


def read_examples(path: str | Path, task: GlueTask) -> Examples:
    r"""Reads a file of a task: columns as in GLUE's own files, or as in the hub's data set.

    ``.tsv`` is read as GLUE's are, where quotation marks are text; ``.csv`` with quoting; ``.json`` as a list of
    objects, an object with such a list under ``data``, or one object a line, as ``.jsonl``. CoLA's original files,
    which have no heading, are recognised.

    Args:
        path: The file.
        task: Which columns and labels to expect.

    Raises:
        ConfigurationError: The file cannot be read, a column is missing, or a label is none of the task's.

    Example:
        >>> import tempfile
        >>> from quantsim.experiments.glue.tasks import glue_task
        >>> file = Path(tempfile.mkdtemp()) / "dev.tsv"
        >>> _ = file.write_text("gj04\t1\t\tIt rains.\ngj04\t0\t*\tRains it the.\n")
        >>> read_examples(file, glue_task("cola")).labels
        (1, 0)
    """
    path = Path(path)
    rows = _rows(path, task)
    where = str(path)
    if not rows:
        raise ConfigurationError("the file has no examples", where=where, got="none", expected="at least one")
    columns = [_column(rows[0], names, where) for names in task.texts if names != ("sentence2",) or _pairs(task, rows)]
    label = _column(rows[0], task.label_columns, where)
    texts: list[list[str]] = [[] for _ in columns]
    labels: list[Any] = []
    for number, row in enumerate(rows, start=1):
        for part, column in zip(texts, columns, strict=True):
            if not isinstance(row.get(column), str):
                raise ConfigurationError(
                    where=f"{where}, example {number}", got=f"{column}={row.get(column)!r}", expected="a text"
                )
            part.append(row[column])
        labels.append(_label(row.get(label), task, f"{where}, example {number}"))
    return Examples(tuple(tuple(part) for part in texts), tuple(labels), where)


def _pairs(task: GlueTask, rows: list[dict[str, Any]]) -> bool:
    return task.name != "custom" or "sentence2" in rows[0]


def _rows(path: Path, task: GlueTask | None) -> list[dict[str, Any]]:
    if not path.is_file() or path.suffix.lower() not in _SUFFIXES:
        raise ConfigurationError(
            "no such file of data",
            where="--train_file, --validation_file",
            got=str(path),
            expected=f"a file that ends in {', '.join(_SUFFIXES)}",
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() in (".json", ".jsonl"):
            return _json_rows(text, str(path))
    except ValueError as error:
        raise ConfigurationError(
            "the file cannot be read", where=str(path), got=str(error), expected="JSON or a table, in UTF-8"
        ) from None
    if path.suffix.lower() == ".csv":
        table = list(csv.reader(io.StringIO(text, newline="")))
    else:
        table = [line.removesuffix("\r").split("\t") for line in text.split("\n") if line.strip()]
    if not table:
        return []
    if task is not None and task.headerless is not None and _has_no_heading(table[0], task):
        texts, label = task.headerless
        names = {column: task.texts[number][0] for number, column in enumerate(texts)} | {label: task.label_columns[0]}
        heading = [names.get(column, f"column {column}") for column in range(len(table[0]))]
    else:
        heading, table = [name.strip() for name in table[0]], table[1:]
    for number, row in enumerate(table, start=1):
        if len(row) != len(heading) and any(row):
            raise ConfigurationError(
                "a row has another number of columns",
                where=f"{path}, example {number}",
                got=f"{len(row)} columns: {' | '.join(row)[:80]!r}",
                expected=f"{len(heading)}: {', '.join(heading)}",
            )
    return [dict(zip(heading, row, strict=True)) for row in table if any(row)]


def _has_no_heading(first: list[str], task: GlueTask) -> bool:
    assert task.headerless is not None
    columns, label = task.headerless
    return len(first) > max(*columns, label) and first[label].strip() in map(str, range(task.num_labels))


def _json_rows(text: str, where: str) -> list[dict[str, Any]]:
    try:
        values = json.loads(text)
    except ValueError:
        values = [json.loads(line) for line in text.splitlines() if line.strip()]
    if isinstance(values, dict):
        values = values["data"] if isinstance(values.get("data"), list) else [values]
    if not isinstance(values, list) or not all(isinstance(row, dict) for row in values):
        raise ConfigurationError(
            "the file holds no examples", where=where, got=type(values).__name__, expected="objects of text and label"
        )
    return values


def _column(row: Mapping[str, Any], names: Sequence[str], where: str) -> str:
    found = next((name for name in names if name in row), None)
    if found is None:
        raise ConfigurationError(
            "a column is missing",
            where=where,
            got=f"the columns {', '.join(map(repr, row))}",
            expected=" or ".join(map(repr, names)),
            fix="name it in the file's first line, or give the --task_name that the file is of",
        )
    return found


def _label(value: Any, task: GlueTask, where: str) -> int | float:
    """A label as a number: by name, by number, or as it is where a number is predicted."""
    text = str(value).strip()
    if task.is_regression:
        try:
            number = float(text)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise ConfigurationError(where=where, got=f"the label {value!r}", expected="a number")
        return number
    if text in task.labels:
        return task.labels.index(text)
    index = int(text) if text.isdecimal() else -1
    if not 0 <= index < task.num_labels:
        shown = ", ".join(f"{number} ({name})" for number, name in enumerate(task.labels))
        raise ConfigurationError(
            where=where,
            got=f"the label {value!r}",
            expected=f"one of {shown}",
            fix="test sets have no labels: take the validation set" if text == "-1" else None,
        )
    return index


def _labels_in(path: Path) -> tuple[str, ...]:
    rows = _rows(path, None)
    if not rows:
        raise ConfigurationError("the file has no examples", where=str(path), got="none", expected="at least one")
    column = _column(rows[0], ("label",), str(path))
    return tuple(sorted({str(row.get(column)).strip() for row in rows}))


def _from_hub(task: GlueTask, data: DataArguments, *, needs_train: bool, needs_validation: bool) -> TaskData:
    fix = (
        f"give --train_file and --validation_file, or --data_dir with {task.name}/train.tsv and {task.name}/dev.tsv; "
        "`quantsim glue prepare FOLDER` makes data for a first try"
    )
    try:
        load_dataset = importlib.import_module("datasets").load_dataset
    except (ImportError, AttributeError):  # or another thing of that name
        raise ConfigurationError(
            "the hub's data set needs a package",
            where=f"--task_name {task.name}",
            got="no package 'datasets'",
            expected="it, and a network",
            fix=f"pip install datasets; or {fix}",
        ) from None

    def load(split: str, limit: int | None) -> Examples:
        try:
            rows: Any = load_dataset(_HUB_DATA, task.name, split=split)
        except Exception as error:  # whichever library below fails: there is no network, or no such data
            raise ConfigurationError(
                "the hub's data set cannot be loaded",
                where=f"--task_name {task.name}",
                got=f"{type(error).__name__}: {' '.join(str(error).split())[:200]}",
                expected="a network, or a data set in the cache",
                fix=fix,
            ) from error
        rows = rows if limit is None else rows.select(range(min(limit, len(rows))))
        source = f"{_HUB_DATA}, {task.name}, {split}"
        labels = [_label(value, task, source) for value in rows["label"]]
        return Examples(tuple(tuple(rows[names[0]]) for names in task.texts), tuple(labels), source)

    validation = "validation_matched" if task.mismatched else "validation"
    return TaskData(
        task,
        load("train", data.max_train_samples) if needs_train else None,
        load(validation, data.max_eval_samples) if needs_validation else None,
        load("validation_mismatched", data.max_eval_samples) if needs_validation and task.mismatched else None,
    )
