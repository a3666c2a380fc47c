"""The small network whose encodings the oracle and quantsim exchange (plain torch: both environments import this file).

One layer a granularity: ``channel`` per-channel weights, ``block`` block-wise, ``grouped`` LPBQ, ``tensor`` per
tensor, and a convolution first.
"""

from __future__ import annotations

import torch
from torch import nn


class OracleModel(nn.Module):
    """Images (N, 2, 4, 4) -> (N, 8): a convolution and four linear layers with ReLUs between."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(2, 4, 3, padding=1)
        self.convolution_relu = nn.ReLU()
        self.flatten = nn.Flatten()
        self.channel = nn.Linear(64, 16)
        self.channel_relu = nn.ReLU()
        self.block = nn.Linear(16, 16, bias=False)
        self.block_relu = nn.ReLU()
        self.grouped = nn.Linear(16, 16, bias=False)
        self.grouped_relu = nn.ReLU()
        self.tensor = nn.Linear(16, 8)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Run the five layers in order."""
        hidden = self.convolution_relu(self.convolution(images))
        hidden = self.channel_relu(self.channel(self.flatten(hidden)))
        hidden = self.block_relu(self.block(hidden))
        hidden = self.grouped_relu(self.grouped(hidden))
        return self.tensor(hidden)


ONNX_NAMES = {
    "images": ("convolution", "input", "0"),
    "convolution.weight": ("convolution", "param", "weight"),
    "convolution.bias": ("convolution", "param", "bias"),
    "/convolution_relu/Relu_output_0": ("convolution_relu", "output", "0"),
    "/flatten/Flatten_output_0": ("flatten", "output", "0"),
    "channel.weight": ("channel", "param", "weight"),
    "channel.bias": ("channel", "param", "bias"),
    "/channel_relu/Relu_output_0": ("channel_relu", "output", "0"),
    "block.weight_0": ("block", "param", "weight"),
    "/block_relu/Relu_output_0": ("block_relu", "output", "0"),
    "grouped.weight_0": ("grouped", "param", "weight"),
    "/grouped_relu/Relu_output_0": ("grouped_relu", "output", "0"),
    "tensor.weight": ("tensor", "param", "weight"),
    "tensor.bias": ("tensor", "param", "bias"),
    "scores": ("tensor", "output", "0"),
}
"""ONNX tensor name -> (module, role, key). ``block.weight_0`` and ``grouped.weight_0`` are the transposed weights of
layers without a bias, and ``flatten``'s output has no quantizer: the exporter hands it the encoding of its input."""

TRANSPOSED = ("block.weight_0", "grouped.weight_0")
"""The ONNX names whose tensor is the transpose of the module's parameter."""
