from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from quantsim.cli.evaluate import float_model_of
from quantsim.sim import QuantizationSimModel

Run = Callable[..., Any]


@pytest.mark.parametrize("data", [("labelled", "--label", "1"), ("labelled_by_name",)])
def test_outputs_and_accuracy_against_floating_point(run: Run, code: Path, saved: Path, data: tuple[str, ...]) -> None:
    done = run("evaluate", saved, "-m", f"{code}:model", "-d", f"{code}:{data[0]}", *data[1:])
    assert (done.code, done.err) == (0, "")
    cells = [[cell.strip() for cell in line.strip("│").split("│")] for line in done.out.splitlines() if "│" in line]
    assert cells[0] == ["floating point", "1.0000", "", ""]  # the labels are its answers
    name, accuracy, sqnr, cosine = cells[1]
    assert name == "w8a8"
    assert 0.8 < float(accuracy) <= 1
    assert 30 < float(sqnr) < 60
    assert float(cosine) > 0.999


def test_json_holds_the_figures(run: Run, code: Path, saved: Path) -> None:
    done = run("evaluate", saved, "-m", f"{code}:model", "-d", f"{code}:batches", "--limit", "2", "--json")
    figures = json.loads(done.out)
    assert figures["config"] == "w8a8"
    assert figures["batches"] == 2
    assert figures["metric"] is None
    assert figures["sqnr_db"] > 30


def test_a_metric_of_the_users(run: Run, code: Path, saved: Path) -> None:
    data = ("-d", f"{code}:labelled", "--label", "1", "--metric", f"{code}:errors", "--json")
    figures = json.loads(run("evaluate", saved, "-m", f"{code}:model", *data).out)
    assert (figures["metric"], figures["float_score"]) == ("errors", 0)


def test_texts_with_labels(run: Run, saved_classifier: Path, tmp_path: Path) -> None:
    table = tmp_path / "reviews.jsonl"
    table.write_text('{"sentence": "alpha beta", "label": "good"}\n{"sentence": "delta", "label": "good"}\n')
    figures = json.loads(run("evaluate", saved_classifier, "-d", table, "--json").out)
    assert figures["metric"] == "accuracy"
    assert figures["float_score"] in (0, 0.5, 1)
    # As of the model itself.
    from quantsim.cli.data_source import read_data
    from quantsim.cli.saved_simulation import load_simulation

    found = load_simulation(saved_classifier, None)
    data = read_data(str(table), found.loaded)
    assert data.labels is not None
    with torch.no_grad():
        answers = found.sim(**data.batches[0]).logits.argmax(-1)
    assert figures["simulated_score"] == pytest.approx(float((answers == data.labels[0]).float().mean()))


def test_the_float_model_shares_parameters_and_leaves_the_simulation() -> None:
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    x = torch.linspace(-1, 1, 12).reshape(3, 4)
    sim = QuantizationSimModel(model, x, config="w8a8")
    sim.compute_encodings([x])
    expected = sim(x)
    reference = float_model_of(sim)
    assert torch.equal(reference(x), model(x))
    assert torch.equal(sim(x), expected)
    assert {id(p) for p in reference.parameters()} <= {id(p) for p in sim.model.parameters()}


@pytest.mark.parametrize(
    ("arguments", "code_of_exit", "words"),
    [
        (["{saved}", "-m", "{code}:model", "-d", "{code}:batches", "--device", "meta"], 1, "--device meta"),
        (["{saved}", "-m", "{code}:model"], 2, "--data"),
        (["-d", "{code}:batches"], 2, "'simulation'"),
        (["{saved}", "-d", "{code}:batches"], 1, "pass --model"),
        (["missing", "-d", "{code}:batches"], 1, "SIMULATION missing: no such folder"),
        (["{code}", "-d", "{code}:batches"], 1, "is a file"),
        (["{folder}", "-d", "{code}:batches"], 1, "holds no quantsim.json"),
        (["{saved}", "-m", "{code}:other_model", "-d", "{code}:batches"], 1, "got"),
        (["{saved}", "-m", "{code}:number", "-d", "{code}:batches"], 1, "--model"),
        (["{saved}", "-m", "{code}:model", "-d", "{code}:nothing"], 1, "no batch"),
        (["{saved}", "-m", "{code}:model", "-d", "{code}:wrong_width"], 1, "the model fails on batch 0"),
        (["{saved}", "-m", "{code}:model", "-d", "{code}:labelled"], 1, "the model fails on batch 0"),
        (["{saved}", "-m", "{code}:model", "-d", "{code}:labelled", "--label", "2"], 1, "tuple of 2"),
        (["{saved}", "-m", "{code}:model", "-d", "{code}:wrong_labels", "--label", "1"], 1, "expected 0 to 3"),
        (["{saved}", "-m", "{code}:model", "-d", "{code}:batches", "--metric", "accuracy"], 1, "holds no labels"),
        (["{saved}", "-m", "{code}:model", "-d", "{code}:batches", "--metric", "f1"], 1, "accuracy, mse, pearson"),
        (
            ["{saved}", "-m", "{code}:model", "-d", "{code}:labelled", "--label", "1", "--metric", "mse"],
            1,
            "outputs have shape (8, 4), labels (8,)",
        ),
        (
            ["{saved}", "-m", "{code}:model", "-d", "{code}:labelled", "--label", "1", "--metric", "{code}:words"],
            1,
            "the function failed: ValueError",
        ),
        (["{classifier}", "-d", "{table}", "--label", "nosuch"], 1, "it has text, label"),
        (["{classifier}", "-d", "{table}"], 1, "line 2: label 'so-so'"),
        (["{classifier}", "-d", "{table}", "--tokenizer", "missing"], 1, "--tokenizer missing"),
        (["{saved}", "-m", "{code}:model", "-d", "{table}"], 1, "no tokenizer"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    run: Run,
    code: Path,
    saved: Path,
    saved_classifier: Path,
    tmp_path: Path,
    arguments: list[str],
    code_of_exit: int,
    words: str,
) -> None:
    table, folder = tmp_path / "table.csv", tmp_path / "folder"
    table.write_text("text,label\nalpha,so-so\n")
    folder.mkdir()
    known = {"code": code, "saved": saved, "classifier": saved_classifier, "folder": folder, "table": table}
    done = run("evaluate", *(argument.format(**known) for argument in arguments))
    assert (done.code, done.out) == (code_of_exit, "")
    assert done.err.count("\n") == 1, done.err
    assert words in done.err
