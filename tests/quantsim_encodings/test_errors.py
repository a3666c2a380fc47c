from __future__ import annotations

import copy
import pickle

from quantsim_encodings import EncodingsError, Problem


def test_message_lists_problems_and_counts_the_rest() -> None:
    error = EncodingsError("cannot read", [Problem(f"$[{i}]", "bad") for i in range(25)], source="a.json")
    lines = str(error).splitlines()
    assert lines[0] == "a.json: cannot read: 25 problems"
    assert lines[1] == "  $[0]: bad"
    assert lines[-1] == "  ... and 5 more"
    assert len(lines) == 22
    assert isinstance(error, ValueError)


def test_message_without_problems() -> None:
    assert str(EncodingsError("nothing to read")) == "nothing to read"


def test_errors_survive_pickling_and_copying() -> None:
    error = EncodingsError("cannot read", [Problem("$", "bad")], source="a.json")
    for other in (pickle.loads(pickle.dumps(error)), copy.deepcopy(error)):
        assert type(other) is EncodingsError
        assert (str(other), other.problems, other.source) == (str(error), error.problems, error.source)
