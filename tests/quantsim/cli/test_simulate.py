from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import quantsim_encodings

Run = Callable[..., Any]


def rows(text: str) -> dict[str, list[str]]:
    """Cells of the printed table by first cell."""
    cells = [
        [cell.strip() for cell in line.strip("│").split("│")] for line in text.splitlines() if line.startswith("│")
    ]
    return {line[0]: line[1:] for line in cells}


def test_a_model_is_calibrated_compared_and_its_encodings_written(run: Run, code: Path, tmp_path: Path) -> None:
    out = tmp_path / "encodings"
    done = run("simulate", f"{code}:model", "-c", "w8a8", "-c", "w4a16_g32", "-d", f"{code}:batches", "-o", out)
    assert done.code == 0
    table = rows(done.out)
    assert set(table) == {"floating point", "w8a8", "w4a16_g32"}
    assert float(table["w8a8"][0]) > 30 > float(table["w4a16_g32"][0]) > 10
    assert float(table["w8a8"][1]) > 0.999
    assert table["w8a8"][3:] == ["4", "2 of 2"]
    assert "calibration data" in done.out
    files = {path.name: quantsim_encodings.read(path) for path in out.iterdir()}
    assert {name: len(document) for name, document in files.items()} == {
        "Sequential.w8a8.json": 4,
        "Sequential.w4a16_g32.json": 2,
    }


def test_other_data_may_be_used_for_the_comparison(run: Run, code: Path) -> None:
    done = run(
        "simulate", f"{code}:model", "-d", f"{code}:batches", "-e", f"{code}:batches", "--limit", "2", "--summary"
    )
    assert done.code == 0
    assert "evaluation data" in done.out
    assert "weight: int8/channel" in done.out


def test_run_time_scales_need_no_data(run: Run, code: Path) -> None:
    done = run("simulate", f"{code}:model_with_inputs", "-c", "w8a8_dynamic")
    assert done.code == 0
    assert "one example input" in done.out


def test_a_config_file_and_another_version(run: Run, code: Path, tmp_path: Path) -> None:
    config = tmp_path / "mine.json"
    config.write_text(json.dumps({"name": "mine", "weights": {"kind": "int", "bits": 6, "granularity": "channel"}}))
    done = run("simulate", f"{code}:model_with_inputs", "-c", config, "-o", tmp_path, "--encodings-version", "1.0.0")
    assert done.code == 0
    document = quantsim_encodings.read(tmp_path / "Sequential.mine.json")
    assert document.version == "1.0.0"
    assert [entry.name for entry in document] == ["0.weight", "2.weight"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["{code}:model", "-c", "w8a9"], ["'w8a9'", "did you mean"]),
        (["{code}:model", "-c", "none.yaml"], ["no such file", "none.yaml"]),
        (["{code}:model"], ["needs an input", "--data"]),
        (["{code}:model_with_inputs"], ["fixed ranges", "--data", "w8a8_dynamic"]),
        (["{code}:modell"], ["no function 'modell'", "model"]),
        (["{code}:not_a_function"], ["no function 'not_a_function'"]),
        (["{code}:number"], ["returned int", "torch.nn.Module"]),
        (["{code}:fails"], ["ValueError", "the disk is full"]),
        (["nowhere.py:model"], ["nowhere.py", "no such file"]),
        (["no.such.module:model"], ["importing", "ModuleNotFoundError"]),
        (["{folder}"], ["config.json", "Hugging Face"]),
        (["not understood"], ["not understood", "package.module:function"]),
        (["./missing/folder"], ["no such file or folder"]),
        (["{code}:model", "-d", "{code}:wrong_width"], ["the model fails on batch 0", "RuntimeError"]),
        (["{code}:model", "-d", "{code}:nan"], ["0.input_quantizers[0]", "NaN"]),
        (["{code}:model", "-d", "{code}:nothing"], ["no batch"]),
        (["{code}:model", "-d", "{code}:number"], ["returned int", "iterable"]),
        (["{code}:model", "-d", "{text}"], ["no tokenizer"]),
        (["{code}:model", "-d", "{code}:batches", "-o", "{text}"], ["is a file"]),
        (["{code}:model", "-d", "{code}:batches", "-o", "{folder}", "--encodings-version", "9"], ["'9'", "quantsim-1"]),
        (["{code}:model_with_inputs", "-c", "fp8_e4m3", "-o", "{folder}", "--encodings-version", "0.6.1"], ["cannot"]),
        (["{code}:model", "--limit", "0"], ["--limit"]),
        (["{code}:model", "--nonsense"], ["--nonsense"]),
        ([], ["Missing argument"]),
    ],
)
def test_what_cannot_be_used_is_said_in_words(
    run: Run, code: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("a line\n")
    folder = tmp_path / "folder"
    folder.mkdir()
    known = {"code": code, "text": text, "folder": folder}
    done = run("simulate", *(argument.format(**known) for argument in arguments))
    # 2 if the command line is wrong, 1 if what it names cannot be used.
    assert done.code == (2 if "--help'" in done.err else 1)
    said = " ".join(done.err.split())
    for word in words:
        assert word in said, said


@pytest.fixture(scope="module")
def hugging_face(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT with a tokenizer, in the form that transformers saves."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("tiny-bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "alpha", "beta", "gamma", "delta"]
    vocabulary = folder / "vocab.txt"
    vocabulary.write_text("\n".join(words))
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=64
    )
    transformers.BertModel(config).save_pretrained(folder)
    transformers.BertTokenizerFast(vocab_file=str(vocabulary)).save_pretrained(folder)
    return folder


def test_a_hugging_face_folder_and_a_text_file(run: Run, hugging_face: Path, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("alpha beta gamma\n\ndelta\nbeta alpha delta gamma alpha\n")
    done = run("simulate", hugging_face, "-d", texts, "--batch-size", "2", "-o", tmp_path)
    assert done.code == 0, done.err
    table = rows(done.out)
    assert float(table["w8a8"][0]) > 20
    assert table["w8a8"][4] == "9 of 9"
    assert "unquantized operation: softmax" in " ".join(done.out.split())
    assert (
        len(quantsim_encodings.read(tmp_path / f"{hugging_face.name}.w8a8.json")) == 18
    )  # 7 layers with two each, attention with four


def test_a_table_of_texts_for_a_model_of_code(run: Run, classifier: Path, tmp_path: Path) -> None:
    table = tmp_path / "reviews.tsv"
    table.write_text("1\talpha beta\n0\tdelta\n")
    file = tmp_path / "embeds.py"
    file.write_text(
        """
import torch
class Bag(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Embedding(9, 16)
        self.linear = torch.nn.Linear(16, 2)
    def forward(self, input_ids, **others):
        return self.linear(self.embedding(input_ids).mean(1))
def model():
    torch.manual_seed(0)
    return Bag()
"""
    )
    how = ("--no-header", "--column", "1", "--label", "0", "--tokenizer", classifier)
    done = run("simulate", f"{file}:model", "-d", table, *how)
    assert done.code == 0, done.err
    assert float(rows(done.out)["w8a8"][0]) > 20


def test_a_hugging_face_folder_alone(run: Run, hugging_face: Path) -> None:
    assert run("simulate", hugging_face, "-c", "w8a8_dynamic").code == 0


@pytest.mark.parametrize(("content", "word"), [(b"", "no text"), (b"\xff\xfe", "UTF-8")])
def test_a_text_file_without_texts(run: Run, hugging_face: Path, tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "t.txt"
    path.write_bytes(content)
    done = run("simulate", hugging_face, "-d", path)
    assert done.code == 1
    assert word in done.err


def test_a_broken_hugging_face_folder(run: Run, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "nonesuch"}')
    done = run("simulate", tmp_path)
    assert done.code == 1
    assert "transformers cannot load it" in done.err


def test_figures_are_shown_although_the_encodings_cannot_be_written(run: Run, code: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    configs = ("-c", "w8a8_dynamic", "-c", "w8a8")
    done = run(
        "simulate", f"{code}:model", *configs, "-d", f"{code}:batches", "-o", out, "--encodings-version", "0.6.1"
    )
    assert done.code == 1
    assert set(rows(done.out)) >= {"w8a8_dynamic", "w8a8"}
    assert "config 'w8a8_dynamic': no encodings written" in done.err
    assert [path.name for path in out.iterdir()] == ["Sequential.w8a8.json"]  # and nothing half written


def test_two_configs_of_one_name_would_overwrite_each_other(run: Run, code: Path) -> None:
    done = run("simulate", f"{code}:model_with_inputs", "-c", "fp8_e4m3", "-c", "fp8_e4m3")
    assert done.code == 2
    assert "--config" in done.err
    assert "fp8_e4m3" in done.err


def test_the_presets_are_listed(run: Run) -> None:
    from quantsim.sim import preset, preset_names

    done = run("simulate", "--list-presets")
    assert done.code == 0
    listed = {line.split()[0]: line for line in done.out.splitlines()[1:]}
    assert tuple(listed) == preset_names()
    for name, line in listed.items():
        config = preset(name)
        assert line.split()[1] == ("yes" if config.needs_data else "no")
        assert config.description in line


def test_block_formats_are_simulated_and_written(run: Run, code: Path, tmp_path: Path) -> None:
    configs = ["mxfp8", "mxfp4", "nvfp4", "bf16"]
    chosen = [argument for name in configs for argument in ("-c", name)]
    done = run("simulate", f"{code}:model_with_inputs", *chosen, "-o", tmp_path, "--summary")
    assert done.code == 0, done.err
    shown = rows(done.out)
    assert set(shown) >= set(configs)
    assert float(shown["bf16"][0]) > float(shown["mxfp8"][0]) > float(shown["mxfp4"][0])
    assert "mxfp8_e4m3/block of 32" in " ".join(done.out.split())
    for name in configs:
        document = quantsim_encodings.read(tmp_path / f"Sequential.{name}.json")
        assert len(document.entries) == 4


def test_the_table_fits_a_small_terminal(run: Run, code: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    done = run("simulate", f"{code}:model_with_inputs", "-c", "fp8_e4m3")
    assert set(rows(done.out)) >= {"floating point", "fp8_e4m3"}
    assert "…" not in done.out


def test_progress_is_shown_on_terminals_only(run: Run, code: Path) -> None:
    done = run("simulate", f"{code}:model", "-d", f"{code}:batches")
    assert done.err == ""
    assert "calibrating" not in done.out
    assert "\x1b" not in done.out


def test_the_command_is_installed_and_light() -> None:
    heavy = ("torch", "transformers", "triton")
    script = f"import sys; from quantsim.cli import app; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_names_are_no_markup(run: Run, code: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"name": "mine [/x]", "weights": {"kind": "int", "bits": 8}}))
    done = run("simulate", f"{code}:model", "--data", f"{code}:batches", "--config", config)
    assert done.code == 0, done.err
    assert "mine [/x]" in done.out
