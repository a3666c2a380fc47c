"""Where commands take data from: text files, tables, NumPy's files, or Python code of the user's."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantsim.cli.outcome import CommandError
from quantsim.cli.tables import TABLE_SUFFIXES, Table, read_table, read_text
from quantsim.cli.user_code import FACTORY_FORM, USERS_ERRORS, call_factory, name_and_message

if TYPE_CHECKING:
    from torch import nn

    from quantsim.cli.model_source import LoadedModel

__all__ = ["Data", "DataOptions", "read_data"]

_LABEL_NAMES: Final = ("label", "labels")
"""Columns, arrays and keys that are labels without being named so on the command line."""

_GREATEST_NUMBER: Final = 2**63
"""Labels stay below it, as torch's integers do."""

_TEXT_NAMES: Final = ("text", "sentence")


@dataclass(frozen=True)
class DataOptions:
    """How to read data.

    Attributes:
        columns: Columns of a table that hold the texts, or arrays that are the model's inputs.
        label: The column, array, key or position that holds the labels.
        has_header: Whether the first line of CSV and TSV names the columns.
        batch_size: Rows of a file in a batch.
        max_tokens: Longer texts are cut.
        limit: At most so many rows, or batches of code.
    """

    columns: tuple[str, ...] = ()
    label: str | None = None
    has_header: bool = True
    batch_size: int = 16
    max_tokens: int = 128
    limit: int | None = None


@dataclass(frozen=True)
class Data:
    """Batches that a simulation accepts.

    Attributes:
        batches: Inputs of the model.
        labels: One tensor for each batch, if there are labels.
    """

    batches: list[Any]
    labels: list[Any] | None = None


def read_data(source: str, loaded: LoadedModel, options: DataOptions | None = None, *, option: str = "--data") -> Data:
    """Reads data.

    Args:
        source: A file with one text a line, a table (CSV, TSV, JSON Lines), a file of arrays (npz, npy); or a function
            that returns an iterable of batches.
        loaded: The model; texts need its tokenizer.
        options: How to read it.
        option: What errors call the source.

    Raises:
        CommandError: No such file or function, no data, or data that are not as the options say.
    """
    options = options or DataOptions()
    path, where = Path(source), f"{option} {source}"
    if path.is_dir():
        raise CommandError(f"{where}: is a folder; expected a file, or code as {FACTORY_FORM}")
    if not path.is_file() or (path.suffix == ".py" and ":" not in source):
        data = _of_code(source, loaded, options, option)
    elif path.suffix.lower() in (".npz", ".npy"):
        data = _of_arrays(path, loaded, options, where)
    else:
        data = _of_texts(path, loaded, options, where)
    if options.label is not None and data.labels is None:
        raise CommandError(f"--label {options.label}: {where} holds texts only; expected a table, arrays or code")
    return Data(loaded.on_device(data.batches), loaded.on_device(data.labels))


# ---------------------------------------------------------------- texts


def _of_texts(path: Path, loaded: LoadedModel, options: DataOptions, where: str) -> Data:
    if loaded.tokenizer is None:
        raise CommandError(
            f"{where}: model {loaded.name} has no tokenizer for texts; pass --tokenizer, or give batches as "
            f"{FACTORY_FORM}"
        )
    labels = None
    if path.suffix.lower() in TABLE_SUFFIXES:
        columns, labels = _of_table(read_table(path, where, has_header=options.has_header), loaded, options)
    else:
        if options.columns:
            raise CommandError(f"--column {options.columns[0]}: {where} has no columns; it is read as a text a line")
        lines = (line.strip() for line in read_text(path, where).splitlines())
        columns = [[line for line in lines if line][: options.limit]]
        if not columns[0]:
            raise CommandError(f"{where}: the file holds no text; expected one text a line")
    starts = range(0, len(columns[0]), options.batch_size)
    chosen = [[column[start : start + options.batch_size] for column in columns] for start in starts]
    batches = [_tokenized(texts, loaded, options.max_tokens, where) for texts in chosen]
    return Data(batches, None if labels is None else _split(labels, options.batch_size))


def _of_table(table: Table, loaded: LoadedModel, options: DataOptions) -> tuple[list[list[str]], Any]:
    label = None if options.label is None else table.column(options.label, "--label")
    if label is None:
        label = next((name for name in _LABEL_NAMES if name in table.columns and name not in options.columns), None)
    names = [table.column(name, "--column") for name in options.columns] or _text_columns(table, label)
    if label in names:
        raise CommandError(f"{table.where}: column {label!r} cannot hold both the texts and the labels")
    table = replace(table, rows=table.rows[: options.limit], lines=table.lines[: options.limit])
    texts = [table.texts(name) for name in names]
    return texts, None if label is None else _labels_of_table(table, label, loaded)


def _text_columns(table: Table, label: str | None) -> list[str]:
    left = [name for name in table.columns if name != label]
    found = [name for name in _TEXT_NAMES if name in left]
    if len(left) != 1 and not found:
        raise CommandError(
            f"{table.where}: which column holds the texts? Pass --column (twice for pairs of texts); "
            f"there are {', '.join(table.columns)}"
        )
    return left if len(left) == 1 else found[:1]


def _labels_of_table(table: Table, column: str, loaded: LoadedModel) -> Any:
    import torch

    values = [row.get(column) for row in table.rows]
    known: Mapping[str, int] = getattr(getattr(loaded.model, "config", None), "label2id", None) or {}
    numbers: list[float | int] = []
    for value, line in zip(values, table.lines, strict=True):
        number = known.get(value) if isinstance(value, str) else None
        number = _number(value) if number is None else number
        if number is None:
            names = f", or of {', '.join(known)}" if known else ""
            got = "nothing" if value is None else repr(value)
            raise CommandError(
                f"{table.where}, line {line}: label {got} in column {column!r}; expected numbers{names}; "
                "pass --label for another column"
            )
        numbers.append(number)
    return torch.tensor(numbers)


def _number(value: Any) -> float | int | None:
    for kind in (int, float):
        try:
            number = int(value) if isinstance(value, bool) else value if isinstance(value, kind) else kind(str(value))
        except ValueError:
            continue
        return number if abs(number) < _GREATEST_NUMBER else None  # neither are NaN and what overflows an integer
    return None


def _tokenized(texts: Sequence[list[str]], loaded: LoadedModel, max_tokens: int, where: str) -> dict[str, Any]:
    try:
        encoded = loaded.tokenizer(*texts, padding=True, truncation=True, max_length=max_tokens, return_tensors="pt")
    except Exception as error:  # a tokenizer of the user's folder: what it objects to is unknown here
        raise CommandError(f"{where}: the tokenizer of {loaded.name} fails: {name_and_message(error)}") from error
    return dict(encoded)


# ---------------------------------------------------------------- arrays


def _of_arrays(path: Path, loaded: LoadedModel, options: DataOptions, where: str) -> Data:
    import torch

    from quantsim.cli.arrays import read_arrays, to_tensor

    arrays = read_arrays(path, where)
    label = options.label
    if label is not None and label not in arrays:
        raise CommandError(f"--label {label}: {where} has no such array; it has {', '.join(arrays)}")
    parameters = _parameters(loaded.model)
    if label is None:
        label = next((name for name in _LABEL_NAMES if name in arrays and name not in options.columns), None)
    names = _input_arrays(arrays, options.columns, label, parameters, where)
    lengths = {name: len(arrays[name]) for name in (*names, *([label] if label else ()))}
    if len(set(lengths.values())) > 1 or not all(lengths.values()):
        rows = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise CommandError(f"{where}: arrays have {rows} rows; expected the same number of rows, at least one")
    dtype = next((each.dtype for each in loaded.model.parameters() if each.is_floating_point()), torch.float32)
    tensors = {name: to_tensor(arrays[name][: options.limit], dtype, f"{where}: array {name!r}") for name in names}
    labels = None if label is None else to_tensor(arrays[label][: options.limit], torch.float32, f"{where}: {label!r}")
    split = {name: _split(tensor, options.batch_size) for name, tensor in tensors.items()}
    by_name = all(name in parameters for name in names)
    rows_of_batches = zip(*split.values(), strict=True)
    batches = [dict(zip(names, rows, strict=True)) if by_name else rows for rows in rows_of_batches]
    return Data(batches, None if labels is None else _split(labels, options.batch_size))


def _input_arrays(
    arrays: Mapping[str, Any], columns: Sequence[str], label: str | None, parameters: Sequence[str], where: str
) -> list[str]:
    missing = [name for name in columns if name not in arrays]
    if missing:
        raise CommandError(f"--column {missing[0]}: {where} has no such array; it has {', '.join(arrays)}")
    if label in columns:
        raise CommandError(f"{where}: array {label!r} cannot hold both the inputs and the labels")
    left = list(columns) or [name for name in arrays if name != label]
    if not columns and len(left) != 1 and not (left and all(name in parameters for name in left)):
        raise CommandError(
            f"{where}: which arrays are the model's inputs? Pass --column for each, in the order of its arguments "
            f"({', '.join(parameters)}), and --label for labels; there are {', '.join(arrays)}"
        )
    scalar = [name for name in (*left, *([label] if label else ())) if arrays[name].ndim == 0]
    if scalar:
        raise CommandError(f"{where}: array {scalar[0]!r} is a single number; expected one row for each sample")
    return left


def _parameters(model: nn.Module) -> list[str]:
    return list(inspect.signature(model.forward).parameters)


def _split(values: Any, size: int) -> list[Any]:
    return [values[start : start + size] for start in range(0, len(values), size)]


# ---------------------------------------------------------------- code


def _of_code(source: str, loaded: LoadedModel, options: DataOptions, option: str) -> Data:
    import torch

    where = f"{option} {source}"
    made = call_factory(source, option)
    if options.columns:
        raise CommandError(
            f"--column {options.columns[0]}: {where} has no columns; give the batches as the model wants"
        )
    if isinstance(made, (Mapping, str, torch.Tensor)) or not isinstance(made, Iterable):
        raise CommandError(
            f"{where}: the function returned {type(made).__name__}, expected an iterable of batches; "
            "return a list of one for a single batch"
        )
    try:
        batches = list(islice(made, options.limit))
    except USERS_ERRORS as error:
        raise CommandError(f"{where}: making a batch failed: {name_and_message(error)}") from error
    if not batches:
        raise CommandError(f"{where}: the function returned no batch")
    label = options.label or _label_key(batches[0], loaded.model)
    if label is None:
        return Data(batches)
    split = [_without_labels(batch, label, f"{where}: batch {number}") for number, batch in enumerate(batches)]
    return Data([inputs for inputs, _ in split], [labels for _, labels in split])


def _label_key(batch: Any, model: nn.Module) -> str | None:
    """The key of labels beside keyword arguments; None where the model cannot do without them."""
    if not isinstance(batch, Mapping):
        return None
    key = next((name for name in _LABEL_NAMES if name in batch), None)
    parameter = inspect.signature(model.forward).parameters.get(key or "")
    is_needed = parameter is not None and parameter.default is inspect.Parameter.empty
    return None if is_needed else key


def _without_labels(batch: Any, label: str, where: str) -> tuple[Any, Any]:
    """A batch's inputs and its labels, which are at a key or at a position of it."""
    import torch

    if isinstance(batch, Mapping):
        if label not in batch:
            raise CommandError(f"{where} has no {label!r} for --label; it has {', '.join(map(str, batch))}")
        inputs: Any = {key: value for key, value in batch.items() if key != label}
        values = batch[label]
    elif isinstance(batch, (tuple, list)):
        position = int(label) if label.removeprefix("-").isdecimal() else None
        if position is None or not -len(batch) <= position < len(batch) or len(batch) < 2:
            raise CommandError(
                f"{where} is a {type(batch).__name__} of {len(batch)}; expected --label with the position of the "
                f"labels in it, got {label!r}"
            )
        rest = [value for number, value in enumerate(batch) if number != position % len(batch)]
        inputs = rest[0] if len(rest) == 1 and isinstance(rest[0], (Mapping, tuple, list)) else tuple(rest)
        values = batch[position]
    else:
        raise CommandError(f"{where} is {type(batch).__name__}; expected (inputs, labels) or a mapping for --label")
    try:
        return inputs, torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise CommandError(f"{where}: its labels are no numbers ({name_and_message(error)})") from error
