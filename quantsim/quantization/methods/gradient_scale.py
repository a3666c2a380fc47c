"""Gradients of another size than the value's: what learned scales need beside weights."""

from __future__ import annotations

import math

from torch import Tensor

__all__ = ["scale_gradient", "step_gradient_factor"]


def scale_gradient(x: Tensor, factor: float) -> Tensor:
    """``x`` itself, whose gradient arrives multiplied by ``factor``.

    Args:
        x: Any floating-point tensor.
        factor: What the gradient is multiplied by.

    Example:
        >>> import torch
        >>> step = torch.tensor(0.3, requires_grad=True)
        >>> scaled = scale_gradient(step, 0.25)
        >>> scaled.backward()
        >>> bool(scaled == step), step.grad
        (True, tensor(0.2500))
    """
    if not x.requires_grad:
        return x
    constant = x.detach()
    # The difference is 0 in the forward, exactly, and carries the gradient.
    return constant + (x - constant) * factor


def step_gradient_factor(elements: int, steps: int, qmax: int) -> float:
    """Factor of the gradient of a step size, ``1 / sqrt(N * qmax)``, so that steps learn at the pace of weights.

    Esser et al. 2020, "Learned step size quantization", section 2.2.

    Args:
        elements: Elements of the tensor that is quantized.
        steps: Step sizes that they share; ``N`` is the quotient.
        qmax: Largest integer of the grid.

    Example:
        >>> step_gradient_factor(elements=7 * 100, steps=1, qmax=7)
        0.014285714285714285
    """
    shared = max(1, elements // max(1, steps))
    return 1.0 / math.sqrt(shared * max(1, qmax))
