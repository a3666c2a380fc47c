"""Whole models switched at once."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from quantsim.dualpath import QAttention, QBase, QBaseConv2d, QBaseLinear, dequantize, inference
from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.nn import compute_encodings


def network() -> tuple[nn.Sequential, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(
        QBaseConv2d(1, 8, 3, padding=1, wbit=8, abit=8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        QBaseConv2d(8, 8, 3, padding=1, groups=8, wbit=8, abit=8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        QBaseLinear(8 * 16, 10, wbit=8, abit=8),
    ).eval()
    return model, torch.randn(16, 1, 8, 8)


def calibrated() -> tuple[nn.Sequential, torch.Tensor]:
    model, x = network()
    with compute_encodings(model):
        model(x)
    return model, x


def test_a_network_runs_on_integers_from_layer_to_layer() -> None:
    model, x = calibrated()
    real = model(x).detach()
    kinds = []
    for module in model:
        module.register_forward_hook(lambda module, inputs, output: kinds.append(output.dtype))
    sums = inference(model)(x)
    assert set(kinds[:-1]) == {torch.uint8}
    assert sums.dtype == torch.int32
    found = dequantize(sums, model[-1].output_grid)
    assert float((found - real).norm() / real.norm()) < 0.01
    assert torch.equal(found.argmax(1), real.argmax(1))


def test_it_switches_back() -> None:
    model, x = calibrated()
    real = model(x)
    assert torch.equal(inference(inference(model), False)(x), real)


def test_modules_and_quantizers_in_other_modules_are_found() -> None:
    model = nn.ModuleDict({"attention": QAttention(8, 2, wbit=8, abit=8), "quantizer": QBase(8)})
    with compute_encodings(model):
        model["attention"](torch.randn(2, 3, 8))
    model["quantizer"].set_range(-1.0, 1.0)
    inference(model)
    assert not model["attention"].train_flag
    assert not model["attention"].qkv.train_flag
    assert model["quantizer"](torch.zeros(1)).dtype == torch.uint8


def test_a_failure_leaves_the_whole_model_as_it_was() -> None:
    model, x = calibrated()
    real = model(x)
    model[-1].wq = QBase(16, unsigned=False)
    model[-1].wq.set_range(-1.0, 1.0)
    with pytest.raises(ConfigurationError, match="8 bits at most"):
        inference(model)
    assert all(getattr(part, "train_flag", True) for part in model.modules())
    assert torch.equal(model[:-1](x), calibrated()[0][:-1](x))
    assert real.shape == (16, 10)
    with pytest.raises(NotCalibratedError):
        inference(network()[0])


def test_a_relu_behind_an_output_quantizer_with_a_zero_point_is_refused() -> None:
    model, x = network()
    model[0].yq = QBase(8)
    with compute_encodings(model):
        model(x)
    with pytest.raises(ConfigurationError, match="zero point"):
        inference(model)
    assert model[0].train_flag


def test_models_without_two_paths_are_pointed_to_the_integer_graph() -> None:
    with pytest.raises(ConfigurationError, match="to_integer"):
        inference(nn.Sequential(nn.Linear(2, 2)))


def test_codes_are_not_clipped_at_real_bounds() -> None:
    model, x = (
        nn.Sequential(QBaseLinear(4, 8, wbit=8, abit=8), nn.ReLU6(), QBaseLinear(8, 2, wbit=8, abit=8)),
        torch.randn(16, 4),
    )
    model[0].yq = model[2].aq
    with compute_encodings(model):
        model(x)
    with pytest.raises(ConfigurationError, match="ReLU6"):
        inference(model)
    assert model[0].train_flag
    assert model(x).is_floating_point()
