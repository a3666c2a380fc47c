"""Where commands print: results on standard output, progress on standard error and only on terminals."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["output_console", "progress_bar", "progress_console"]

_WIDTH_OF_FILE: Final = 120
"""Columns where standard output is no terminal, in which long module names still fit."""


def output_console() -> Console:
    """For what the command was asked for."""
    from rich.console import Console

    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Console(width=_WIDTH_OF_FILE)
    return console


def progress_console() -> Console:
    """For what goes on meanwhile; apart from the output, which may go to a file."""
    from rich.console import Console

    return Console(stderr=True)


@contextmanager
def progress_bar(console: Console, title: str, items: Sequence[Any]) -> Iterator[Iterable[Any]]:
    """The items, with a bar that shows how many have been taken.

    Example:
        >>> with progress_bar(progress_console(), "counting", [1, 2]) as numbers:
        ...     sum(numbers)
        3
    """
    from rich.markup import escape
    from rich.progress import Progress

    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        yield progress.track(items, description=escape(title))
