"""Methods and masks from training to integers: simulations, modules with two paths, integer graphs, exports."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantsim.dualpath import QBaseConv2d, QBaseLinear, inference, to_integer
from quantsim.dualpath.integer_graph import IntegerOp
from quantsim.errors import ConfigurationError
from quantsim.experiments.demo.digits import DigitsCNN, DigitsData, digits_accuracy, load_digits, train_digits_cnn
from quantsim.nn import compute_encodings
from quantsim.nn.pruning_masks import pruning_mask
from quantsim.quantization import affine
from quantsim.quantization.methods import METHODS, LSQQuantizeDequantize, Method
from quantsim.recipes import GradualPruning, bake_rounding, learn_rounding, prune_n_of_m
from quantsim.sim import ActivationPlacement, IntegerSetting, QuantizationSimModel, SimulationConfig

pytest.importorskip("sklearn")

POINT = 0.01


@pytest.fixture(scope="module")
def data() -> DigitsData:
    return load_digits()


@pytest.fixture(scope="module")
def trained(data: DigitsData) -> DigitsCNN:
    return train_digits_cnn(data, epochs=12)


def config(weights: str, activations: str = "range", bits: int = 4) -> SimulationConfig:
    return SimulationConfig(
        weights=IntegerSetting.model_validate({"bits": bits, "granularity": "channel", "method": weights}),
        activations=IntegerSetting.model_validate({"bits": 8, "symmetric": False, "method": activations}),
        activation_placement=ActivationPlacement.OUTPUTS,
    )


def simulated(model: nn.Module, data: DigitsData, *methods: str, bits: int = 4) -> QuantizationSimModel:
    sim = QuantizationSimModel(copy.deepcopy(model), data.train_images[:8], config=config(*methods, bits=bits))
    sim.compute_encodings([data.train_images[:256]])
    return sim


def train(model: nn.Module, data: DigitsData, *, epochs: int, after: Any = None, rate: float = 2e-3) -> None:
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    steps = epochs * -(-len(data.train_images) // 32)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train_images), generator=generator).split(32):
            loss = nn.functional.cross_entropy(
                model(data.train_images[batch]), data.train_labels[batch], label_smoothing=0.1
            )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if after is not None:
                after()
    model.eval()


def test_digits_at_w4a8_after_lsq_training_are_within_a_point_in_fake_quantization_and_in_integers(
    trained: DigitsCNN, data: DigitsData
) -> None:
    float_accuracy = digits_accuracy(trained, data)[0]
    sim = simulated(trained, data, "lsq", "lsq")
    steps = [module for module in sim.model.modules() if isinstance(module, LSQQuantizeDequantize)]
    before = [quantizer.step.detach().clone() for quantizer in steps]
    train(sim.model, data, epochs=4)
    assert all(not torch.equal(old, quantizer.step) for old, quantizer in zip(before, steps, strict=True))
    accuracy = digits_accuracy(sim.model, data)[0]
    assert accuracy >= float_accuracy - POINT
    integer = to_integer(sim, data.test_images[:8])
    assert integer.coverage.integer_multiplications == integer.coverage.multiplications > 0
    weights = [node.constants["weight"] for node in integer.graph.nodes if "weight" in node.constants]
    assert weights
    assert all(int(weight.min()) >= -8 and int(weight.max()) <= 7 for weight in weights)
    assert digits_accuracy(integer, data)[0] >= float_accuracy - POINT


def test_training_with_lsq_recovers_what_two_bits_lose(trained: DigitsCNN, data: DigitsData) -> None:
    sim = simulated(trained, data, "lsq", "lsq", bits=2)
    before = digits_accuracy(sim.model, data)[0]
    train(sim.model, data, epochs=5)
    after = digits_accuracy(sim.model, data)[0]
    assert after > before
    assert after > 0.95


@pytest.mark.parametrize(
    "methods", [("sawb", "pact"), ("rcf", "rcf"), ("lsq", "qdrop"), ("range", "range")], ids="-".join
)
def test_other_methods_train_and_become_integers(
    methods: tuple[str, str], trained: DigitsCNN, data: DigitsData
) -> None:
    sim = simulated(trained, data, methods[0], "range" if methods[1] == "pact" else methods[1])
    if methods[1] == "pact":  # for what follows a ReLU
        for module in sim.model.modules():
            if isinstance(module, nn.ReLU):
                quantizer: Any = METHODS[Method.PACT](shape=(), bitwidth=8, symmetric=False)
                quantizer.set_range(0.0, 4.0)
                module.output_quantizers[0] = quantizer  # pyright: ignore[reportIndexIssue]
    train(sim.model, data, epochs=2)
    accuracy, fake = digits_accuracy(sim.model, data)
    assert accuracy > 0.96
    integer_accuracy, integers = digits_accuracy(to_integer(sim, data.test_images[:8]), data)
    assert integer_accuracy > accuracy - POINT
    assert float((fake - integers).abs().mean()) < 0.05 * float(fake.abs().mean())


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = QBaseConv2d(2, 6, 3, padding=1, wbit=4, abit=8)
        self.linear = QBaseLinear(6 * 25, 5, wbit=4, abit=8)
        self.between = nn.Sequential(self.conv, nn.ReLU(), nn.Flatten(), self.linear)

    def forward(self, x: Tensor) -> Tensor:
        return self.between(x)


@pytest.mark.parametrize("method", list(Method))
def test_modules_with_two_paths_take_every_method(method: Method) -> None:
    model: Any
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model, x = Layers(), torch.randn(32, 2, 5, 5)
    for layer in (model.conv, model.linear):
        shape = (layer.weight.shape[0],) + (1,) * (layer.weight.dim() - 1)
        layer.wq = METHODS[method](shape, bitwidth=4, symmetric=True)
        activation = METHODS[Method.RANGE if method in (Method.SAWB, Method.ADAROUND) else method]
        layer.aq = activation((), bitwidth=8, symmetric=method is Method.PACT or layer is model.conv)
    prune_n_of_m(model, select=lambda path, _: path == "linear")
    with compute_encodings(model):
        model(x)
    if method is Method.ADAROUND:
        learn_rounding(model, [x], iterations=20)
    model.eval()
    with torch.no_grad():
        fake = model(x)
        expected = {name: getattr(model, name).wq(getattr(model, name).weight) for name in ("conv", "linear")}
    inference(model)
    sums = model(x)
    assert sums.dtype == torch.int32
    for name, values in expected.items():  # the same rounding on both paths
        layer = getattr(model, name)
        scale = layer.wq.get_scale().detach()
        torch.testing.assert_close(layer.qweight * scale, values, rtol=1e-5, atol=1e-6)
    mask = pruning_mask(model.linear)
    assert mask is not None
    assert bool((model.linear.qweight[~mask] == 0).all())
    assert bool(model.linear.qweight.any())
    grid = model.linear.output_grid
    assert grid is not None
    real = sums.double() * torch.as_tensor(np.asarray(grid.scale))
    assert float((real - fake).abs().max()) < 0.05 * float(fake.abs().max())


def test_learned_roundings_are_those_of_the_integer_graph_and_of_onnx(
    trained: DigitsCNN, data: DigitsData, tmp_path: Path
) -> None:
    pytest.importorskip("onnx")
    from quantsim.export import export_onnx

    sim = simulated(trained, data, "adaround", bits=3)
    learn_rounding(sim.model, [data.train_images[:256]], iterations=60)
    with torch.no_grad():
        fake = sim.model(data.test_images[:64])
    integer = to_integer(sim, data.test_images[:8])
    near = affine.QuantizeDequantize.from_encodings(_weight_quantizer(sim).get_encodings())
    layer: Any = sim.model.get_submodule("classifier.3")
    scale, weight = near.get_scale(), layer._parameters["weight"]
    assert scale is not None
    assert weight is not None
    codes = torch.as_tensor(next(
        node.constants["weight"] for node in integer.graph.nodes if node.op is IntegerOp.LINEAR
        and node.constants["weight"].shape == (10, 24)
    ))  # fmt: skip
    with torch.no_grad():
        learned, nearest = _weight_quantizer(sim)(weight), near(weight)
    torch.testing.assert_close(codes * scale.detach(), learned, rtol=1e-5, atol=1e-6)
    assert not torch.equal(learned, nearest)
    with pytest.raises(ConfigurationError, match="bake_rounding"):
        export_onnx(sim, tmp_path / "refused.onnx", data.test_images[:2])
    bake_rounding(sim.model)
    with torch.no_grad():
        torch.testing.assert_close(sim.model(data.test_images[:64]), fake, rtol=1e-4, atol=1e-4)
    export_onnx(sim, tmp_path / "baked.onnx", data.test_images[:2])


def _weight_quantizer(sim: QuantizationSimModel) -> Any:
    layer: Any = sim.model.get_submodule("classifier.3")
    return layer.param_quantizers["weight"]


def test_masks_hold_in_training_integers_and_memory_images(
    trained: DigitsCNN, data: DigitsData, tmp_path: Path
) -> None:
    from quantsim.export import nn2chip

    model = copy.deepcopy(trained)
    prune_n_of_m(model, select=lambda path, _: path == "classifier.1")
    sim = simulated(model, data, "lsq", "lsq")
    pruning = GradualPruning(
        sim.model, 0.6, steps=60, every=10, select=lambda path, _: path in ("features.6", "classifier.3")
    )
    train(sim.model, data, epochs=3, after=pruning.step)
    assert digits_accuracy(sim.model, data)[0] > 0.95
    integer = to_integer(sim, data.test_images[:8])
    folder = nn2chip(integer, tmp_path / "chip", onnx=False)
    for graph in (integer.graph, folder.graph):
        weights = {
            node.constants["weight"].shape: node.constants["weight"]
            for node in graph.nodes
            if "weight" in node.constants
        }
        groups = (weights[24, 512] != 0).reshape(24, 128, 4).sum(-1)
        assert int(groups.max()) <= 2
        together = np.concatenate([weights[32, 16, 1, 1].ravel(), weights[10, 24].ravel()])
        assert float((together == 0).mean()) >= 0.6 - 0.002


def test_scales_of_each_token_are_kept_apart_and_belong_to_the_values() -> None:
    """A scale a token of V, dequantized before the product; batch and tokens do not mix."""
    generator = torch.Generator().manual_seed(0)
    probabilities = torch.randn(2, 3, 16, 16, generator=generator).softmax(-1)
    sizes = torch.logspace(-2, 2, 2 * 3 * 16).reshape(2, 3, 16, 1)
    values = torch.randn(2, 3, 16, 8, generator=generator) * sizes
    quantizer = affine.DynamicQuantizeDequantize(bitwidth=8, symmetric=True)
    exact = probabilities @ values
    assert float((probabilities @ quantizer(values) - exact).norm() / exact.norm()) < 0.01
    for sample in range(2):
        for head in range(3):
            assert torch.equal(quantizer(values)[sample, head], quantizer(values[sample, head]))


@pytest.mark.parametrize("method", list(Method))
def test_ranges_move_neither_in_evaluation_nor_frozen(method: Method) -> None:
    quantizer: Any = METHODS[method]((), bitwidth=4, symmetric=True)
    x = torch.randn(100, generator=torch.Generator().manual_seed(0))
    with quantizer.compute_encodings():
        quantizer(x)
    before = quantizer.get_scale().detach().clone()
    for state in (quantizer.eval, quantizer.freeze, quantizer.train):
        state()
        quantizer(9 * x)
        assert torch.equal(quantizer.get_scale(), before)


def test_loaded_encodings_leave_the_method(trained: DigitsCNN, data: DigitsData, tmp_path: Path) -> None:
    sim = simulated(trained, data, "lsq", "qdrop")
    sim.save_encodings(tmp_path / "encodings.json")
    other = QuantizationSimModel(copy.deepcopy(trained), data.train_images[:8], config=config("lsq", "qdrop"))
    other.load_encodings(tmp_path / "encodings.json")
    kinds = [{place: type(quantizer) for place, quantizer in each.quantizers()} for each in (sim, other)]
    assert kinds[0] == kinds[1]
    assert set(kinds[0].values()) == {METHODS[Method.LSQ], METHODS[Method.QDROP]}
    assert torch.equal(digits_accuracy(sim.model.eval(), data)[1], digits_accuracy(other.model.eval(), data)[1])
    assert any(values.requires_grad for name, values in other.model.named_parameters() if name.endswith("step"))
