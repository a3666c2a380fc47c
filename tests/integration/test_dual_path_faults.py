"""The eleven faults of the published dual-path code, by their numbers in the specification: none of them is here."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsim.dualpath import MulQuant, QBase, QBaseConv2d, QBaseLinear, dequantize, to_integer
from quantsim.errors import ConfigurationError
from quantsim.export import load_chip, nn2chip
from quantsim.nn import compute_encodings
from quantsim.quantization import affine
from quantsim.quantization.methods import AdaRoundQuantizeDequantize, LSQQuantizeDequantize
from quantsim.quantization.mx import MXQuantizeDequantize
from quantsim.quantization.softmax import UnnormalizedSoftmaxQuantizeDequantize
from quantsim.recipes import prune_n_of_m
from quantsim.sim import QuantizationSimModel, preset


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class ResidualNet(nn.Module):
    """Convolutions with norms, a residual sum, pooling, and a last linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = torch.relu(x + self.second(x))
        return self.head(F.max_pool2d(x, 2).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.out(F.scaled_dot_product_attention(q, k, v))


def integer_simulation(model: nn.Module, inputs: Tensor) -> QuantizationSimModel:
    sim = QuantizationSimModel(model.eval(), inputs, config="integer_w8a8")
    sim.compute_encodings([inputs])
    return sim


def test_1_integers_are_of_integer_types_and_sums_that_could_overflow_are_refused() -> None:
    quantizer = QBase(8)
    quantizer.set_range(0.0, 255.0)
    codes = quantizer.inference()(torch.tensor([200.0, 255.0]))
    assert codes.dtype is torch.uint8
    assert codes.tolist() == [200, 255]
    layer = QBaseLinear(70000, 1, bias=False, wbit=8)
    nn.init.uniform_(layer.weight, 0.9, 1.0)
    layer.aq = QBase(8)
    layer.aq.set_range(0.0, 1.0)
    with pytest.raises(ConfigurationError, match=r"2\^31"):
        layer.inference()


def test_2_whole_networks_convert_with_their_last_layer() -> None:
    torch.manual_seed(0)
    images = draw(16, 1, 8, 8)
    sim = integer_simulation(ResidualNet(), images)
    integer = to_integer(sim, images, strict=True)
    assert np.abs(integer.graph.nodes[-1].constants["weight"]).max() == 127
    with torch.no_grad():
        fake, found = sim(images), integer(images)
    assert float((found - fake).norm() / fake.norm()) < 0.02
    assert bool(found.abs().amax() > 0)


def test_3_requantisation_loses_neither_small_scales_nor_biases() -> None:
    generator = np.random.default_rng(0)
    sums, bias = generator.integers(-(2**20), 2**20, 2048), generator.integers(-(2**24), 2**24, 2048)
    rescaler = MulQuant(8, unsigned=False, scale=6.1e-6, bias=bias)
    codes = rescaler(torch.tensor(sums, dtype=torch.int32)).numpy()
    factor = Fraction(6.1e-6)
    exact = [min(max(round((int(a) + int(b)) * factor), -128), 127) for a, b in zip(sums, bias, strict=True)]
    assert int((codes != np.array(exact)).sum()) == 0


def test_4_a_zero_point_reaches_the_padding() -> None:
    layer = QBaseConv2d(3, 4, 3, padding=1, wbit=8, abit=8)
    layer.yq = QBase(8)
    x = draw(2, 3, 6, 6) + 1.0
    with compute_encodings(layer):
        layer(x)
    assert 0 < float(layer.aq.zero_point) < 255
    with torch.no_grad():
        real = layer(x)
    codes = layer.inference()(x)
    steps = (codes.float() - layer.yq.zero_point) - real / layer.yq.scale
    assert float(steps.abs().max()) <= 1.001  # the border too


def test_5_scales_of_tokens_stay_with_their_tokens() -> None:
    x = draw(2, 4, 8) * torch.logspace(-2, 2, 8).reshape(2, 4, 1)
    quantizer = affine.DynamicQuantizeDequantize(bitwidth=8, symmetric=True)
    for sample in range(2):
        for token in range(4):
            assert torch.equal(quantizer(x)[sample, token], quantizer(x[sample, token]))
    token_scales: Any = {"kind": "int", "bits": 8, "granularity": "token", "dynamic": True}
    values = {**preset("w8a8").model_dump(mode="json"), "second_factors": token_scales}
    with pytest.raises(ConfigurationError, match="sum over the rows"):  # V's scale a token cannot leave the product
        type(preset("w8a8")).parse(values)


@pytest.mark.parametrize("tokens", [17, 197, 512, 2048])
def test_6_softmax_in_8_bits_is_as_good_for_many_tokens(tokens: int) -> None:
    scores, values = draw(4, tokens), draw(tokens, 32, seed=1) + 1.0
    exact = scores.softmax(-1) @ values

    def error(probabilities: Tensor) -> float:
        return float((probabilities @ values - exact).norm() / exact.norm())

    assert error(UnnormalizedSoftmaxQuantizeDequantize(8)(scores.softmax(-1))) <= 0.015
    if tokens >= 512:
        assert error((scores.softmax(-1) * 255).round() / 255) > 0.1


def test_7_ranges_stand_still_outside_of_calibration() -> None:
    layer = QBaseLinear(4, 2, wbit=8, abit=8)
    with compute_encodings(layer):
        layer(draw(16, 4))
    before = {name: values.clone() for name, values in layer.state_dict().items() if "extra_state" not in name}
    for mode in (layer.train, layer.eval):
        mode()
        layer(100 * draw(16, 4, seed=1))
    layer.inference()(draw(16, 4))
    assert all(torch.equal(value, layer.state_dict()[name]) for name, value in before.items())


def test_8_learned_rounding_is_hard_on_both_paths_once_frozen() -> None:
    layer = QBaseLinear(8, 4, bias=False, abit=8)
    layer.wq = AdaRoundQuantizeDequantize(shape=(4, 1), bitwidth=4, symmetric=True)
    with compute_encodings(layer):
        layer(draw(16, 8))
    layer.wq.begin_rounding(layer.weight)
    assert layer.wq.alpha is not None
    layer.wq.alpha.data = draw(4, 8, seed=2)
    layer.train()
    soft = layer.wq(layer.weight).detach()
    layer.wq.freeze()
    hard = layer.wq(layer.weight).detach()
    scale = layer.wq.get_scale()
    assert scale is not None
    assert float((soft - hard).abs().max()) > 0.01
    torch.testing.assert_close(hard / scale, (hard / scale).round())
    layer.inference()
    assert torch.equal(layer.qweight.float() * scale, hard)


def test_9_the_exported_tensors_are_those_that_were_computed_with(tmp_path: Path) -> None:
    torch.manual_seed(0)
    x = draw(2, 197, 16)
    integer = to_integer(integer_simulation(Attention(), x), x, strict=True)
    nn2chip(integer, tmp_path / "chip", x, onnx=False)
    folder = load_chip(tmp_path / "chip")
    assert folder.verify().is_exact
    values = integer.run_integers(x)
    for name, vector in folder.vectors.items():
        np.testing.assert_array_equal(vector, values[name])
    product = next(node for node in integer.graph.nodes if node.op.value == "softmax_matmul")
    grid = integer.graph.values[product.output].grid
    assert grid is not None
    assert float(dequantize(torch.from_numpy(values[product.output]), grid).abs().max()) > 0  # 255 P would be all zeros


def test_10_gradient_factor_masks_and_block_axis() -> None:
    quantizer = LSQQuantizeDequantize(shape=(), bitwidth=4, symmetric=True)
    quantizer.set_range(-8.0, 7.0)
    quantizer(torch.full((100,), 20.0)).sum().backward()
    assert float(quantizer.step.grad) == pytest.approx(100 * 7 / (100 * 7) ** 0.5)  # pyright: ignore[reportArgumentType]

    layer = QBaseLinear(16, 4, wbit=8, abit=8)
    prune_n_of_m(layer)
    pruned = layer.weight == 0
    assert int(pruned.sum()) == 32
    with compute_encodings(layer):
        layer(draw(16, 16))
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.1)
    layer(draw(16, 16)).square().sum().backward()
    optimizer.step()
    with compute_encodings(layer):
        layer(draw(16, 16))
    assert bool((torch.as_tensor(layer.inference().qweight)[pruned] == 0).all())

    blocks = MXQuantizeDequantize("mxint8")
    x = torch.zeros(2, 64)
    x[0, :32], x[0, 32:] = draw(32), 1000 * draw(32, seed=1)
    y = blocks(x)
    assert torch.equal(y[1], torch.zeros(64))
    assert float((y[0, :32] - x[0, :32]).abs().max()) < 0.05  # its neighbours' large numbers are in another block


def test_11_the_search_for_a_range_has_the_sign_of_the_zero_point_right() -> None:
    x = draw(4096) + 3.0
    quantizer = LSQQuantizeDequantize(shape=(), bitwidth=8, symmetric=False)
    with quantizer.compute_encodings():
        quantizer(x)
    with torch.no_grad():
        assert float((quantizer(x) - x).square().mean()) < 1e-3
