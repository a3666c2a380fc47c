"""Simulations whose graphs and encodings aimet-onnx reads, calibrated, each with its inputs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from quantsim.sim import QuantizationSimModel, SimulationConfig, preset

OPERANDS = preset("w8a8")
OUTPUTS = OPERANDS.model_copy(update={"activation_placement": "outputs"})


class Attention(nn.Module):
    """Tokens (batch, length, 32) with norm, four heads and a residual sum."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(32)
        self.query, self.key, self.value, self.out = (nn.Linear(32, 32) for _ in range(4))

    def forward(self, tokens: Tensor) -> Tensor:
        hidden = self.norm(tokens)
        heads = [layer(hidden).unflatten(-1, (4, 8)).transpose(1, 2) for layer in (self.query, self.key, self.value)]
        mixed = nn.functional.scaled_dot_product_attention(*heads).transpose(1, 2).flatten(-2)
        return tokens + self.out(mixed)


class Convolutions(nn.Module):
    """Images (batch, 3, height, width) -> 5 scores: norm, depthwise convolution, skip connection, pooling."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(16, 5)

    def forward(self, images: Tensor) -> Tensor:
        hidden = torch.relu(self.norm(self.first(images)))
        joined = torch.cat([hidden, torch.relu(self.depthwise(hidden))], dim=1)
        return self.head(joined.mean(dim=(2, 3)))


def _perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(32, 48), nn.ReLU(), nn.Linear(48, 10))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], SimulationConfig]] = {
    "perceptron": (_perceptron, (16, 32), OPERANDS),
    "perceptron_outputs": (_perceptron, (16, 32), OUTPUTS),
    "convolutions": (Convolutions, (2, 3, 8, 8), OPERANDS),
    "convolutions_outputs": (Convolutions, (2, 3, 8, 8), OUTPUTS),
    "attention": (Attention, (2, 6, 32), OPERANDS),
    "attention_outputs": (Attention, (2, 6, 32), OUTPUTS),
}
"""By name: what builds the model, the shape of its input, the config."""


def simulation(name: str) -> tuple[QuantizationSimModel, Tensor]:
    """A calibrated simulation and its input."""
    build, shape, config = MODELS[name]
    torch.manual_seed(0)
    model, inputs = build().eval(), torch.randn(shape)
    sim = QuantizationSimModel(model, inputs, config=config)
    sim.compute_encodings([inputs])
    return sim, inputs
