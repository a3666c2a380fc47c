from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from torch import nn

from quantsim.cli.model_source import device_named, example_inputs, load_model
from quantsim.cli.outcome import CommandError


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


def test_a_file_without_function_and_a_file_of_weights_are_told_apart(tmp_path: Path, code: Path) -> None:
    with pytest.raises(CommandError, match="which function of the file"):
        load_model(str(code))
    with pytest.raises(CommandError, match="is a file; expected a Hugging Face model folder"):
        load_model(str(write(tmp_path / "model.safetensors", "")))


def test_a_folder_gives_the_class_that_was_saved(classifier: Path) -> None:
    loaded = load_model(str(classifier))
    assert type(loaded.model).__name__ == "BertForSequenceClassification"
    assert loaded.name == "tiny-classifier"
    assert loaded.tokenizer is not None


def test_a_folder_that_names_no_class_of_transformers(classifier: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(classifier, folder)
    settings = json.loads((folder / "config.json").read_text())
    for architectures in (["NoSuchModel"], ["__version__"], [], None, "text"):
        (folder / "config.json").write_text(json.dumps({**settings, "architectures": architectures}))
        assert type(load_model(str(folder)).model).__name__ == "BertModel"


@pytest.mark.parametrize("content", ["", "{", "[]", "3", '{"model_type": "nonesuch"}'])
def test_a_folder_with_a_broken_config(tmp_path: Path, content: str) -> None:
    pytest.importorskip("transformers")
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(CommandError, match=r"MODEL .*: transformers cannot load it: "):
        load_model(str(tmp_path))


def test_a_simulation_is_no_model_to_simulate(saved: Path, saved_classifier: Path) -> None:
    for folder in (saved, saved_classifier):
        with pytest.raises(CommandError, match="holds a simulation already"):
            load_model(str(folder))


def test_a_tokenizer_of_another_folder(classifier: Path, code: Path, tmp_path: Path) -> None:
    loaded = load_model(f"{code}:model", tokenizer=str(classifier))
    assert loaded.tokenizer(["alpha"])["input_ids"] == [[2, 5, 3]]
    for folder, words in (
        ("missing", "no such folder"),
        (str(code), "is a file"),
        (str(tmp_path / "empty"), "transformers cannot load it"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(CommandError, match=f"--tokenizer .*: {words}"):
            load_model(f"{code}:model", tokenizer=folder)


def test_what_to_run_a_model_on(code: Path, classifier: Path) -> None:
    with_inputs = load_model(f"{code}:model_with_inputs")
    assert example_inputs(with_inputs, [3]).shape == (1, 32)
    bare = load_model(f"{code}:model")
    assert example_inputs(bare, [3, 4]) == 3
    with pytest.raises(CommandError, match="needs an input to be run on: pass --data"):
        example_inputs(bare, None)
    texts = load_model(str(classifier))
    assert "input_ids" in example_inputs(texts, None)
    texts.tokenizer = None
    assert "input_ids" in example_inputs(texts, None)  # made by its config


@pytest.mark.parametrize("name", ["meta", "nonesuch", "cuda:99", "cpu:x", ""])
def test_devices_that_cannot_compute(name: str) -> None:
    with pytest.raises(CommandError, match=r"^--device .*; expected cpu, or a device of this machine$"):
        device_named(name)


def test_a_model_and_its_inputs_are_moved(code: Path) -> None:
    loaded = load_model(f"{code}:model_with_inputs", device=torch.device("meta"))
    assert all(parameter.is_meta for parameter in loaded.model.parameters())
    assert loaded.example_inputs.is_meta
    assert loaded.on_device({"x": [torch.zeros(1), 3]})["x"][0].is_meta
