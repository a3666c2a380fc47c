from __future__ import annotations

import pytest

from quantsim_encodings import EncodingsError
from quantsim_encodings._problems import MAX_PROBLEMS, ProblemCollector, child, show


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("é\n", '"\\u00e9\\n"'),
        (True, "true"),
        (None, "null"),
        (10**31, "an integer beyond 10**30"),
        ({"a": 1}, "an object with 1 keys"),
        ([1, 2], "an array of 2 values"),
        (object(), "object"),
        ("x" * 100, '"' + "x" * 56 + "..."),
    ],
)
def test_show_is_short_ascii(value: object, text: str) -> None:
    assert show(value) == text


def test_child_quotes_keys_that_are_no_identifiers() -> None:
    assert child("$", "a b") == '$["a b"]'
    assert child("$", "") == '$[""]'
    assert child("$", "a\n") == '$["a\\n"]'
    assert child("$.a", 0) == "$.a[0]"


def test_problems_are_sorted_by_place_and_limited() -> None:
    collector = ProblemCollector()
    assert not collector
    for index in reversed(range(MAX_PROBLEMS + 7)):
        collector.add(f"$.encodings[{index}]", "bad")
    with pytest.raises(EncodingsError) as caught:
        collector.raise_if_any("cannot read")
    problems = caught.value.problems
    assert len(problems) == MAX_PROBLEMS + 1
    assert [problem.path for problem in problems[:3]] == [f"$.encodings[{index}]" for index in (7, 8, 9)]
    assert "7 more problems" in problems[-1].message


def test_guard_turns_errors_into_problems_and_lets_bugs_through() -> None:
    collector = ProblemCollector()
    with collector.guard("$.a"):
        raise ValueError("bad")
    with collector.guard("$.b"):
        raise EncodingsError("worse")
    assert [str(problem) for problem in collector.problems] == ["$.a: bad", "$.b: worse"]
    with pytest.raises(ZeroDivisionError), collector.guard("$.c"):
        raise ZeroDivisionError
