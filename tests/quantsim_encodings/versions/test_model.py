from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from quantsim_encodings._problems import ProblemCollector
from quantsim_encodings.versions.model import (
    Integers,
    Model,
    NestedIntegers,
    NestedNumbers,
    Numbers,
    ProducerModel,
    validate_model,
)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (Numbers, [[], [1], [1, 2.5]], [1, [[1]], ["1"], [None], [True], (1,)]),
        (Integers, [[], [1, 2]], [1.0, [1.0], [True]]),
        (NestedNumbers, [1, 2.5, [1], [[1, 2], [3, 4.5]]], [[], True, [[1], [2, 3]], [1, [2]], [[1], 2], "1", {}]),
        (NestedIntegers, [1, [[1]]], [1.0, [[1.5]], [[True]]]),
    ],
)
def test_number_arrays(kind, good: list, bad: list) -> None:
    adapter = TypeAdapter(kind)
    for value in good:
        assert adapter.validate_python(value) is value
    for value in bad:
        with pytest.raises(ValidationError):
            adapter.validate_python(value)


def test_arrays_of_too_many_dimensions() -> None:
    value: object = 1
    for _ in range(17):
        value = [value]
    with pytest.raises(ValidationError, match="expected at most 16"):
        TypeAdapter(NestedNumbers).validate_python(value)


def test_models_are_strict_and_closed() -> None:
    problems = ProblemCollector()
    assert validate_model(ProducerModel, {"package": "a", "version": "1"}, problems) == ProducerModel(
        package="a", version="1"
    )
    assert validate_model(ProducerModel, {"package": 1, "x y": 2}, problems) is None
    assert [str(problem) for problem in problems.problems] == [
        "$.package: got 1, expected a valid string",
        "$.version: is missing",
        '$["x y"]: is an unknown key',
    ]
    assert Model.model_config["frozen"]
