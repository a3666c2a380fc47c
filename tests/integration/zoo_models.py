"""Models as people have them, small and with random weights, for `test_model_zoo`."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class ZooModel:
    """One model and what it is called with.

    Attributes:
        build: Makes the model; random weights from torch's generator.
        args: Positional arguments.
        kwargs: Keyword arguments.
        float_operations: Torch functions, by name, that stay in floating point under the preset ``w8a8``, with how
            often they are called. The preset rounds what a matrix engine reads, and nothing else.
        float_modules: Likewise ops of modules without a quantizer.
    """

    build: Callable[[], nn.Module]
    args: tuple[Tensor, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    float_operations: dict[str, int] = field(default_factory=dict)
    float_modules: dict[str, int] = field(default_factory=dict)

    def first_tensor(self, model: nn.Module | Callable[..., Any]) -> Tensor:
        """Calls a model without gradients and returns its first result."""
        with torch.no_grad():
            result = model(*self.args, **self.kwargs)
        return result if isinstance(result, Tensor) else result[0]


class LSTMClassifier(nn.Module):
    """Token numbers (batch, length) -> scores of 3 classes."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 16)
        self.lstm = nn.LSTM(16, 16, num_layers=2, batch_first=True, bidirectional=True)
        self.classifier = nn.Linear(32, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        outputs, (hidden, _) = self.lstm(self.embedding(tokens))
        return self.classifier(outputs.mean(dim=1) + torch.cat([hidden[-2], hidden[-1]], dim=-1))


class ConvolutionBlock(nn.Module):
    """Two convolutions with norm and ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.first_norm = nn.BatchNorm2d(outputs)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.second_norm = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.second_norm(self.second(F.relu(self.first_norm(self.first(x))))))


class UNet(nn.Module):
    """Images (batch, 3, height, width) -> maps of 2 classes: two levels with skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2, self.bottom = ConvolutionBlock(3, 8), ConvolutionBlock(8, 16), ConvolutionBlock(16, 32)
        self.up2, self.up1 = nn.ConvTranspose2d(32, 16, 2, stride=2), nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.join2, self.join1 = ConvolutionBlock(32, 16), ConvolutionBlock(16, 8)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        high = self.down1(x)
        middle = self.down2(F.max_pool2d(high, 2))
        low = self.bottom(F.max_pool2d(middle, 2))
        middle = self.join2(torch.cat([middle, self.up2(low)], dim=1))
        return self.head(self.join1(torch.cat([high, self.up1(middle)], dim=1)))


def _experts(count: int) -> nn.ModuleList:
    return nn.ModuleList(nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(count))


class DenseMixture(nn.Module):
    """Every expert sees every token (batch, 16); a gate weighs them."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 4)
        self.experts = _experts(4)

    def forward(self, x: Tensor) -> Tensor:
        weights = torch.softmax(self.gate(x), dim=-1)
        result = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            result = result + weights[..., index : index + 1] * expert(x)
        return result


class SparseMixture(nn.Module):
    """Each token (batch, 16) goes to two of eight experts; some experts may see none."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Linear(16, 8)
        self.experts = _experts(8)

    def forward(self, x: Tensor) -> Tensor:
        weights, chosen = torch.softmax(self.gate(x), dim=-1).topk(2, dim=-1)
        result = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            rows, places = torch.where(chosen == index)
            if len(rows):
                result = result.index_add(0, rows, expert(x[rows]) * weights[rows, places, None])
        return result


TOKENS = torch.arange(1, 15).reshape(2, 7) * 7 % 100
MASK = torch.tensor([[1] * 7, [1] * 5 + [0] * 2])
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}


def _of_transformers(name: str, **settings: Any) -> nn.Module:
    transformers = importlib.import_module("transformers")
    configuration = getattr(transformers, f"{name.removesuffix('ForCausalLM').removesuffix('Model')}Config")
    return getattr(transformers, name)(configuration(**SMALL, **settings))


class _Placeholders(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Stands in for torchvision: timm imports some names of it, and uses them for what is not asked of it here."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname.partition(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def exec_module(self, module: ModuleType) -> None:
        module.__dict__["__getattr__"] = _placeholder


def _placeholder(name: str) -> type:
    if name.startswith("_"):
        raise AttributeError(name)
    if name == "InterpolationMode":
        return StrEnum(name, "NEAREST NEAREST_EXACT BILINEAR BICUBIC BOX HAMMING LANCZOS")
    return type(name, (nn.Module,), {})


@contextmanager
def _torchvision_or_placeholders() -> Iterator[None]:
    if importlib.util.find_spec("torchvision") is not None:
        yield
        return
    finder = _Placeholders()
    sys.meta_path.append(finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # or others would take it for the real one


def _of_timm(name: str) -> nn.Module:
    with _torchvision_or_placeholders():
        timm = importlib.import_module("timm")
    return timm.create_model(name, num_classes=10)


def _normal(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


BERT_FLOATS = {
    "float_operations": {"add": 6, "gelu": 2, "softmax": 2},
    "float_modules": {"embedding": 3, "layer_norm": 5, "tanh": 1},
}

ZOO: dict[str, ZooModel] = {
    "bert": ZooModel(
        lambda: _of_transformers("BertModel", vocab_size=100),
        kwargs={"input_ids": TOKENS, "attention_mask": MASK},
        **BERT_FLOATS,
    ),
    "roberta": ZooModel(
        lambda: _of_transformers("RobertaModel", vocab_size=100, max_position_embeddings=40),
        kwargs={"input_ids": TOKENS, "attention_mask": MASK},
        **BERT_FLOATS,
    ),
    "llama": ZooModel(
        lambda: _of_transformers("LlamaForCausalLM", vocab_size=100, num_key_value_heads=2),
        kwargs={"input_ids": TOKENS, "use_cache": False},
        # add, mul and neg are rotary positions, residuals and gates
        float_operations={"add": 8, "mul": 10, "neg": 4, "silu": 2, "softmax": 2},
        float_modules={"embedding": 1, "rms_norm": 5},
    ),
    "mixtral": ZooModel(
        lambda: _of_transformers("MixtralForCausalLM", vocab_size=100, num_key_value_heads=2, num_local_experts=4),
        kwargs={"input_ids": TOKENS, "use_cache": False},
        # as Llama, and the routers' softmax, div and sum
        float_operations={"add": 8, "div": 2, "mul": 12, "neg": 4, "silu": 2, "softmax": 4, "sum": 4},
        float_modules={"embedding": 1, "rms_norm": 5},
    ),
    "vit": ZooModel(
        lambda: _of_transformers("ViTModel", image_size=32, patch_size=8),
        kwargs={"pixel_values": _normal(2, 3, 32, 32)},
        float_operations={"add": 5, "gelu": 2, "softmax": 2},
        float_modules={"layer_norm": 5, "tanh": 1},
    ),
    "resnet": ZooModel(
        lambda: _of_timm("resnet18"),
        (_normal(2, 3, 64, 64),),
        float_operations={"add": 8},
        float_modules={"adaptive_avg_pool2d": 1, "batch_norm": 20, "relu": 17},
    ),
    "mobilenet": ZooModel(
        lambda: _of_timm("mobilenetv3_small_050"),
        (_normal(2, 3, 64, 64),),
        # mean and mul are squeeze and excitation
        float_operations={"add": 7, "mean": 9, "mul": 9},
        float_modules={"adaptive_avg_pool2d": 1, "batch_norm": 34, "hardsigmoid": 9, "hardswish": 1, "relu": 9},
    ),
    "transformer": ZooModel(
        lambda: nn.Transformer(16, 2, 1, 1, 32, batch_first=True),
        (_normal(2, 5, 16), _normal(2, 4, 16)),
        float_modules={"layer_norm": 7, "softmax": 3},
    ),
    "lstm": ZooModel(
        LSTMClassifier, (TOKENS % 50,), float_operations={"add": 1, "mean": 1}, float_modules={"embedding": 1}
    ),
    "unet": ZooModel(UNet, (_normal(2, 3, 16, 16),), float_operations={"relu": 10}, float_modules={"batch_norm": 10}),
    "mixture": ZooModel(
        DenseMixture,
        (_normal(8, 16),),
        float_operations={"add": 4, "mul": 4, "softmax": 1},
        float_modules={"gelu": 4},
    ),
    "sparse_mixture": ZooModel(
        SparseMixture,
        (_normal(64, 16),),
        float_operations={"index_add": 8, "mul": 8, "softmax": 1},
        float_modules={"gelu": 8},
    ),
}
"""By name. `sparse_mixture` looks at its data to decide what to run, so that no compiler takes it in one piece."""
