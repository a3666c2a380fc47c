"""Files of every task, as GLUE, the hub and others write them."""

from __future__ import annotations

import json

import pytest

pytest.importorskip("transformers")

from quantsim.errors import ConfigurationError
from quantsim.experiments.glue import glue_task
from quantsim.experiments.glue.arguments import DataArguments
from quantsim.experiments.glue.datasets import Examples, TokenizedExamples, find_file, load_task_data, read_examples

# The first lines of GLUE's own files (their headings are as published, the sentences are not).
FILES = {
    "cola": ("gj04\t1\t\tIt rains.\ngj04\t0\t*\tRains it the.\n", (("It rains.", "Rains it the."),), (1, 0)),
    "sst2": ("sentence\tlabel\nnice \t1\ndull \t0\n", (("nice ", "dull "),), (1, 0)),
    "mrpc": (
        'Quality\t#1 ID\t#2 ID\t#1 String\t#2 String\n1\t7\t8\tHe said "no.\tHe said no.\n',
        (('He said "no.',), ("He said no.",)),
        (1,),
    ),
    "qqp": (
        "id\tqid1\tqid2\tquestion1\tquestion2\tis_duplicate\n4\t1\t2\tWho?\tWhy?\t0\n",
        (("Who?",), ("Why?",)),
        (0,),
    ),
    "stsb": (
        "index\tgenre\tsentence1\tsentence2\tscore\n0\tnews\tA.\tB.\t2.500\n",
        (("A.",), ("B.",)),
        (2.5,),
    ),
    "mnli": (
        "index\tsentence1\tsentence2\tlabel1\tgold_label\n0\tA.\tB.\tneutral\tcontradiction\n",
        (("A.",), ("B.",)),
        (2,),
    ),
    "qnli": ("index\tquestion\tsentence\tlabel\n0\tWho?\tHe.\tnot_entailment\n", (("Who?",), ("He.",)), (1,)),
    "rte": ("index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\tentailment\n", (("A.",), ("B.",)), (0,)),
    "wnli": ("index\tsentence1\tsentence2\tlabel\n0\tA.\tB.\t1\n", (("A.",), ("B.",)), (1,)),
}


@pytest.mark.parametrize("task", FILES)
def test_own_files_of_each_task(tmp_path, task):
    text, texts, labels = FILES[task]
    path = tmp_path / "dev.tsv"
    path.write_text(text)
    examples = read_examples(path, glue_task(task))
    assert (examples.texts, examples.labels) == (texts, labels)


HUB_ROWS = [{"idx": 0, "premise": 'A "b", c', "hypothesis": "D\ne", "label": 2}]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", 'idx,premise,hypothesis,label\n0,"A ""b"", c","D\ne",2\n'),
        ("a.json", json.dumps(HUB_ROWS)),
        ("b.json", json.dumps({"version": 1, "data": HUB_ROWS})),
        ("c.json", "\n".join(map(json.dumps, HUB_ROWS))),
        ("a.jsonl", json.dumps(HUB_ROWS[0]) + "\n\n"),
    ],
)
def test_columns_of_the_hub_in_every_kind_of_file(tmp_path, name, text):
    (tmp_path / name).write_text("\ufeff" + text, encoding="utf-8")
    examples = read_examples(tmp_path / name, glue_task("mnli"))
    assert (examples.texts, examples.labels) == ((('A "b", c',), ("D\ne",)), (2,))


def test_cola_with_a_heading(tmp_path):
    (tmp_path / "a.csv").write_text("sentence,label\nIt rains.,1\n")
    assert read_examples(tmp_path / "a.csv", glue_task("cola")).texts == (("It rains.",),)


@pytest.mark.parametrize(
    ("text", "task", "message"),
    [
        ("sentence\tlabel\n", "sst2", "the file has no examples"),
        ("", "sst2", "the file has no examples"),
        ("text\tlabel\na\t1\n", "sst2", "a column is missing; got the columns 'text', 'label'; expected 'sentence'"),
        ("sentence\tlabel\na\t2\n", "sst2", r"example 1: got the label '2'; expected one of 0 \(negative\)"),
        ("sentence\tlabel\na\t-1\n", "sst2", "test sets have no labels"),
        ("sentence1\tsentence2\tscore\na\tb\tnan\n", "stsb", "got the label 'nan'; expected a number"),
        ("sentence\tlabel\na\tb\t1\n", "sst2", "got 3 columns: .* expected 2: sentence, label"),
    ],
)
def test_what_is_wrong_in_a_file_is_said(tmp_path, text, task, message):
    (tmp_path / "a.tsv").write_text(text)
    with pytest.raises(ConfigurationError, match=message):
        read_examples(tmp_path / "a.tsv", glue_task(task))


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.json", b"{"), ("a.json", b"[1]"), ("a.json", b'[{"premise": 3}]'), ("a.tsv", b"\xff\xfe\x00")],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigurationError, match=name):
        read_examples(tmp_path / name, glue_task("mnli"))


def test_no_file_and_other_kinds_of_file(tmp_path):
    (tmp_path / "a.xlsx").write_bytes(b"")
    for name in ("none.tsv", "a.xlsx"):
        with pytest.raises(
            ConfigurationError, match=r"no such file of data; got .*; expected a file that ends in \.tsv"
        ):
            read_examples(tmp_path / name, glue_task("rte"))


def test_a_folder_of_tasks(tiny_data):
    found = load_task_data(
        glue_task("mnli"),
        DataArguments(data_dir=str(tiny_data), max_train_samples=5),
        needs_train=True,
        needs_validation=True,
    )
    assert found.train is not None and found.validation is not None and found.mismatched is not None
    assert (len(found.train), len(found.validation), len(found.mismatched)) == (5, 24, 24)
    assert found.validation.source.endswith("dev_matched.tsv")
    with pytest.raises(ConfigurationError, match="there is no folder for the task"):
        load_task_data(
            glue_task("rte"), DataArguments(data_dir=str(tiny_data)), needs_train=True, needs_validation=True
        )


def test_two_files_for_one_part_are_refused(tmp_path):
    (tmp_path / "dev.tsv").touch()
    (tmp_path / "dev.csv").touch()
    with pytest.raises(ConfigurationError, match=r"dev\.tsv and dev\.csv"):
        find_file(tmp_path, ("dev",))


def test_a_file_that_is_needed_but_not_named(tiny_data):
    only = DataArguments(validation_file=str(tiny_data / "cola" / "dev.tsv"))
    assert load_task_data(glue_task("cola"), only, needs_train=False, needs_validation=True).train is None
    with pytest.raises(ConfigurationError, match=r"--train_file: a file is missing.*calibrate"):
        load_task_data(glue_task("cola"), only, needs_train=True, needs_validation=True)


def test_without_files_and_package_the_way_out_is_said(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "datasets", None)
    with pytest.raises(ConfigurationError, match=r"no package 'datasets'.*pip install datasets; or give --train_file"):
        load_task_data(glue_task("rte"), DataArguments(), needs_train=True, needs_validation=True)


class _Rows(dict):
    def __len__(self):
        return len(self["label"])

    def select(self, rows):
        return _Rows({name: [values[row] for row in rows] for name, values in self.items()})


def test_the_data_set_of_the_hub(monkeypatch):
    asked = []

    class Package:
        @staticmethod
        def load_dataset(*path, split):
            asked.append((*path, split))
            return _Rows(premise=["a", "b"], hypothesis=["c", "d"], label=[1, 2])

    monkeypatch.setitem(__import__("sys").modules, "datasets", Package)
    found = load_task_data(
        glue_task("mnli"), DataArguments(max_eval_samples=1), needs_train=True, needs_validation=True
    )
    assert found.train == Examples((("a", "b"), ("c", "d")), (1, 2), "nyu-mll/glue, mnli, train")
    assert found.validation is not None and found.validation.labels == (1,)
    assert [split for *_, split in asked] == ["train", "validation_matched", "validation_mismatched"]

    def fails(*path, split):
        raise ConnectionError("no network")

    monkeypatch.setattr(Package, "load_dataset", staticmethod(fails))
    with pytest.raises(ConfigurationError, match=r"got ConnectionError: no network; .*--train_file"):
        load_task_data(glue_task("mnli"), DataArguments(), needs_train=True, needs_validation=True)


def test_own_classification(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nbuy,spam\nhello,ham\n")
    data = DataArguments(train_file=str(tmp_path / "a.csv"))
    found = load_task_data(None, data, needs_train=True, needs_validation=False)
    assert found.task.labels == ("ham", "spam")
    assert found.train is not None and found.train.labels == (1, 0)


def test_tokens_and_batches(tiny_roberta):
    from transformers import AutoTokenizer, DataCollatorWithPadding

    tokenizer = AutoTokenizer.from_pretrained(str(tiny_roberta))
    examples = Examples((("w1", "w1 w2 w3", "w4"),), (0, 1, 0), "here")
    tokens = TokenizedExamples(examples, tokenizer, max_length=4, labels=(1, 0))
    assert [len(tokens[row]["input_ids"]) for row in range(3)] == [3, 4, 3]
    assert [tokens[row]["label"] for row in range(3)] == [1, 0, 1]
    padded = TokenizedExamples(examples, tokenizer, max_length=6, pad=True)
    assert [len(padded[row]["input_ids"]) for row in range(3)] == [6, 6, 6]
    batches = tokens.batches(5, 2, DataCollatorWithPadding(tokenizer), 0)
    assert [len(batch["input_ids"]) for batch in batches] == [2, 1]
    assert all("labels" not in batch for batch in batches)
