from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantsim.cli.data_source import Data, DataOptions, read_data
from quantsim.cli.model_source import LoadedModel
from quantsim.cli.outcome import CommandError


def read(source: str, *, limit: int = 4, tokenizer: object = None) -> list[object]:
    loaded = LoadedModel(nn.Identity(), "identity", tokenizer)
    return read_data(source, loaded, DataOptions(batch_size=2, max_tokens=8, limit=limit), option="--evaluate").batches


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


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


class _Pair(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1, dtype=torch.bfloat16))

    def forward(self, left: Tensor, right: Tensor) -> Tensor:
        return left @ right


class _NeedsLabels(nn.Module):
    def forward(self, x: Tensor, labels: Tensor) -> Tensor:
        return x


def texts_as_ids(*texts: list[str], **_: object) -> dict[str, Any]:
    return {"input_ids": list(zip(*texts, strict=True))}


def data_of(source: str | Path, model: nn.Module | None = None, **options: Any) -> Data:
    loaded = LoadedModel(model or nn.Identity(), "the model", texts_as_ids)
    return read_data(str(source), loaded, DataOptions(**options))


# ---------------------------------------------------------------- tables


@pytest.mark.parametrize("columns", [(), ("sentence",), ("0",)])
def test_a_table_gives_texts_and_labels(tmp_path: Path, columns: tuple[str, ...]) -> None:
    path = write(tmp_path / "a.csv", "sentence,label,id\none,1,a\ntwo,0,b\nthree,1,c\n")
    found = data_of(path, columns=columns, batch_size=2)
    assert found.batches == [{"input_ids": [("one",), ("two",)]}, {"input_ids": [("three",)]}]
    assert found.labels is not None
    assert [labels.tolist() for labels in found.labels] == [[1, 0], [1]]


def test_pairs_of_texts_and_a_label_column_by_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "x\ty\tscore\none\teins\t3.5\ntwo\tzwei\t4\n")
    found = data_of(path, columns=("x", "y"), label="score", limit=1)
    assert found.batches == [{"input_ids": [("one", "eins")]}]
    assert found.labels is not None
    assert found.labels[0].tolist() == [3.5]


def test_a_table_without_header_and_without_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "one,a\ntwo,b\n")
    found = data_of(path, columns=("0",), has_header=False)
    assert found == Data([{"input_ids": [("one",), ("two",)]}])


def test_labels_by_the_names_that_the_model_has_for_them(tmp_path: Path) -> None:
    model = nn.Identity()
    model.config = type("Config", (), {"label2id": {"bad": 0, "good": 1}})()  # pyright: ignore[reportArgumentType]
    path = write(tmp_path / "a.jsonl", '{"text": "x", "label": "good"}\n{"text": "y", "label": true}\n')
    found = data_of(path, model)
    assert found.labels is not None
    assert found.labels[0].tolist() == [1, 1]
    path = write(tmp_path / "a.jsonl", '{"text": "x", "label": "so-so"}\n')
    with pytest.raises(
        CommandError, match="line 1: label 'so-so' in column 'label'; expected numbers, or of bad, good"
    ):
        data_of(path, model)


@pytest.mark.parametrize(
    ("content", "options", "words"),
    [
        ("a,b\nx,y\n", {}, "which column holds the texts. Pass --column .* there are a, b"),
        ("label\n1\n", {}, "which column holds the texts"),
        ("a,b\nx,y\n", {"columns": ("c",)}, "--column c: --data .* has no such column; it has a, b"),
        ("a,b\nx,y\n", {"label": "c"}, "--label c: --data .* has no such column; it has a, b"),
        ("a,b\nx,y\n", {"label": "b"}, "line 2: label 'y' in column 'b'; expected numbers; pass --label"),
        ("a,b\nx,nan\n", {"label": "b"}, "label 'nan'"),
        ("a,b\nx,inf\n", {"label": "b"}, "label 'inf'"),
        ("a,b\nx,\n", {"label": "b"}, "label ''"),
        ("a,b\nx,1\n", {"label": "b", "columns": ("b",)}, "column 'b' cannot hold both the texts and the labels"),
        ("a;b\nx;1\n", {"label": "b"}, "it has a;b"),
    ],
)
def test_tables_that_do_not_fit(tmp_path: Path, content: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(CommandError, match=words):
        data_of(write(tmp_path / "a.csv", content), **options)


@pytest.mark.parametrize("value", [None, [1], {"a": 1}])
def test_labels_of_json_that_are_no_numbers(tmp_path: Path, value: object) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps({"text": "x", "label": value}))
    with pytest.raises(CommandError, match="line 1: label "):
        data_of(path)


def test_a_text_a_line_has_no_columns_and_no_labels(tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", "one\ntwo\n")
    with pytest.raises(CommandError, match=r"--column x: --data .* has no columns"):
        data_of(path, columns=("x",))
    with pytest.raises(CommandError, match=r"--label x: --data .* holds texts only"):
        data_of(path, label="x")


def test_texts_need_a_tokenizer(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "text\none\n")
    with pytest.raises(CommandError, match="model the model has no tokenizer for texts; pass --tokenizer"):
        read_data(str(path), LoadedModel(nn.Identity(), "the model"))


def test_a_folder_is_no_data(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"--data .*: is a folder; expected a file"):
        data_of(tmp_path)


# ---------------------------------------------------------------- arrays


def arrays(path: Path, **values: Any) -> Path:
    np.savez(path, **values)
    return path


def test_arrays_named_like_arguments(tmp_path: Path) -> None:
    path = arrays(tmp_path / "a.npz", right=np.ones((5, 2)), left=np.zeros((5, 2)), label=np.arange(5))
    found = data_of(path, _Pair(), batch_size=3)
    assert [sorted(batch) for batch in found.batches] == [["left", "right"]] * 2
    assert found.batches[1]["left"].shape == (2, 2)
    assert found.batches[1]["left"].dtype == torch.bfloat16  # that of the model
    assert found.labels is not None
    assert [labels.tolist() for labels in found.labels] == [[0, 1, 2], [3, 4]]


def test_arrays_of_other_names_go_by_their_order(tmp_path: Path) -> None:
    path = arrays(tmp_path / "a.npz", a=np.zeros(4), b=np.ones(4), c=np.arange(4.0))
    found = data_of(path, _Pair(), columns=("b", "a"), label="c", limit=3)
    [(first, second)] = found.batches
    assert (first.tolist(), second.tolist()) == ([1, 1, 1], [0, 0, 0])
    assert found.labels is not None
    assert found.labels[0].tolist() == [0, 1, 2]


def test_a_lone_array_is_the_input(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((3, 2), np.float64))
    [(batch,)] = data_of(tmp_path / "a.npy").batches
    assert (batch.shape, batch.dtype) == ((3, 2), torch.float32)


@pytest.mark.parametrize(
    ("values", "options", "words"),
    [
        ({"x": np.zeros(3), "y": np.zeros(3)}, {}, r"which arrays are the model's inputs.*\(left, right\).* x, y"),
        ({"x": np.zeros(3)}, {"columns": ("y",)}, "--column y: --data .* has no such array; it has x"),
        ({"x": np.zeros(3)}, {"label": "y"}, "--label y: --data .* has no such array; it has x"),
        ({"x": np.zeros(3)}, {"label": "x", "columns": ("x",)}, "array 'x' cannot hold both"),
        ({"x": np.zeros(3), "label": np.zeros(2)}, {}, "arrays have x 3, label 2 rows"),
        ({"x": np.zeros((0, 3))}, {}, "arrays have x 0 rows; expected the same number of rows, at least one"),
        ({"x": np.zeros(())}, {}, "array 'x' is a single number"),
        ({"x": np.array(["a"])}, {}, "array 'x' holds <U1; expected numbers"),
        ({"label": np.zeros(3)}, {}, "which arrays are the model's inputs"),
    ],
)
def test_arrays_that_do_not_fit(tmp_path: Path, values: dict[str, Any], options: dict[str, Any], words: str) -> None:
    with pytest.raises(CommandError, match=words):
        data_of(arrays(tmp_path / "a.npz", **values), _Pair(), **options)


# ---------------------------------------------------------------- code


def batches_of(tmp_path: Path, expression: str) -> str:
    number = len(list(tmp_path.iterdir()))
    file = write(tmp_path / f"batches_{number}.py", f"import torch\ndef data():\n    return {expression}\n")
    return f"{file}:data"


@pytest.mark.parametrize(
    ("batch", "label", "check"),
    [
        ("(torch.zeros(2), torch.ones(2))", "1", lambda batch: len(batch) == 1 and batch[0].tolist() == [0, 0]),
        ("[torch.ones(2), torch.zeros(2)]", "0", lambda batch: len(batch) == 1 and batch[0].tolist() == [0, 0]),
        ("(3, 4, torch.ones(2))", "-1", lambda batch: batch == (3, 4)),
        ("({'x': 3}, [1, 1])", "1", lambda batch: batch == {"x": 3}),
        ("{'x': 3, 'target': [1, 1]}", "target", lambda batch: batch == {"x": 3}),
        ("{'x': 3, 'labels': [1, 1]}", None, lambda batch: batch == {"x": 3}),
    ],
)
def test_labels_in_batches(tmp_path: Path, batch: str, label: str | None, check: Callable[[Any], bool]) -> None:
    found = data_of(batches_of(tmp_path, f"[{batch}]"), label=label)
    assert check(found.batches[0])
    assert found.labels is not None
    assert found.labels[0].tolist() == [1, 1]


def test_batches_without_labels_stay_as_they_are(tmp_path: Path) -> None:
    assert data_of(batches_of(tmp_path, "[(1, 2)]")) == Data([(1, 2)])
    needed = data_of(batches_of(tmp_path, "[{'x': 1, 'labels': 2}]"), _NeedsLabels())
    assert needed == Data([{"x": 1, "labels": 2}])


@pytest.mark.parametrize(
    ("batches", "options", "words"),
    [
        ("[{'x': 1}]", {"label": "y"}, "batch 0 has no 'y' for --label; it has x"),
        ("[(1, 2), (1,)]", {"label": "1"}, "batch 1 is a tuple of 1; expected --label with the position"),
        ("[(1, 2)]", {"label": "2"}, "batch 0 is a tuple of 2; .* got '2'"),
        ("[(1, 2)]", {"label": "y"}, "got 'y'"),
        ("[torch.zeros(2)]", {"label": "1"}, "batch 0 is Tensor; expected"),
        ("[(1, ['a'])]", {"label": "1"}, "batch 0: its labels are no numbers"),
        ("[1]", {"columns": ("x",)}, "--column x: --data .* has no columns"),
        ("3", {}, "returned int, expected an iterable"),
    ],
)
def test_batches_that_do_not_fit(tmp_path: Path, batches: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(CommandError, match=words):
        data_of(batches_of(tmp_path, batches), **options)


@pytest.mark.parametrize("value", [10**400, 2**63, -(2**63)])
def test_labels_that_no_integer_holds(tmp_path: Path, value: int) -> None:
    path = write(tmp_path / "a.jsonl", json.dumps({"text": "a", "label": value}))
    with pytest.raises(CommandError, match=r"line 1: label -?[0-9]+ in column 'label'; expected numbers"):
        data_of(path)


def test_a_label_that_is_nearly_a_position(tmp_path: Path) -> None:
    code = write(tmp_path / "pairs_of_data.py", "import torch\ndef f(): return [(torch.zeros(2, 1), torch.zeros(2))]\n")
    assert data_of(f"{code}:f", label="-1").labels is not None
    with pytest.raises(CommandError, match=r"expected --label with the position .*, got '--1'"):
        data_of(f"{code}:f", label="--1")
