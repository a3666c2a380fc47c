from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]


def test_a_page_with_the_metric_that_suits(run: Run, code: Path, saved: Path, tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    data = ("-d", f"{code}:labelled", "--label", "1", "--title", "A title of mine")
    done = run("report", saved, "-m", f"{code}:model", *data, "-o", path)
    assert (done.code, done.err) == (0, "")
    assert "accuracy: floating point 1.0000, w8a8 " in done.out
    assert "SQNR " in done.out
    assert f"wrote {path}" in done.out
    page = path.read_text()
    assert "A title of mine" in page
    assert "accuracy" in page.lower()


def test_a_page_without_labels_and_without_sensitivity(run: Run, code: Path, saved: Path, tmp_path: Path) -> None:
    arguments = ("-d", f"{code}:batches", "--no-sensitivity", "-o", tmp_path / "a.html")
    done = run("report", saved, "-m", f"{code}:model", *arguments)
    assert done.code == 0, done.err
    assert "accuracy" not in done.out
    assert "most sensitive" not in done.out
    assert run("report", saved, "-m", f"{code}:model", *arguments).code == 1  # there already
    assert run("report", saved, "-m", f"{code}:model", *arguments, "--overwrite").code == 0


def test_a_metric_of_the_users(run: Run, code: Path, saved: Path, tmp_path: Path) -> None:
    data = ("-d", f"{code}:labelled", "--label", "1", "--metric", f"{code}:errors", "--no-sensitivity")
    done = run("report", saved, "-m", f"{code}:model", *data, "-o", tmp_path / "a.html")
    assert "errors: floating point 0.0000" in done.out


@pytest.mark.parametrize(
    ("arguments", "code_of_exit", "words"),
    [
        (["{saved}", "-m", "{code}:model", "-d", "{code}:batches", "--device", "meta"], 1, "--device meta"),
        (["{saved}", "-m", "{code}:model"], 2, "--data"),
        (["missing", "-d", "{code}:batches"], 1, "SIMULATION missing: no such folder"),
        (["{saved}", "-d", "{code}:batches"], 1, "pass --model"),
        (["{saved}", "-d", "{code}:batches", "-o", "page.pdf"], 1, "ends in .html"),
        (["{saved}", "-d", "{code}:batches", "-o", "{file}"], 1, "exists; choose another name"),
        (["{saved}", "-d", "{code}:batches", "-o", "{file}/a.html"], 1, "is a file"),
        (["{saved}", "-d", "{code}:batches", "--metric", "f1"], 1, "accuracy, mse, pearson"),
        (["{saved}", "-m", "{code}:model", "-d", "{code}:batches", "--metric", "accuracy"], 1, "holds no labels"),
        (["{saved}", "-m", "{code}:model", "-d", "{code}:nothing"], 1, "no batch"),
        (["{saved}", "-m", "{code}:model", "-d", "{code}:wrong_width"], 1, "mat1"),
        (["{saved}", "-m", "{code}:model", "-d", "{code}:wrong_labels", "--label", "1"], 1, "expected 0 to 3"),
        (["{saved}", "-m", "{code}:model", "-d", "missing.csv"], 1, "no such file"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(
    run: Run,
    code: Path,
    saved: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    code_of_exit: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "file.html"
    file.write_text("mine")
    known = {"code": code, "saved": saved, "file": file}
    done = run("report", *(argument.format(**known) for argument in arguments))
    assert (done.code, done.out) == (code_of_exit, "")
    assert done.err.count("\n") == 1, done.err
    assert words in done.err
    assert file.read_text() == "mine"
    assert [path.name for path in tmp_path.glob("*.html")] == ["file.html"]


def test_without_jinja2_it_says_what_to_install(
    run: Run, code: Path, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "jinja2", None)
    done = run("report", saved, "-m", f"{code}:model", "-d", f"{code}:batches", "-o", tmp_path / "a.html")
    assert done.code == 1
    assert "a report needs jinja2" in done.err
    assert "pip install 'quantsim[report]'" in done.err
