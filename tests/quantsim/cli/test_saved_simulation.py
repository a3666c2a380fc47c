from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from quantsim.cli.outcome import CommandError
from quantsim.cli.saved_simulation import (
    load_simulation,
    require_new_file,
    require_new_folder,
    require_simulation,
    require_writable,
    save_simulation,
)
from quantsim.errors import QuantsimError


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copied"
    shutil.copytree(saved, folder)
    return folder


def test_a_simulation_of_code_needs_its_code(saved: Path, code: Path) -> None:
    found = load_simulation(saved, f"{code}:model_with_inputs")
    assert found.loaded.name == "simulation"
    assert found.loaded.model is found.sim.model
    assert len(list(found.sim.quantizers())) == 4
    assert not found.sim.uncalibrated()
    assert found.example_inputs(None).shape == (1, 32)
    assert found.example_inputs([3]) == 3
    with pytest.raises(CommandError, match=r"pass --model .*; it was calibrated with my.py:model$"):
        load_simulation(saved, None)


def test_a_simulation_of_transformers_needs_nothing(saved_classifier: Path) -> None:
    found = load_simulation(saved_classifier, None)
    assert type(found.sim.model).__name__ == "BertForSequenceClassification"
    assert found.loaded.tokenizer(["alpha"])["input_ids"] == [[2, 5, 3]]
    with torch.no_grad():
        assert found.sim(**found.example_inputs(None)).logits.shape == (1, 2)


@pytest.mark.parametrize("record", ["", "[]", '{"model": 3}', '{"model": "a\\u001b[31mb"}'])
def test_the_record_is_only_a_hint(copied: Path, record: str) -> None:
    (copied / "calibration.json").write_text(record)
    with pytest.raises(CommandError, match=r"with the code that makes it$"):
        load_simulation(copied, None)
    (copied / "calibration.json").unlink()
    with pytest.raises(CommandError, match=r"with the code that makes it$"):
        load_simulation(copied, None)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ("{code}:other_model", "the model is not the one|does not fit"),
        ("{code}:number", "--model .*: the function returned int"),
        ("{code}:none", "--model .*: there is no function 'none'"),
        ("missing", "--model missing: not understood"),
    ],
)
def test_another_model(saved: Path, code: Path, model: str, words: str) -> None:
    with pytest.raises((CommandError, QuantsimError), match=words):
        load_simulation(saved, model.format(code=code))


@pytest.mark.parametrize("file", ["quantsim.json", "encodings.json", "model.safetensors"])
@pytest.mark.parametrize("content", [None, b"", b"{", b"[]", bytes(range(256))])
def test_broken_folders(copied: Path, code: Path, file: str, content: bytes | None) -> None:
    from quantsim.cli.outcome import describe

    (copied / file).unlink()
    if content is not None:
        (copied / file).write_bytes(content)
    with pytest.raises(Exception, match="copied") as caught:
        load_simulation(copied, f"{code}:model")
    assert describe(caught.value) is not None  # a message, no bug
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", ["", "[]", "{", '{"architectures": 3}', '{"architectures": ["BertModel"]}'])
def test_broken_settings_of_transformers(saved_classifier: Path, tmp_path: Path, content: str) -> None:
    from quantsim.cli.outcome import describe

    folder = tmp_path / "broken"
    shutil.copytree(saved_classifier, folder)
    (folder / "config.json").write_text(content)
    with pytest.raises(Exception, match=r".") as caught:
        load_simulation(folder, None)
    assert describe(caught.value) is not None


def test_folders_that_hold_no_simulation(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for name, words in (("file", "is a file"), ("none", "no such folder"), (".", "holds no quantsim.json")):
        with pytest.raises(CommandError, match=f"SIMULATION .*: {words}; expected .*'quantsim calibrate"):
            require_simulation(tmp_path / name)


def test_where_to_write(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    require_new_folder(tmp_path / "empty", "--output", overwrite=False)
    require_new_folder(tmp_path / "new" / "below", "--output", overwrite=False)
    require_new_folder(tmp_path, "--output", overwrite=True)
    require_new_file(tmp_path / "new" / "file", "--output", overwrite=False)
    require_new_file(tmp_path / "file", "--output", overwrite=True)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
    with pytest.raises(CommandError, match=r"--output .*: is not empty; .*--overwrite"):
        require_new_folder(tmp_path, "--output", overwrite=False)
    with pytest.raises(CommandError, match=r"--output .*: is a file; expected a folder"):
        require_new_folder(tmp_path / "file", "--output", overwrite=True)
    with pytest.raises(CommandError, match=r"--output .*/file is a file; expected a folder"):
        require_writable(tmp_path / "file" / "below" / "more", "--output")
    with pytest.raises(CommandError, match=r"--output .*: exists; .*--overwrite"):
        require_new_file(tmp_path / "file", "--output", overwrite=False)
    with pytest.raises(CommandError, match=r"--output .*: is a folder; expected the name of a file"):
        require_new_file(tmp_path / "empty", "--output", overwrite=True)


def test_what_was_done_is_noted(saved: Path) -> None:
    record = json.loads((saved / "calibration.json").read_text())
    assert record["model"] == "my.py:model"
    assert "quantsim" in record


def test_nothing_of_an_earlier_model_stays(saved: Path, saved_classifier: Path, code: Path, tmp_path: Path) -> None:
    folder = tmp_path / "reused"
    shutil.copytree(saved_classifier, folder)
    (folder / "notes.txt").write_text("mine")
    again = load_simulation(folder, None)
    save_simulation(again.sim, folder, again.loaded, {}, fold_weights=False)
    assert load_simulation(folder, None).loaded.tokenizer is not None
    found = load_simulation(saved, f"{code}:model")
    save_simulation(found.sim, folder, found.loaded, {}, fold_weights=False)
    names = {path.name for path in folder.iterdir()}
    assert names == {"notes.txt", *(path.name for path in saved.iterdir())}
    assert load_simulation(folder, f"{code}:model").loaded.tokenizer is None
