"""Small models of every kind that the integer path takes, with example inputs; for tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

Example = tuple[nn.Module, tuple[Any, ...], dict[str, Any]]
"""A model in evaluation mode, and the arguments of one call."""


class ResidualNet(nn.Module):
    """Convolutions with batch norms (one scale negative), a residual sum, pooling: a classifier of small images."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 8, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.second_norm = nn.BatchNorm2d(8)
        self.relu = nn.ReLU()
        self.after_sum = nn.ReLU(inplace=True)
        self.pool = nn.MaxPool2d(2)
        self.classify = nn.Linear(8, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits of images of shape (N, 1, H, W)."""
        y = self.relu(self.first_norm(self.first(x)))
        y = self.after_sum(y + self.second_norm(self.second(y)))
        return self.classify(self.pool(y).mean((2, 3)))


class InvertedResidual(nn.Module):
    """A block of MobileNetV2."""

    def __init__(self, channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        wide = 4 * channels
        self.has_residual = stride == 1 and channels == out_channels
        self.layers = nn.Sequential(
            nn.Conv2d(channels, wide, 1, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False),
            nn.BatchNorm2d(wide),
            nn.ReLU6(),
            nn.Conv2d(wide, out_channels, 1, bias=False),
            nn.BatchNorm2d(out_channels),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images of shape (N, C, H, W)."""
        return x + self.layers(x) if self.has_residual else self.layers(x)


def _with_statistics(model: nn.Module, shape: tuple[int, ...]) -> nn.Module:
    for _ in range(4):
        model(torch.randn(shape))
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, -1.0, 1.0)
            nn.init.normal_(module.bias)
    return model.eval()


def residual_cnn() -> Example:
    """See `ResidualNet`."""
    return _with_statistics(ResidualNet(), (8, 1, 8, 8)), (torch.randn(2, 1, 8, 8),), {}


def mobilenet() -> Example:
    """Depthwise convolutions, ReLU6 and Hardswish."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, 2, 1),
        nn.BatchNorm2d(8),
        nn.Hardswish(),
        InvertedResidual(8, 8, 1),
        InvertedResidual(8, 16, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(),
        nn.Linear(16, 10),
    )
    return _with_statistics(model, (8, 3, 16, 16)), (torch.randn(2, 3, 16, 16),), {}


def vgg() -> Example:
    """Plain convolutions, two kinds of pooling, a wide classifier."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.ReLU(True),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, padding=1),
        nn.ReLU(True),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * 16, 32),
        nn.ReLU(True),
        nn.Linear(32, 10),
    )
    return model.eval(), (torch.randn(2, 3, 16, 16),), {}


def bert() -> Example:
    """One encoder layer, with padding."""
    transformers = _transformers()
    config = transformers.BertConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=4
    )
    return transformers.BertModel(config, add_pooling_layer=False).eval(), (), _tokens()


def roberta() -> Example:
    """One encoder layer whose positions depend on the tokens."""
    transformers = _transformers()
    config = transformers.RobertaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        max_position_embeddings=40,
    )
    return transformers.RobertaModel(config, add_pooling_layer=False).eval(), (), _tokens()


def llama() -> Example:
    """One decoder layer: RMSNorm, rotary positions, shared heads of keys, a gated feed-forward layer."""
    transformers = _transformers()
    config = transformers.LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    tokens = {"input_ids": torch.randint(0, 64, (2, 9)), "use_cache": False}
    return transformers.LlamaModel(config).eval(), (), tokens


def vit() -> Example:
    """One encoder layer on patches."""
    transformers = _transformers()
    config = transformers.ViTConfig(
        image_size=16,
        patch_size=4,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
    )
    return transformers.ViTModel(config, add_pooling_layer=False).eval(), (torch.randn(2, 3, 16, 16),), {}


def swin() -> Example:
    """A plain and a shifted block, whose windows have masks and relative position biases."""
    transformers = _transformers()
    config = transformers.SwinConfig(
        image_size=16, patch_size=2, embed_dim=16, depths=[2], num_heads=[2], window_size=4
    )
    return transformers.SwinModel(config, add_pooling_layer=False).eval(), (torch.randn(2, 3, 16, 16),), {}


MODELS: dict[str, Callable[[], Example]] = {
    made.__name__: made for made in (residual_cnn, mobilenet, vgg, bert, roberta, llama, vit, swin)
}


def example(name: str) -> Example:
    """A model by name, the same each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return MODELS[name]()


def _tokens() -> dict[str, Any]:
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, 5:] = 0
    return {"input_ids": torch.randint(2, 64, (2, 9)), "attention_mask": mask}


def _transformers() -> Any:
    import transformers

    return transformers
