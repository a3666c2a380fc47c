from __future__ import annotations

import pytest

from quantsim.cli.outcome import CommandError, ExitCode, describe, exit_code_of, first_line
from quantsim.errors import NotCalibratedError
from quantsim_encodings import EncodingsError, Problem


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (CommandError("no such file"), 1, "no such file"),
        (CommandError("cannot be read", ExitCode.USAGE), 2, "cannot be read"),
        (NotCalibratedError("no range", where="fc"), 1, "fc: no range"),
        (EncodingsError("cannot read", [Problem("$.a", "is missing")]), 1, "cannot read: 1 problem\n  $.a: is missing"),
        (PermissionError(13, "Permission denied", "a.json"), 1, "a.json: Permission denied"),
        (OSError("without a number"), 1, "without a number"),
        (KeyError("bug"), 70, None),
        (MemoryError(), 70, None),
    ],
)
def test_foreseen_errors_have_words_and_others_the_code_of_bugs(error: Exception, code: int, text: str | None) -> None:
    assert exit_code_of(error) == code
    assert describe(error) == text


def test_the_first_line_is_never_empty() -> None:
    assert first_line(ValueError("\n  one\ntwo")) == "one"
    assert first_line(ValueError("")) == "(no message)"
