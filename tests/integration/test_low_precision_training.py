"""Training with the float-precision layers, in float formats only: forward, recurrent state and gradients."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quantsim.experiments.demo.digits import DigitsData, digits_accuracy, load_digits
from quantsim.layers import (
    QuantizedBatchNorm2d,
    QuantizedConv2d,
    QuantizedGRU,
    QuantizedLinear,
    QuantizedLSTM,
    QuantizedMaxPool2d,
    QuantizedMultiheadAttention,
    QuantizedReLU,
    QuantizedRNN,
)

EIGHT_BITS: dict[str, Any] = {"format": "e4m3", "rmode": "stochastic", "gradient_format": "e5m2"}


def digits_network(channels: int) -> nn.Sequential:
    """A CNN of float-precision layers, each with noise of its own; 8 x 8 images to 10 logits."""
    seeds = iter(range(1000, 2000))

    def settings() -> dict[str, Any]:
        return {**EIGHT_BITS, "seed": next(seeds)}

    def stage(inputs: int, outputs: int, stride: int) -> list[nn.Module]:
        return [
            QuantizedConv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False, **settings()),
            QuantizedBatchNorm2d(outputs, **settings()),
            QuantizedReLU(**settings()),
        ]

    return nn.Sequential(
        *stage(1, channels, 1),
        *stage(channels, 2 * channels, 2),
        QuantizedMaxPool2d(2, **settings()),
        nn.Flatten(),
        QuantizedLinear(8 * channels, 10, **settings()),
    )


def train(model: nn.Module, data: DigitsData, *, epochs: int, batch_size: int = 64) -> float:
    """AdamW on float32 master weights; the held-out accuracy."""
    generator = torch.Generator().manual_seed(0)
    steps = epochs * -(-len(data.train_images) // batch_size)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(data.train_images), generator=generator).split(batch_size):
            loss = F.cross_entropy(model(data.train_images[batch]), data.train_labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    return digits_accuracy(model.eval(), data)[0]


def test_digits_train_in_eight_bits_with_stochastic_rounding() -> None:
    accuracy = train(digits_network(16), load_digits(), epochs=4)
    assert accuracy > 0.96


def test_all_tensors_of_that_network_are_on_eight_bit_grids() -> None:
    model, data = digits_network(4), load_digits()
    e4m3 = torch.tensor(
        [2.0**e * (1 + m / 8) for e in range(-6, 8) for m in range(8)] + [m * 2.0**-9 for m in range(8)]
    )
    e5m2 = torch.tensor(
        [2.0**e * (1 + m / 4) for e in range(-14, 16) for m in range(4)] + [m * 2.0**-16 for m in range(4)]
    )
    seen: list[Tensor] = []
    for module in model:
        for quantizer in getattr(module, "input_quantizers", []):
            quantizer.register_forward_hook(lambda module, args, result: seen.append(result))
    loss = F.cross_entropy(model(data.train_images[:16]), data.train_labels[:16])
    loss.backward()
    assert len(seen) == 8
    assert all(torch.isin(x.detach().abs(), e4m3).all() for x in seen)
    gradients = [parameter.grad for parameter in model.parameters()]
    assert all(gradient is not None and torch.isin(gradient.abs(), e5m2).all() for gradient in gradients)


SEQUENCE_LAYERS = {
    "RNN": lambda **settings: QuantizedRNN(8, 16, **settings),
    "LSTM": lambda **settings: QuantizedLSTM(8, 16, **settings),
    "GRU": lambda **settings: QuantizedGRU(8, 16, **settings),
    "MultiheadAttention": lambda **settings: QuantizedMultiheadAttention(8, 2, **settings),
}


class SequenceClassifier(nn.Module):
    """Says whether the first or the second half of a sequence has the larger sum."""

    def __init__(self, kind: str, **settings: Any) -> None:
        super().__init__()
        self.embed = QuantizedLinear(3, 8, **settings)
        self.mix = SEQUENCE_LAYERS[kind](**settings)
        self.head = QuantizedLinear(8 if kind == "MultiheadAttention" else 16, 2, **settings)
        self.is_attention = kind == "MultiheadAttention"

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        return self.head(self.mix(x, x, x)[0].mean(1) if self.is_attention else self.mix(x)[0][:, -1])


@pytest.mark.parametrize("kind", SEQUENCE_LAYERS)
def test_sequence_layers_learn(kind: str) -> None:
    torch.manual_seed(0)
    model = SequenceClassifier(kind, **EIGHT_BITS, seed=3)
    x = torch.randn(64, 6, 3)
    position = torch.cat((torch.ones(64, 3, 1), -torch.ones(64, 3, 1)), 1)
    x = torch.cat((x[..., :2], position), -1)
    labels = (x[:, :3, :2].sum((1, 2)) > x[:, 3:, :2].sum((1, 2))).long()
    before = copy.deepcopy(dict(model.named_parameters()))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(40):
        loss = F.cross_entropy(model(x), labels)
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert sum(losses[-5:]) / 5 < 0.8 * sum(losses[:5]) / 5
    assert all(not torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())


@pytest.mark.parametrize(
    "kind", ["LSTM", *(pytest.param(kind, marks=pytest.mark.slow) for kind in SEQUENCE_LAYERS if kind != "LSTM")]
)
def test_compiled_as_one_graph_they_compute_and_train_the_same(kind: str) -> None:
    torch._dynamo.reset()
    layer = SEQUENCE_LAYERS[kind](**EIGHT_BITS, seed=3)
    twin = copy.deepcopy(layer)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = torch.randn(4, 2, 8)
    operands = (x, x, x) if kind == "MultiheadAttention" else (x,)
    for _ in range(2):
        # torch.compile refuses all modules that derive from its recurrent ones unless it is told not to.
        with torch._dynamo.config.patch(allow_rnn=True):
            got, wanted = compiled(*operands)[0], twin(*operands)[0]
        assert torch.equal(got, wanted)
        got.square().sum().backward()
        wanted.square().sum().backward()
    for one, other in zip(layer.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad)


@pytest.mark.parametrize("kind", SEQUENCE_LAYERS)
def test_exported_they_compute_the_same(kind: str) -> None:
    model = SequenceClassifier(kind, exp_bits=4, sig_bits=3).eval()
    x = torch.randn(4, 2, 3)
    program = torch.export.export(model, (x,), strict=False)
    torch.testing.assert_close(program.module()(x), model(x))
