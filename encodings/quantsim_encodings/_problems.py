"""Gathering of problems with their JSON paths, so that all are reported at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from quantsim_encodings.errors import EncodingsError, Problem

MAX_PROBLEMS: Final = 1000
"""Problems kept; a file with more is wrong in a way that more of them would not explain."""
MAX_SHOWN_CHARACTERS: Final = 60

_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,79}\Z")


def show(value: object) -> str:
    """A short ASCII picture of any value, for messages."""
    if isinstance(value, dict):
        return f"an object with {len(value)} keys"
    if isinstance(value, (list, tuple)):
        return f"an array of {len(value)} values"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 10**30:
        return "an integer beyond 10**30"
    text = json.dumps(value) if value is None or isinstance(value, (str, bool, int, float)) else type(value).__name__
    return text if len(text) <= MAX_SHOWN_CHARACTERS else text[: MAX_SHOWN_CHARACTERS - 3] + "..."


def child(path: str, key: str | int) -> str:
    """JSON path of an element of the value at ``path``.

    Example:
        >>> child(child("$.encodings", 3), "y_scale"), child("$", "/relu/out")
        ('$.encodings[3].y_scale', '$["/relu/out"]')
    """
    if isinstance(key, int):
        return f"{path}[{key}]"
    return f"{path}.{key}" if _IDENTIFIER.match(key) else f"{path}[{show(key)}]"


class ProblemCollector:
    """Collects up to ``MAX_PROBLEMS`` problems."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._dropped = 0

    def __bool__(self) -> bool:
        return bool(self.problems)

    def add(self, path: str, message: str) -> None:
        """Notes a problem."""
        if len(self.problems) < MAX_PROBLEMS:
            self.problems.append(Problem(path, message))
        else:
            self._dropped += 1

    @contextmanager
    def guard(self, path: str) -> Iterator[None]:
        """Notes what the constructors of formats and encodings raise in the block, as problems of ``path``."""
        try:
            yield
        except EncodingsError as error:
            for problem in error.problems or (Problem("$", error.summary),):
                field = problem.path.removeprefix("$").removeprefix(".")
                self.add(path, f"{field}: {problem.message}" if field else problem.message)
        except ValueError as error:
            self.add(path, str(error))

    def raise_if_any(self, summary: str, source: str | None = None) -> None:
        """Raises all that was noted.

        Raises:
            EncodingsError: If anything was.
        """
        if not self.problems:
            return
        problems = sorted(self.problems, key=_document_order)
        if self._dropped:
            problems.append(Problem("$", f"{self._dropped} more problems were found and are not listed"))
        raise EncodingsError(summary, problems, source=source)


def _document_order(problem: Problem) -> tuple[object, ...]:
    """Sorts [10] after [9]."""
    parts = re.split(r"\[(\d+)\]", problem.path)
    return tuple((part, 0) if index % 2 == 0 else ("", int(part)) for index, part in enumerate(parts))
