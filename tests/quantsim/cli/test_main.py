from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
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
    "arguments",
    [
        ["--help"],
        *([name, "--help"] for name in ("simulate", "calibrate", "evaluate", "export", "report", "encodings")),
        ["kernels", "list", "--help"],
    ],
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


@pytest.mark.parametrize("group", [[], ["encodings"], ["kernels"]])
def test_a_group_without_command_shows_its_help_and_fails(run: Run, group: list[str]) -> None:
    done = run(*group)
    assert done.code == 2
    assert "Usage" in done.out
    assert "--help" in done.out


@pytest.mark.parametrize(
    "command_line",
    [
        "nosuch",
        "--nosuch",
        "encodings nosuch",
        "encodings validate",
        "encodings validate --nosuch a.json",
        "encodings convert",
        "encodings convert a.json",
        "encodings convert a.json b.json",
        "encodings convert a.json b.json --version",
        "encodings convert a.json b.json --version 9",
        "encodings convert a.json b.json --version 1.0.0 --allow everything",
        "encodings diff a.json",
        "encodings diff a.json b.json c.json",
        "encodings diff a.json b.json --tolerance wide",
        "kernels nosuch",
        "kernels list extra",
        "kernels list --op",
        "simulate",
        "simulate a b",
        "simulate a --batch-size many",
        "simulate a --max-tokens 0",
        "simulate a --limit -1",
        "simulate a --encodings-version 9",
        "simulate a --allow everything",
        "simulate a -c w8a8 -c w8a8",
        "calibrate",
        "calibrate a",
        "calibrate a -o b --limit 0",
        "calibrate a -o b --label y",
        "evaluate a",
        "export a -o b",
        "export a --to nothing -o b",
        "export a --to encodings -o b.json --strict",
        "report a",
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(run: Run, command_line: str) -> None:
    done = run(*command_line.split())
    assert done.code == 2
    assert done.out == ""
    assert done.err.count("\n") == 1, done.err
    assert done.err.startswith("error: ")
    assert "--help" in done.err


@pytest.mark.parametrize(
    "command_line",
    [
        "encodings validate missing.json",
        "encodings validate .",
        "encodings validate /dev/null",
        "encodings validate binary.bin",
        "encodings validate empty.json",
        "encodings convert missing.json out.json --version 1.0.0",
        "encodings convert binary.bin out.json --version 1.0.0",
        "encodings convert . out.json --version 1.0.0",
        "encodings diff missing.json empty.json",
        "encodings diff empty.json empty.json",
        "encodings diff . .",
        "kernels list --op nosuch",
        "simulate missing",
        "simulate .",
        "simulate empty.json",
        "simulate ./missing/folder",
        "simulate broken.py",
        "simulate broken.py:model",
        "simulate leaves.py:model",
        "simulate json:nosuch",
        "simulate json:dumps",
        "simulate os.path:getcwd",
        "simulate :model",
        "simulate json:",
        "simulate ..json:dumps",
        "simulate json:dumps -c nosuch",
        "simulate json:dumps -c missing.yaml",
        "simulate json:dumps -c empty.json",
        "simulate json:dumps -c binary.json",
        "simulate json:dumps -o empty.json",
        "simulate json:dumps -o empty.json/below",
        "calibrate json:dumps -o out",
        "calibrate leaves.py:model -o out",
        "calibrate json:dumps -o empty.json",
        "calibrate json:dumps -o out -c binary.json",
        "evaluate . -d binary.bin",
        "evaluate empty.json -d binary.bin",
        "export . --to onnx -o out",
        "export binary.bin --to program -o out.pt2",
        "report . -d binary.bin",
        "report missing -d binary.bin -o out.html",
    ],
)
def test_no_bad_input_gives_a_traceback(
    run: Run, command_line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "binary.bin").write_bytes(bytes(range(256)))
    (tmp_path / "binary.json").write_bytes(bytes(range(256)))
    (tmp_path / "empty.json").write_bytes(b"")
    (tmp_path / "broken.py").write_text("def model(:\n")
    (tmp_path / "leaves.py").write_text("import sys\nsys.exit(3)\n")
    before = sorted(path.name for path in tmp_path.iterdir())
    done = run(*command_line.split())  # looks for a traceback itself
    assert done.code == (2 if " diff " in command_line else 1)
    assert done.err.strip()
    assert "did not foresee" not in done.err
    assert sorted(path.name for path in tmp_path.iterdir() if path.name != "__pycache__") == before


@pytest.mark.parametrize("by_variable", [False, True])
def test_a_traceback_is_there_for_those_who_ask(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, by_variable: bool
) -> None:
    if by_variable:
        monkeypatch.setenv("QUANTSIM_TRACEBACK", "1")
    with pytest.raises(SystemExit) as ended:
        main([*([] if by_variable else ["--traceback"]), "encodings", "validate", "a", "--nosuch"])
    assert ended.value.code == ExitCode.USAGE
    assert "Traceback" not in capfd.readouterr().err  # the command line explains itself
    with pytest.raises(SystemExit) as ended:
        main([*([] if by_variable else ["--traceback"]), "kernels", "list", "--op", "nosuch"])
    assert ended.value.code == ExitCode.FAILED
    said = capfd.readouterr().err
    assert "Traceback" in said
    assert said.splitlines()[-1].startswith("error: there is no kernel for op 'nosuch'")


def test_what_was_not_foreseen_is_told_in_one_line(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("by zero\nsecond line")

    monkeypatch.setattr("quantsim_encodings.validate", fail)
    monkeypatch.setattr("quantsim.cli.encodings._require_file", lambda file: None)
    done = run("encodings", "validate", "a.json")
    assert done.code == ExitCode.BUG
    assert done.err.count("\n") == 1
    assert "ZeroDivisionError: by zero" in done.err
    assert "--traceback" in done.err


def test_the_installed_command_end_to_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "from quantsim.cli.main import main; main()"]
    done = subprocess.run([*command, "encodings", "validate", "a.json"], capture_output=True, text=True, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "a.json: no such file; expected an encodings file (JSON)\n"
