"""What the pydantic models of all versions share: strictness, number arrays, and problems with JSON paths."""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, JsonValue, PlainValidator, ValidationError, WithJsonSchema
from pydantic_core import ErrorDetails, PydanticCustomError

from quantsim_encodings._problems import ProblemCollector, child, show

MAX_RANK = 16


class Model(BaseModel):
    """Base of all models: exact types, no unknown keys, no NaN, immutable."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


class ProducerModel(Model):
    """Program that wrote the file."""

    package: str
    version: str


def _flaw(suffix: str, message: str) -> PydanticCustomError:
    return PydanticCustomError("number_array", "{reason}", {"reason": message, "suffix": suffix})


def _article(noun: str) -> str:
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def _check_numbers(value: Any, allowed: frozenset[type], expected: str, suffix: str = "") -> None:
    """Requires a list of numbers only; bool is no number although it is an int to Python."""
    if not isinstance(value, list):
        raise _flaw(suffix, f"got {show(value)}, expected an array of {expected}s")
    if set(map(type, value)) <= allowed:
        return
    index = next(index for index, item in enumerate(value) if type(item) not in allowed)
    raise _flaw(f"{suffix}[{index}]", f"got {show(value[index])}, expected {_article(expected)}")


def _check_nested(value: Any, allowed: frozenset[type], expected: str) -> Any:
    """Requires a number or a rectangular, possibly nested, non-empty array of numbers."""
    if type(value) in allowed:
        return value
    shape: list[int] = []
    level = value
    while isinstance(level, list):
        shape.append(len(level))
        if not level:
            raise _flaw("[0]" * (len(shape) - 1), "got an empty array, expected at least one number")
        level = level[0]
    if len(shape) > MAX_RANK:
        raise _flaw("", f"got an array of {len(shape)} dimensions, expected at most {MAX_RANK}")
    if not shape:
        raise _flaw("", f"got {show(value)}, expected {_article(expected)} or an array of them")
    _check_rows(value, tuple(shape), allowed, expected, "")
    return value


def _check_rows(value: Any, shape: tuple[int, ...], allowed: frozenset[type], expected: str, suffix: str) -> None:
    if not isinstance(value, list):
        raise _flaw(suffix, f"got {show(value)}, expected an array of {shape[0]} values")
    if len(value) != shape[0]:
        raise _flaw(suffix, f"got an array of {len(value)} values, expected {shape[0]} as in its neighbours")
    if len(shape) == 1:
        _check_numbers(value, allowed, expected, suffix)
        return
    for index, row in enumerate(value):
        _check_rows(row, shape[1:], allowed, expected, f"{suffix}[{index}]")


_NUMBER = frozenset({int, float})
_INTEGER = frozenset({int})


def _flat_numbers(value: Any) -> Any:
    _check_numbers(value, _NUMBER, "number")
    return value


def _flat_integers(value: Any) -> Any:
    _check_numbers(value, _INTEGER, "integer")
    return value


def _nested_numbers(value: Any) -> Any:
    return _check_nested(value, _NUMBER, "number")


def _nested_integers(value: Any) -> Any:
    return _check_nested(value, _INTEGER, "integer")


# Arrays may hold millions of numbers, so they are checked here in C loops and not one by one by pydantic.
Numbers = Annotated[
    list[Any], PlainValidator(_flat_numbers), WithJsonSchema({"type": "array", "items": {"type": "number"}})
]
Integers = Annotated[
    list[Any], PlainValidator(_flat_integers), WithJsonSchema({"type": "array", "items": {"type": "integer"}})
]
NestedNumbers = Annotated[
    Any,
    PlainValidator(_nested_numbers),
    WithJsonSchema({"type": ["number", "array"], "description": "a number or rectangular nested arrays of numbers"}),
]
NestedIntegers = Annotated[
    Any,
    PlainValidator(_nested_integers),
    WithJsonSchema(
        {"type": ["integer", "array"], "description": "an integer or rectangular nested arrays of integers"}
    ),
]
QuantizerArguments = Annotated[dict[str, JsonValue], Field(description="AIMET's record of its global settings.")]

ModelType = TypeVar("ModelType", bound=BaseModel)


def validate_model(model: type[ModelType], data: Any, problems: ProblemCollector) -> ModelType | None:
    """Validates parsed JSON; notes every problem with its JSON path and returns ``None`` if there is any."""
    try:
        return model.model_validate(data)
    except ValidationError as error:
        for details in error.errors(include_url=False):
            problems.add(*_problem(details, data))
    return None


# Pydantic speaks of Python types here.
_JSON_TYPES = {
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dict_type": "an object",
    "list_type": "an array",
}


def _has_step(value: Any, step: str | int) -> bool:
    if isinstance(value, dict):
        return isinstance(step, str) and step in value
    return isinstance(value, list) and isinstance(step, int) and step < len(value)


def _problem(details: ErrorDetails, data: Any) -> tuple[str, str]:
    path = "$"
    current = data
    location = details["loc"]
    for index, step in enumerate(location):
        if _has_step(current, step):
            current = current[step]
        elif not (details["type"] == "missing" and index == len(location) - 1):
            continue  # The name of a member of a union, which is no step in the document.
        path = child(path, step)
    if details["type"] == "missing":
        return path, "is missing"
    if details["type"] == "extra_forbidden":
        return path, "is an unknown key"
    if details["type"] == "number_array":
        context = details.get("ctx", {})
        return path + context["suffix"], context["reason"]
    if details["type"] in _JSON_TYPES:
        return path, f"got {show(details['input'])}, expected {_JSON_TYPES[details['type']]}"
    expected = details["msg"].removeprefix("Input should be ")
    if expected == details["msg"]:
        return path, f"got {show(details['input'])}: {expected}"
    return path, f"got {show(details['input'])}, expected {expected}"
