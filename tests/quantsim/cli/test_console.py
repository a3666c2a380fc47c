from __future__ import annotations

import io

import pytest
from rich.console import Console

from quantsim.cli.console import output_console, progress_bar, progress_console


def test_output_is_wide_where_it_goes_to_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    assert output_console().width == 120
    monkeypatch.setenv("COLUMNS", "60")
    assert output_console().width == 60


def test_progress_goes_to_standard_error(capfd: pytest.CaptureFixture[str]) -> None:
    progress_console().print("working")
    assert tuple(capfd.readouterr()) == ("", "working\n")


def test_the_bar_is_shown_on_terminals_only() -> None:
    for is_terminal in (True, False):
        file = io.StringIO()
        console = Console(file=file, force_terminal=is_terminal, width=60)
        with progress_bar(console, "counting", [1, 2, 3]) as numbers:
            assert list(numbers) == [1, 2, 3]
        assert ("counting" in file.getvalue()) == is_terminal


def test_a_title_is_no_markup() -> None:
    file = io.StringIO()
    with progress_bar(Console(file=file, force_terminal=True, width=60), "[/x] [bold]", [1]) as numbers:
        assert list(numbers) == [1]
    assert "[/x] [bold]" in file.getvalue()
