from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from quantsim.cli.model_source import LoadedModel, load_model, read_batches
from quantsim.cli.outcome import CommandError


@pytest.fixture(autouse=True)
def _same_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports of its folder, and that it looks there, is forgotten after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


def read(source: str, *, limit: int = 4, tokenizer: object = None) -> list[object]:
    loaded = LoadedModel(nn.Identity(), "identity", tokenizer)
    return read_batches(source, loaded, batch_size=2, max_tokens=8, limit=limit, option="--evaluate")


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


def test_a_model_comes_in_evaluation_mode_with_its_inputs(code: Path) -> None:
    loaded = load_model(f"{code}:model_with_inputs")
    assert loaded.name == "Sequential"
    assert not loaded.model.training
    assert loaded.example_inputs.shape == (1, 32)
    assert load_model(f"{code}:model").example_inputs is None


def test_a_module_beside_the_user_is_found_by_name(code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(code.parent)
    assert isinstance(load_model("my_models:model").model, nn.Sequential)


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
    assert load_model(f"{file}:model").model.in_features == 5
    assert len(read(f"{file}:data")) == 1
    assert counter.read_text() == "x"


def test_files_of_one_name_and_names_of_libraries_do_not_meet(tmp_path: Path) -> None:
    one = write(tmp_path / "a" / "json.py", "import torch\ndef model():\n    return torch.nn.Linear(1, 1)\n")
    two = write(tmp_path / "b" / "json.py", "import torch\ndef model():\n    return torch.nn.Linear(2, 1)\n")
    assert [load_model(f"{file}:model").model.in_features for file in (one, two)] == [1, 2]
    assert hasattr(sys.modules["json"], "dumps")


def test_a_file_that_fails_is_tried_anew(tmp_path: Path) -> None:
    file = write(tmp_path / "half_written.py", "import no_such_library\n")
    with pytest.raises(CommandError, match="ModuleNotFoundError: No module named 'no_such_library'"):
        load_model(f"{file}:model")
    assert "half_written" not in sys.modules
    write(file, "import torch\n\ndef model():\n    return torch.nn.ReLU()\n")
    assert load_model(f"{file}:model").name == "ReLU"


def test_no_more_batches_are_made_than_wanted(tmp_path: Path) -> None:
    file = write(
        tmp_path / "endless.py",
        "import itertools, torch\ndef data():\n    return (torch.full((1,), float(n)) for n in itertools.count())\n",
    )
    torch.testing.assert_close(read(f"{file}:data", limit=3), [torch.full((1,), float(n)) for n in range(3)])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return torch.zeros(3, 4)", "returned Tensor, expected an iterable of batches; return a list of one"),
        ("return {'x': torch.zeros(1)}", "returned dict"),
        ("return 'texts'", "returned str"),
        ("return []", "no batch"),
        ("yield torch.zeros(1); raise OSError('no space left')", "making a batch failed: OSError: no space left"),
        ("raise SystemExit(2)", "the function failed: SystemExit: 2"),
    ],
)
def test_data_that_are_no_batches(tmp_path: Path, body: str, words: str) -> None:
    file = write(tmp_path / "wrong_data.py", f"import torch\ndef data():\n    {body}\n")
    with pytest.raises(CommandError, match=words) as caught:
        read(f"{file}:data")
    assert str(caught.value).startswith(f"--evaluate {file}:data: ")


def test_texts_come_in_batches_and_no_more_than_wanted(tmp_path: Path) -> None:
    def tokenizer(texts: list[str], **_: object) -> dict[str, object]:
        return {"input_ids": texts}

    texts = write(tmp_path / "texts.txt", "one\n\n two \nthree\nfour\n")
    assert read(str(texts), limit=3, tokenizer=tokenizer) == [{"input_ids": ["one", "two"]}, {"input_ids": ["three"]}]


def test_a_tokenizer_that_fails_is_named(tmp_path: Path) -> None:
    def tokenizer(texts: list[str], **_: object) -> dict[str, object]:
        raise ValueError("asked to pad without a padding token")

    with pytest.raises(CommandError, match="the tokenizer of identity fails: ValueError: asked to pad"):
        read(str(write(tmp_path / "texts.txt", "one\n")), tokenizer=tokenizer)


def test_a_file_without_function_and_a_file_of_weights_are_told_apart(tmp_path: Path, code: Path) -> None:
    with pytest.raises(CommandError, match="which function of the file"):
        load_model(str(code))
    with pytest.raises(CommandError, match="is a file; expected a Hugging Face model folder"):
        load_model(str(write(tmp_path / "model.safetensors", "")))
