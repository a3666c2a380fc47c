"""Optical layers against their float32 selves: a linear layer in training and evaluation, attention, and a whole model.

Training counts everything: ranges that follow the data, the noise's seed, and a weight that changed since the last
step. mase-triton's op for the CPU stands beside the linear layer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import optical_peers
import torch
from harness import Comparison, Options
from models import minilm, minilm_inputs, optical_minilm
from torch import nn

from quantsim.optical import OtLinear
from quantsim.optical.attention import OpticalAttentionCore, ScaledDotProductAttention

FORWARD, FORWARD_BACKWARD, MODEL = 2.0, 1.5, 2.5


def changing(module: nn.Module, x: torch.Tensor) -> Callable[[], torch.Tensor]:
    """A forward with a graph, after the weight was written to, as an optimizer does."""
    weight = module.get_parameter("weight")

    def call() -> torch.Tensor:
        torch.autograd.graph.increment_version(weight)
        return module(x)

    return call


def step(module: nn.Module, x: torch.Tensor, gradient: torch.Tensor) -> Callable[[], object]:
    """Forward and backward to the input and all parameters, after the weight was written to."""
    leaf = x.clone().requires_grad_()
    wanted = [leaf, *module.parameters()]
    forward = changing(module, leaf)
    return lambda: torch.autograd.grad(forward(), wanted, gradient)


def evaluated(call: Callable[[], object]) -> Callable[[], object]:
    """The same without gradients."""

    def run() -> object:
        with torch.no_grad():
            return call()

    return run


def linears(options: Options) -> Iterator[Comparison]:
    """512 rows, 1024 to 1024."""
    generator = torch.Generator().manual_seed(0)
    rows = 64 if options.quick else 512
    x, gradient = torch.randn(2, rows, 1024, generator=generator)
    linear = nn.Linear(1024, 1024)
    training = OtLinear.from_linear(linear).train()
    frozen = OtLinear.from_linear(linear).train()
    frozen(x)
    frozen.eval()
    calls = {"nn.Linear": changing(linear, x), "quantsim": changing(training, x)}
    if options.peers:
        peer = optical_peers.mase_linear(linear, x)
        if peer is not None:
            calls["mase-triton"] = changing(peer, x)
    title = "linear 1024 to 1024, 512 rows"
    yield Comparison(
        title=f"{title}, training forward", baseline="nn.Linear", functions=calls, gates={"quantsim": FORWARD}
    )
    yield Comparison(
        title=f"{title}, forward + backward",
        baseline="nn.Linear",
        functions={"nn.Linear": step(linear, x, gradient), "quantsim": step(training, x, gradient)},
        gates={"quantsim": FORWARD_BACKWARD},
    )
    yield Comparison(
        title=f"{title}, evaluation",
        baseline="nn.Linear",
        functions={"nn.Linear": evaluated(lambda: linear(x)), "quantsim": evaluated(lambda: frozen(x))},
    )


def attentions(options: Options) -> Iterator[Comparison]:
    """12 heads of 32, as in MiniLM."""
    generator = torch.Generator().manual_seed(0)
    shape = (2 if options.quick else 32, 12, 128, 32)
    query, key, value = (torch.randn(shape, generator=generator) for _ in range(3))
    core = OpticalAttentionCore().train()
    core(query, key, value)
    core.eval()
    plain = ScaledDotProductAttention()
    yield Comparison(
        title="attention, 32 x 12 heads x 128 x 32, evaluation",
        baseline="step by step",
        functions={
            "step by step": evaluated(lambda: plain(query, key, value)),
            "torch's fused": evaluated(lambda: nn.functional.scaled_dot_product_attention(query, key, value)),
            "quantsim": evaluated(lambda: core(query, key, value)),
        },
    )


def models(options: Options) -> Iterator[Comparison]:
    """MiniLM with every linear layer and all attention on optics."""
    model = minilm()
    if model is None:
        return
    inputs = minilm_inputs(batch=4 if options.quick else 32, length=128)
    optical = optical_minilm(inputs)
    assert optical is not None
    yield Comparison(
        title="MiniLM 32 x 128, evaluation",
        baseline="float32",
        functions={
            "float32": evaluated(lambda: model(**inputs)),
            "quantsim": evaluated(lambda: optical(**inputs)),
        },
        gates={"quantsim": MODEL},
    )


def subject(options: Options) -> Iterator[Comparison]:
    """The layer, attention, the model."""
    yield from linears(options)
    yield from attentions(options)
    yield from models(options)
