from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import typer

import quantsim
from quantsim.cli.main import app, main
from quantsim.cli.outcome import CommandError, ExitCode, describe
from quantsim.errors import ConfigurationError

Run = Callable[..., Any]


def test_the_version(run: Run) -> None:
    done = run("--version")
    assert done.code == 0
    assert done.out.strip() == f"quantsim {quantsim.__version__}"


@pytest.mark.parametrize(
    "arguments", [["--help"], ["simulate", "--help"], ["encodings", "--help"], ["kernels", "list", "--help"]]
)
def test_help_is_there(run: Run, arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.code == 0
    assert "Usage" in done.out


def test_an_unknown_command_is_bad_input(run: Run) -> None:
    assert run("simulat").code == 2


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ZeroDivisionError(), ExitCode.BUG),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED),
        (typer.Abort(), ExitCode.INTERRUPTED),
        (CommandError("x"), ExitCode.FAILED),
    ],
)
def test_errors_become_exit_codes(error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(**_: object) -> None:
        raise error

    monkeypatch.setattr("quantsim.cli.main.app", fail)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == code


def test_only_errors_of_input_are_told_in_words() -> None:
    assert describe(ConfigurationError("no", where="here")) == "here: no"
    assert describe(FileNotFoundError(2, "No such file", "a.json")) == "a.json: No such file"
    assert describe(KeyError("bug")) is None
    assert app.info.name == "quantsim"
