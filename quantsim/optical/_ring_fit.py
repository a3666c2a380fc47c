"""The fit of rings to a trained linear layer: a start block by block, least squares, then gradient descent."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from quantsim_kernels.reference.squeezelight import (
    PASS_THROUGH_BITS,
    crosstalk_factor,
    differential_scale,
    operand_blocks,
    operand_weight,
    resonance_width,
    transmission,
)

if TYPE_CHECKING:
    from quantsim.optical.squeezelight import SqueezeLightLinear

__all__ = ["average_blocks", "circulant_blocks", "fit_rings", "sample_inputs"]

BATCH: Final = 64
"""Inputs of a step of gradient descent."""

LARGEST_FACTOR: Final = 0.95
"""Quantized balancing factors are hyperbolic tangents, which do not reach 1."""


def sample_inputs(linear: nn.Linear, samples: int, in_bit: int, seed: int = 0) -> Tensor:
    """Inputs for a layer of which none are known: uniform from 0 to 1 if quantized, else standard normal."""
    generator = torch.Generator().manual_seed(seed)
    shape = (samples, linear.in_features)
    draw = torch.rand if in_bit < PASS_THROUGH_BITS else torch.randn
    drawn = draw(shape, generator=generator, dtype=torch.float64)
    dtype = torch.float64 if linear.weight.dtype is torch.float64 else torch.float32
    return drawn.to(linear.weight.device, dtype)


def _blocks(matrix: Tensor, miniblock: int) -> Tensor:
    """A matrix cut into blocks, shape ``(P, k, Q, k)``, padded with zeros."""
    rows, columns = matrix.shape
    padded = functional.pad(matrix, (0, -columns % miniblock, 0, -rows % miniblock))
    return padded.unflatten(1, (-1, miniblock)).unflatten(0, (-1, miniblock))


def average_blocks(matrix: Tensor, miniblock: int) -> Tensor:
    """The mean of each row of each block, shape ``(P, Q, k)``: what the published conversion loads as weights."""
    return _blocks(matrix, miniblock).mean(3).transpose(1, 2)


def circulant_blocks(matrix: Tensor, miniblock: int) -> Tensor:
    """First columns of the circulant matrices nearest to each block, shape ``(P, Q, k)``.

    The mean of each diagonal that wraps around.
    """
    blocks = _blocks(matrix, miniblock)
    diagonals = [blocks[:, :, :, j].roll(-j, 1) for j in range(miniblock)]
    return torch.stack(diagonals).mean(0).transpose(1, 2)


def _mixing(count: int, blocks: int, w_bit: int, like: Tensor) -> Tensor:
    """The matrix that makes the factors of blocks from the trained ones, shape ``(blocks, count)``."""
    kept = torch.eye(count, dtype=like.dtype, device=like.device)
    if w_bit >= PASS_THROUGH_BITS:
        return torch.stack([differential_scale(row, blocks) for row in kept], 1)
    first = kept[:-1]
    if blocks == 1:
        return kept[-1:]
    return torch.cat([first if blocks % 2 == 0 else kept, -first])


def _start(rings: SqueezeLightLinear, linear: nn.Linear, inputs: Tensor) -> Tensor:
    """Weights of the rings, not negative, shape ``(P, Q, k)``, from the layer's nearest circulant blocks.

    The two blocks of a pair have factors of opposite sign, so one can only add and the other only subtract: each pair
    is poled in the way in which it keeps more of the layer.
    """
    target = circulant_blocks(linear.weight.detach().to(inputs.dtype), rings.miniblock)
    blocks = target.shape[1]
    half = blocks // 2
    signs = torch.ones(blocks, dtype=inputs.dtype, device=inputs.device)
    if half:
        added = target.clamp_min(0).square().sum((0, 2))
        taken = target.clamp_max(0).square().sum((0, 2))
        offset = blocks - half  # factors run [s, -h] with an odd number of blocks
        pole = torch.where(added[:half] + taken[offset:] >= taken[:half] + added[offset:], 1.0, -1.0)
        signs[:half], signs[offset:] = pole, -pole
    weights = (target * signs.reshape(1, -1, 1)).clamp_min(0)
    # The mean phase of a ring is put where its curve is steep, half a width from the resonance.
    power = operand_blocks(inputs, rings.miniblock, rings.in_bit).mean((0, 2)).clamp_min(1e-6)
    phase = (weights.sum(2) * power).mean().clamp_min(torch.finfo(inputs.dtype).tiny)
    factor = crosstalk_factor(rings.miniblock, rings.crosstalk, rings.drop)
    return weights * (resonance_width() / 2 / phase / factor)


def _store_weights(rings: SqueezeLightLinear, weights: Tensor) -> None:
    """Sets the trained weights so that the rings apply ``weights``."""
    if rings.w_bit >= PASS_THROUGH_BITS:
        rings.weight.copy_(weights)
        return
    # Levels run from 0 to 2 R: here R = 1/2, and the gain is the largest weight.
    largest = weights.max().clamp_min(torch.finfo(weights.dtype).tiny)
    rings.weight.copy_(torch.atanh((weights / largest - 0.5).clamp(-0.5, 0.5)))
    rings.weight_gain.copy_(largest)


def _fit_factors(rings: SqueezeLightLinear, linear: nn.Linear, inputs: Tensor, targets: Tensor) -> None:
    """Balancing factors and bias that are the least-squares solution for the present weights."""
    blocks, miniblock = rings.weight.shape[1:]
    factor = crosstalk_factor(miniblock, rings.crosstalk, rings.drop)
    operands = operand_weight(rings.weight, rings.w_bit, rings.weight_gain, factor)
    power = operand_blocks(inputs, miniblock, rings.in_bit).transpose(0, 1)  # (Q, n, k)
    columns = torch.stack([operands.roll(j, -1) for j in range(miniblock)])
    matrix = columns.permute(2, 0, 1, 3).flatten(2)[..., : rings.out_features]  # (Q, k, out)
    gram = inputs.new_zeros(blocks, blocks, dtype=torch.float64)
    right = inputs.new_zeros(blocks, dtype=torch.float64)
    step = max(1, 2**22 // (blocks * inputs.shape[0]))
    for start in range(0, rings.out_features, step):
        phase = torch.bmm(power, matrix[..., start : start + step])
        passed = transmission(phase, rings.attenuation, rings.coupling)
        part = targets[:, start : start + step]
        if rings.bias is not None:  # which takes what is constant
            passed = passed - passed.mean(1, keepdim=True)
            part = part - part.mean(0)
        features = passed.flatten(1)
        gram += features @ features.T
        right += features @ part.reshape(-1)
    mixing = _mixing(rings.scale.shape[0], blocks, rings.w_bit, gram)
    normal = mixing.T @ gram @ mixing
    # A ridge of a millionth: pairs of like blocks, and what no output depends on.
    ridge = normal.diagonal().mean().clamp_min(torch.finfo(torch.float64).tiny) * 1e-6
    normal.diagonal().add_(ridge)
    factors = torch.linalg.solve(normal, mixing.T @ right)
    if rings.w_bit < PASS_THROUGH_BITS:
        factors = torch.atanh(factors.clamp(-LARGEST_FACTOR, LARGEST_FACTOR))
    rings.scale.copy_(factors)
    if rings.bias is not None:
        rings.bias.zero_()
        rings.bias.copy_((targets - rings.transmit(inputs)).mean(0))


def fit_rings(rings: SqueezeLightLinear, linear: nn.Linear, inputs: Tensor, steps: int) -> None:
    """Sets the parameters of ``rings`` so that they compute as nearly as may be what ``linear`` does on ``inputs``.

    Descent is kept only where it lessens the error on a quarter of the inputs, on which it did not work. Phase noise is
    left out.

    Args:
        rings: the new layer, float32 or float64.
        linear: the trained layer.
        inputs: shape ``(n, in_features)``, in the dtype of ``rings``.
        steps: steps of gradient descent.
    """
    with torch.no_grad():
        targets = linear(inputs.to(linear.weight.dtype)).to(inputs.dtype)
        _store_weights(rings, _start(rings, linear, inputs))
        _fit_factors(rings, linear, inputs, targets)
    if steps:
        _descend(rings, inputs, targets, steps)


def _descend(rings: SqueezeLightLinear, inputs: Tensor, targets: Tensor, steps: int) -> None:
    """Adam with steps in proportion to what they change, on three quarters of the inputs and judged by the others."""
    names = [name for name, parameter in rings.named_parameters()]
    parameters = dict(rings.named_parameters())

    judged = max(1, inputs.shape[0] // 4)

    def error() -> Tensor:
        with torch.no_grad():
            return (rings.transmit(inputs[:judged]) - targets[:judged]).square().mean()

    before, saved = error(), {name: parameters[name].detach().clone() for name in names}
    spread = targets.std().clamp_min(torch.finfo(targets.dtype).tiny)
    sizes = {
        "weight": float(parameters["weight"].detach().abs().mean()) * 0.05,
        "scale": float(parameters["scale"].detach().std()) * 0.02,
        "bias": float(spread) * 0.01,
    }
    optimizer = torch.optim.Adam([{"params": [parameters[name]], "lr": sizes[name] + 1e-12} for name in names])
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=steps)
    rows = inputs.shape[0] - judged
    for step in range(steps):
        chosen = judged + torch.arange(step * BATCH, step * BATCH + min(BATCH, rows), device=inputs.device) % rows
        with torch.enable_grad():
            loss = ((rings.transmit(inputs[chosen]) - targets[chosen]) / spread).square().mean()
            gradients = torch.autograd.grad(loss, [parameters[name] for name in names])
        for name, gradient in zip(names, gradients, strict=True):
            parameters[name].grad = gradient
        optimizer.step()
        schedule.step()
    optimizer.zero_grad(set_to_none=True)
    if not bool(error() < before):
        with torch.no_grad():
            for name in names:
                parameters[name].copy_(saved[name])
