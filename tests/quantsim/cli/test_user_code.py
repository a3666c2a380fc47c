from __future__ import annotations

import sys
from pathlib import Path

import pytest

from quantsim.cli.outcome import CommandError
from quantsim.cli.user_code import call_factory, find_function, name_and_message


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_file_runs_once_and_sees_what_lies_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "width_of_layer.py", "WIDTH = 5\n")
    counter = tmp_path / "runs"
    file = write(
        tmp_path / "beside.py",
        f"""
import pathlib, torch, width_of_layer
with pathlib.Path({str(counter)!r}).open("a") as file:
    file.write("x")
def model():
    return torch.nn.Linear(width_of_layer.WIDTH, 1)
def data():
    return [torch.zeros(1, width_of_layer.WIDTH)]
""",
    )
    assert call_factory(f"{file}:model", "MODEL").in_features == 5
    assert len(call_factory(f"{file}:data", "--data")) == 1
    assert counter.read_text() == "x"


def test_files_of_one_name_and_names_of_libraries_do_not_meet(tmp_path: Path) -> None:
    one = write(tmp_path / "a" / "json.py", "import torch\ndef model():\n    return torch.nn.Linear(1, 1)\n")
    two = write(tmp_path / "b" / "json.py", "import torch\ndef model():\n    return torch.nn.Linear(2, 1)\n")
    assert [call_factory(f"{file}:model", "MODEL").in_features for file in (one, two)] == [1, 2]
    assert hasattr(sys.modules["json"], "dumps")


def test_a_file_that_fails_is_tried_anew(tmp_path: Path) -> None:
    file = write(tmp_path / "half_written.py", "import no_such_library\n")
    with pytest.raises(CommandError, match="ModuleNotFoundError: No module named 'no_such_library'"):
        call_factory(f"{file}:model", "MODEL")
    assert "half_written" not in sys.modules
    write(file, "import torch\n\ndef model():\n    return torch.nn.ReLU()\n")
    assert type(call_factory(f"{file}:model", "MODEL")).__name__ == "ReLU"


def test_a_module_beside_the_user_is_found_by_name(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(code.parent)
    assert call_factory("my_models:number", "MODEL") == 3
    assert find_function("my_models:errors", "--metric").__name__ == "errors"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("{code}", "which function of the file"),
        ("missing.csv", "no such file or folder"),
        ("folder/missing", "no such file or folder"),
        ("words", "not understood"),
        ("a:b c", "not understood"),
        (":model", "not understood"),
        ("math:", "not understood"),
        ("missing.py:model", "missing.py: no such file"),
        ("no.such:model", "importing it failed: ModuleNotFoundError"),
        ("..math:sqrt", "importing it failed: TypeError"),
        ("{code}:modell", "there is no function 'modell'; the module has "),
        ("{code}:not_a_function", "there is no function 'not_a_function'"),
        ("{code}:fails", "the function failed: ValueError: the disk is full$"),
        ("math:sqrt", "the function failed: TypeError"),
    ],
)
def test_what_cannot_be_called(code: Path, source: str, words: str) -> None:
    with pytest.raises(CommandError, match=words):
        call_factory(source.format(code=code), "--data")


def test_an_error_is_told_in_one_line() -> None:
    assert name_and_message(KeyError("a\nb")) == "KeyError: 'a\\nb'"
    assert name_and_message(ValueError()) == "ValueError: (no message)"
