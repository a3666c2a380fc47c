"""Runs commands in this process, and writes the files that they read."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from quantsim.cli.main import main


@dataclass(frozen=True)
class Finished:
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture(autouse=True)
def _same_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What a test imports of its folder, and that it looks there, is forgotten after it."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Finished]:
    monkeypatch.setenv("COLUMNS", "160")

    def call(*arguments: str | Path) -> Finished:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        captured = capfd.readouterr()
        assert "Traceback" not in captured.err
        code = ended.value.code
        assert isinstance(code, int)
        return Finished(int(code), captured.out, captured.err)

    return call


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A Python file with models, data, and functions that go wrong."""
    path = tmp_path / "my_models.py"
    path.write_text(
        """
import torch
from torch import nn

def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))

def model_with_inputs():
    return model(), torch.zeros(1, 32)

def batches():
    generator = torch.Generator().manual_seed(1)
    return (torch.randn(8, 32, generator=generator) for _ in range(6))

def wrong_width():
    return [torch.zeros(1, 31)]

def nan():
    return [torch.full((2, 32), float("nan"))]

def nothing():
    return []

def number():
    return 3

def fails():
    raise ValueError("the disk is full\\nsecond line")

def labelled():
    reference = model()
    return [(x, reference(x).argmax(-1)) for x in batches()]

def labelled_by_name():
    return [{"input": x, "labels": y} for x, y in labelled()]

def wrong_labels():
    return [(x, y + 9) for x, y in labelled()]

def other_model():
    return nn.Sequential(nn.Linear(32, 15), nn.ReLU(), nn.Linear(15, 4))

def dictionary_of_text():
    return {"input": "text"}

def no_tensor():
    class Silent(nn.Module):
        def forward(self, x):
            return "nothing"
    return Silent(), torch.zeros(1, 32)

def errors(outputs, labels):
    return (outputs.argmax(-1) != labels).sum()

def words(outputs, labels):
    return "good"

not_a_function = 7
"""
    )
    return path


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a calibrated simulation of what ``model`` of `code` makes."""
    import torch
    from torch import nn

    from quantsim.cli.model_source import LoadedModel
    from quantsim.cli.saved_simulation import save_simulation
    from quantsim.sim import QuantizationSimModel

    folder = tmp_path_factory.mktemp("saved") / "simulation"
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4)).eval()
    sim = QuantizationSimModel(model, torch.zeros(1, 32), config="w8a8")
    sim.compute_encodings([torch.randn(64, 32, generator=torch.Generator().manual_seed(1))])
    save_simulation(sim, folder, LoadedModel(model, "Sequential"), {"model": "my.py:model"}, fold_weights=False)
    return folder


@pytest.fixture(scope="session")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT that tells two classes apart, with a tokenizer, in the form that transformers saves."""
    transformers = pytest.importorskip("transformers")
    import torch

    folder = tmp_path_factory.mktemp("classifier") / "tiny-classifier"
    folder.mkdir()
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "alpha", "beta", "gamma", "delta"]
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        id2label={0: "bad", 1: "good"},
        label2id={"bad": 0, "good": 1},
    )
    transformers.BertForSequenceClassification(config).save_pretrained(folder)
    transformers.BertTokenizerFast(vocab={word: number for number, word in enumerate(words)}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def saved_classifier(classifier: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a calibrated simulation of the classifier."""
    from quantsim.cli.data_source import read_data
    from quantsim.cli.model_source import load_model
    from quantsim.cli.saved_simulation import save_simulation
    from quantsim.sim import QuantizationSimModel

    folder = tmp_path_factory.mktemp("saved") / "classifier"
    texts = folder.with_name("texts.txt")
    texts.write_text("alpha beta gamma\ndelta\nbeta alpha delta gamma alpha\n")
    loaded = load_model(str(classifier))
    batches = read_data(str(texts), loaded).batches
    sim = QuantizationSimModel(loaded.model, batches[0], config="w8a8", in_place=True)
    sim.compute_encodings(batches)
    save_simulation(sim, folder, loaded, {"model": str(classifier)}, fold_weights=False)
    return folder
