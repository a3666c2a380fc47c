"""Reading and writing of JSON text under limits: any bytes give a value or an EncodingsError."""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Mapping
from typing import Any, Final, NoReturn

from quantsim_encodings._problems import ProblemCollector, child, show
from quantsim_encodings.errors import EncodingsError, Problem

MAX_FILE_BYTES: Final = 256 * 2**20
"""Larger files are rejected before they are parsed, unless the caller admits them."""
MAX_DEPTH: Final = 64
"""Deepest nesting of arrays and objects."""
MAX_INTEGER: Final = 2**64
"""Magnitude that integers must stay below."""
MAX_NUMBER_CHARACTERS: Final = 400
"""Longest text of an integer that is converted at all."""


class _Invalid:
    """Stands for a number that JSON or float64 cannot hold, until the check reports it with its path."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


class _Duplicated(dict[str, Any]):
    """An object in which a key occurred more than once."""

    keys_again: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) == len(pairs):
        return result
    seen: set[str] = set()
    again: list[str] = []
    for key, _ in pairs:
        if key in seen:
            again.append(key)
        seen.add(key)
    duplicated = _Duplicated(result)
    duplicated.keys_again = tuple(dict.fromkeys(again))
    return duplicated


def _float(text: str) -> float | _Invalid:
    value = float(text)
    return value if math.isfinite(value) else _Invalid(text)


def _integer(text: str) -> int | _Invalid:
    return int(text) if len(text) <= MAX_NUMBER_CHARACTERS else _Invalid(text)


def read_bytes(path: str | os.PathLike[str], max_bytes: int = MAX_FILE_BYTES) -> bytes:
    """Reads a regular file of at most ``max_bytes``.

    Raises:
        EncodingsError: If it is missing, no regular file, unreadable, or too large.
    """
    try:
        with open(os.fspath(path), "rb", opener=_open_without_waiting) as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                _fail(path, "is not a regular file")
            if status.st_size > max_bytes:
                _fail(path, f"has {status.st_size} bytes, expected at most {max_bytes}; max_bytes= admits more")
            data = file.read(max_bytes + 1)
    except (OSError, ValueError, TypeError) as error:
        if isinstance(error, EncodingsError):
            raise
        _fail(path, f"cannot be opened: {error}")
    if len(data) > max_bytes:
        _fail(path, f"has more than {max_bytes} bytes; max_bytes= admits more")
    return data


def _open_without_waiting(path: str, flags: int) -> int:
    # A named pipe without a writer would block the open for ever.
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _fail(path: object, message: str) -> NoReturn:
    raise EncodingsError("cannot read encodings", [Problem("$", message)], source=str(path))


def parse(data: bytes | str, problems: ProblemCollector) -> Any:
    """Parses JSON text and notes everything in it that no version allows.

    Args:
        data: UTF-8 text, with or without byte order mark.
        problems: Takes duplicate keys, NaN and infinities, huge numbers, and too deep nesting. Where a number is
            reported, 1 stands in the result, so that it is not reported again.

    Returns:
        The JSON value.

    Raises:
        EncodingsError: If the text is no JSON at all.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_constant=_Invalid,
            parse_float=_float,
            parse_int=_integer,
        )
    except UnicodeDecodeError as error:
        raise _no_json(f"is not UTF-8 text: byte {error.start} cannot be decoded") from None
    except json.JSONDecodeError as error:
        raise _no_json(f"is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _no_json(f"is nested too deeply, expected at most {MAX_DEPTH} levels") from None
    return check(value, problems)


def _no_json(message: str) -> EncodingsError:
    return EncodingsError("cannot read encodings", [Problem("$", message)])


def check(value: Any, problems: ProblemCollector) -> Any:
    """Copies a JSON value (or a mapping someone built) to plain dicts, lists and scalars, noting what is not allowed.

    Raises:
        EncodingsError: If it is nested too deeply.
    """
    try:
        return _check(value, "$", 0, problems)
    except RecursionError:
        raise _no_json(f"is nested too deeply, expected at most {MAX_DEPTH} levels") from None


def _check(value: Any, path: str, depth: int, problems: ProblemCollector) -> Any:
    if isinstance(value, (Mapping, list, tuple)):
        if depth >= MAX_DEPTH:
            raise EncodingsError(
                "cannot read encodings",
                [Problem(path[:200], f"is nested too deeply, expected at most {MAX_DEPTH} levels")],
            )
        if isinstance(value, Mapping):
            return _check_object(value, path, depth, problems)
        types = set(map(type, value))
        if types == {float} and all(map(math.isfinite, value)):
            return list(value)
        if types == {int} and min(value) > -MAX_INTEGER and max(value) < MAX_INTEGER:
            return list(value)
        return [_check(item, child(path, index), depth + 1, problems) for index, item in enumerate(value)]
    return _check_scalar(value, path, problems)


def _check_object(value: Mapping[Any, Any], path: str, depth: int, problems: ProblemCollector) -> dict[str, Any]:
    if isinstance(value, _Duplicated):
        for key in value.keys_again:
            problems.add(child(path, key), "occurs more than once, expected each key once")
    result: dict[str, Any] = {}
    for key, item in value.items():
        if isinstance(key, str):
            if _has_half_surrogate(key):
                problems.add(child(path, key), "is a key with half of a surrogate pair, expected Unicode text")
                continue
            result[key] = _check(item, child(path, key), depth + 1, problems)
        else:
            problems.add(path, f"has a key of type {type(key).__name__}, expected only strings")
    return result


def _has_half_surrogate(text: str) -> bool:
    return not text.isascii() and any("\ud800" <= character <= "\udfff" for character in text)


def _check_scalar(value: Any, path: str, problems: ProblemCollector) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, _Invalid):
        text = value.text if len(value.text) <= 30 else f"a number of {len(value.text)} characters"
        problems.add(path, f"got {text}, expected a finite number")
        return 1
    if isinstance(value, int):
        if abs(value) < MAX_INTEGER:
            return int(value)
        problems.add(path, f"got {show(value)}, expected an integer below 2**64")
        return 1
    if isinstance(value, float):
        if math.isfinite(value):
            return float(value)
        problems.add(path, f"got {value}, expected a finite number")
        return 1
    if isinstance(value, str):
        if _has_half_surrogate(value):
            problems.add(path, "is text with half of a surrogate pair, expected Unicode text")
            return "?"
        return str(value)
    problems.add(path, f"got a {type(value).__name__}, expected a JSON value")
    return 1


def format_json(value: Any) -> str:
    """JSON text, indented, each array of scalars on one line; floats keep full precision."""
    pieces: list[str] = []
    _format(value, "\n", pieces)
    pieces.append("\n")
    return "".join(pieces)


def _format(value: Any, newline: str, pieces: list[str]) -> None:
    inner = newline + "  "
    if isinstance(value, dict) and value:
        separator = "{" + inner
        for key, item in value.items():
            pieces.append(f"{separator}{json.dumps(key)}: ")
            _format(item, inner, pieces)
            separator = "," + inner
        pieces.append(newline + "}")
    elif isinstance(value, list) and any(isinstance(item, (dict, list)) for item in value):
        separator = "[" + inner
        for item in value:
            pieces.append(separator)
            _format(item, inner, pieces)
            separator = "," + inner
        pieces.append(newline + "]")
    else:
        pieces.append(json.dumps(value, allow_nan=False))
