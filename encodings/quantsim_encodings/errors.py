"""The one exception of this package, which carries every problem found, each with its JSON path."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

__all__ = ["EncodingsError", "Problem"]

MAX_PROBLEMS_SHOWN: Final = 20


@dataclass(frozen=True)
class Problem:
    """One thing wrong with an encodings document.

    Args:
        path: JSON path of the value, such as ``$.encodings[3].y_scale[0]``; ``$`` is the whole document.
        message: What was got and what was expected.
    """

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}"


class EncodingsError(ValueError):
    """An encodings document that cannot be read, written, or converted without loss.

    Args:
        summary: What failed.
        problems: All that is wrong; the message shows the first 20, ``problems`` holds them all.
        source: Where the document came from (a path); shown in front of the summary.

    Example:
        >>> error = EncodingsError("cannot read encodings", [Problem("$.version", "got 3, expected a string")])
        >>> print(error)
        cannot read encodings: 1 problem
          $.version: got 3, expected a string
    """

    def __init__(self, summary: str, problems: Iterable[Problem] = (), *, source: str | None = None) -> None:
        self.summary = summary
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.source = source
        super().__init__(summary)

    def __str__(self) -> str:
        head = f"{self.source}: {self.summary}" if self.source else self.summary
        if not self.problems:
            return head
        count = len(self.problems)
        lines = [f"{head}: {count} problem{'' if count == 1 else 's'}"]
        lines += [f"  {problem}" for problem in self.problems[:MAX_PROBLEMS_SHOWN]]
        if count > MAX_PROBLEMS_SHOWN:
            lines.append(f"  ... and {count - MAX_PROBLEMS_SHOWN} more")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (type(self), self.summary, self.problems, self.source)


def _rebuild(
    cls: type[EncodingsError], summary: str, problems: tuple[Problem, ...], source: str | None
) -> EncodingsError:
    return cls(summary, problems, source=source)
