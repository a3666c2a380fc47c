"""Two networks and the hardware configs that their quantizers are placed by, in the oracle and here.

Functional operations are modules in both, which the oracle needs; their classes come from either package.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["HARDWARE", "Block", "Convolutional", "models"]


class Convolutional(nn.Module):
    """Fused groups, folded norms, depthwise convolutions, joined and moved tensors."""

    def __init__(self, functions: Any) -> None:
        super().__init__()
        self.conv1, self.norm1, self.relu1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.depthwise, self.norm2, self.clip = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU6()
        self.bare_depthwise, self.relu2 = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU()
        self.conv2, self.add, self.relu3, self.pool = nn.Conv2d(8, 8, 1), functions.Add(), nn.ReLU(), nn.MaxPool2d(2)
        self.conv3, self.sigmoid = nn.Conv2d(8, 8, 1), nn.Sigmoid()
        self.conv4, self.leaky = nn.Conv2d(8, 8, 1), nn.LeakyReLU()
        self.join, self.norm3, self.relu4 = functions.Concat(1), nn.BatchNorm2d(16), nn.ReLU()
        self.up, self.pad = nn.ConvTranspose2d(16, 6, 2, stride=2), nn.ZeroPad2d(1)
        self.mean, self.flatten, self.dropout = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout()
        self.fc1, self.relu5, self.fc2, self.gelu = nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 5), nn.GELU()
        self.fc3, self.softmax = nn.Linear(5, 4), nn.Softmax(-1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.norm1(self.conv1(x)))
        y = self.relu2(self.bare_depthwise(self.clip(self.norm2(self.depthwise(x)))))
        x = self.pool(self.relu3(self.add(x, self.conv2(y))))
        x = self.relu4(self.norm3(self.join(self.sigmoid(self.conv3(x)), self.leaky(self.conv4(x)))))
        x = self.dropout(self.flatten(self.mean(self.pad(self.up(x)))))
        return self.softmax(self.fc3(self.gelu(self.fc2(self.relu5(self.fc1(x))))))


class Block(nn.Module):
    """One transformer block with a mask that is an input."""

    def __init__(self, functions: Any) -> None:
        super().__init__()
        self.embedding, self.norm1 = nn.Embedding(11, 8), nn.LayerNorm(8)
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        self.transpose, self.scores, self.mask = functions.Permute(), functions.MatMul(), functions.Add()
        self.softmax, self.mix, self.out, self.add1 = (
            nn.Softmax(-1),
            functions.MatMul(),
            nn.Linear(8, 8),
            functions.Add(),
        )
        self.norm2, self.up, self.gelu, self.down = nn.LayerNorm(8), nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8)
        self.add2, self.tanh, self.head = functions.Add(), nn.Tanh(), nn.Linear(8, 3)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embedding(ids)
        y = self.norm1(x)
        scores = self.scores(self.query(y), self.transpose(self.key(y), [0, 2, 1]))
        x = self.add1(x, self.out(self.mix(self.softmax(self.mask(scores, mask)), self.value(y))))
        return self.head(self.tanh(self.add2(x, self.down(self.gelu(self.up(self.norm2(x)))))))


def models(functions: Any) -> dict[str, tuple[nn.Module, tuple[Tensor, ...]]]:
    """The networks with example inputs, by name.

    Args:
        functions: Where the classes ``Add``, ``Concat``, ``MatMul`` and ``Permute`` are.
    """
    return {
        "convolutional": (Convolutional(functions).eval(), (torch.ones(1, 3, 8, 8),)),
        "block": (Block(functions).eval(), (torch.ones(2, 5, dtype=torch.long), torch.zeros(2, 5, 5))),
    }


def _hardware(**changes: Any) -> dict[str, Any]:
    return {
        "defaults": {
            "ops": {"is_output_quantized": "True"},
            "params": {"is_quantized": "True", "is_symmetric": "True"},
            "per_channel_quantization": "False",
        },
        "params": {"bias": {"is_quantized": "False"}},
        "op_type": {},
        "supergroups": [],
        "model_input": {"is_input_quantized": "True"},
        "model_output": {},
        **changes,
    }


_GROUPS = [
    {"op_list": list(ops)}
    for ops in (("Conv", "Relu"), ("Conv", "Clip"), ("Conv", "LeakyRelu"), ("Add", "Relu"), ("Gemm", "Relu"))
]
_KNOWN = {
    name: {"encoding_constraints": {"min": low, "max": high}}
    for name, low, high in (("Sigmoid", 0.0, 1.0), ("Softmax", 0.0, 1.0), ("Tanh", -1.0, 1.0))
}
_PER_CHANNEL = {name: {"per_channel_quantization": "True"} for name in ("Conv", "ConvTranspose", "Gemm")}
_DEFAULTS = _hardware()["defaults"]

HARDWARE: dict[str, dict[str, Any]] = {
    "plain": _hardware(),
    "groups": _hardware(supergroups=_GROUPS, supergroup_pass_list=["MatmulAdd"]),
    "per_channel": _hardware(op_type=_PER_CHANNEL, supergroups=_GROUPS),
    "early": _hardware(
        defaults={**_DEFAULTS, "hw_version": "V66"},
        op_type={"Gather": {"is_output_quantized": "False"}, **_KNOWN, "Relu": {"encoding_constraints": {"min": 0.0}}},
        supergroups=_GROUPS[:3],
    ),
    "late": _hardware(
        defaults={**_DEFAULTS, "hw_version": "V79"},
        op_type={**_PER_CHANNEL, **_KNOWN, "LayerNormalization": {"params": {"weight": {"is_symmetric": "False"}}}},
        supergroups=_GROUPS,
    ),
    "symmetric": _hardware(
        defaults={**_DEFAULTS, "ops": {"is_output_quantized": "True", "is_symmetric": "True"}},
        op_type={"BatchNormalization": {"params": {"weight": {"is_quantized": "False"}}}},
        supergroups=[*_GROUPS, {"op_list": ["Gemm", "Gelu"]}, {"op_list": ["Conv", "Sigmoid"]}],
        model_output={"is_output_quantized": "True"},
    ),
    "no_inputs": _hardware(
        defaults={"ops": {"is_output_quantized": "True"}, "params": {"is_quantized": "True"}},
        params={},
        op_type={"Tanh": {"is_output_quantized": "False"}},
        model_input={},
    ),
}
"""Hardware configs in the form of AIMET's files, by name."""
