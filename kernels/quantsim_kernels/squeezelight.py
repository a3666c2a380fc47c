"""SqueezeLight's linear layer of microring resonators, with gradients, on the best kernel for the operands.

The numbers are defined in :mod:`quantsim_kernels.reference.squeezelight`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from quantsim_kernels.random_seeds import next_seed, seed_tensor
from quantsim_kernels.reference import squeezelight as reference
from quantsim_kernels.registry import Backend, Scheme, registry
from quantsim_kernels.torch import squeezelight as fast

__all__ = ["check_rings", "squeezelight_linear"]

LINEAR = "squeezelight_linear"


def _check_number(name: str, value: object, low: float, high: float | None) -> None:
    number = float(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else float("nan")
    if not low <= number < float("inf") or (high is not None and number > high):
        expected = f"a number from {low:g} to {high:g}" if high is not None else f"a finite number from {low:g}"
        raise ValueError(f"{name}: got {value!r}, expected {expected}")


def _check_bits(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 32:
        raise ValueError(
            f"{name}: got {value!r}, expected an integer from 1 to 32; "
            f"from {reference.PASS_THROUGH_BITS} on nothing is quantized"
        )


def check_rings(
    w_bit: int, in_bit: int, crosstalk: float, drop: float, phase_noise: float, attenuation: float, coupling: float
) -> None:
    """Raises a ValueError that names the first of these settings which is impossible."""
    _check_bits("w_bit", w_bit)
    _check_bits("in_bit", in_bit)
    _check_number("crosstalk", crosstalk, 0.0, 1.0)
    _check_number("drop", drop, 0.0, 1.0)
    _check_number("phase_noise", phase_noise, 0.0, None)
    for name, value in (("attenuation", attenuation), ("coupling", coupling)):
        _check_number(name, value, 0.0, 1.0)
        if value in (0.0, 1.0):
            raise ValueError(f"{name}: got {value!r}, expected a number between 0 and 1, neither of them")


def _check_tensors(x: Tensor, weight: Tensor, scale: Tensor, bias: Tensor | None, out_features: int) -> None:
    for name, tensor in (("x", x), ("weight", weight), ("scale", scale), ("bias", bias)):
        if tensor is not None and (not isinstance(tensor, Tensor) or not tensor.is_floating_point()):
            got = f"a {tensor.dtype} tensor" if isinstance(tensor, Tensor) else type(tensor).__name__
            raise TypeError(f"squeezelight_linear({name}): got {got}, expected a floating-point tensor")
    if weight.dim() != 3 or 0 in weight.shape:
        raise ValueError(
            f"squeezelight_linear(weight): got shape {tuple(weight.shape)}, expected (P, Q, k), the first columns of "
            "P x Q circulant blocks of size k"
        )
    count, blocks, miniblock = weight.shape
    if x.dim() < 1 or -(-x.shape[-1] // miniblock) != blocks:
        raise ValueError(
            f"squeezelight_linear(x): got shape {tuple(x.shape)}, expected (..., in_features) with in_features from "
            f"{(blocks - 1) * miniblock + 1} to {blocks * miniblock}, as weight has {blocks} blocks of {miniblock}"
        )
    if -(-out_features // miniblock) != count:
        raise ValueError(
            f"squeezelight_linear(out_features): got {out_features}, expected from {(count - 1) * miniblock + 1} to "
            f"{count * miniblock}, as weight has {count} blocks of {miniblock}"
        )
    for name, tensor, length in (("scale", scale, reference.scale_count(blocks)), ("bias", bias, out_features)):
        if tensor is not None and tuple(tensor.shape) != (length,):
            raise ValueError(f"squeezelight_linear({name}): got shape {tuple(tensor.shape)}, expected ({length},)")


def squeezelight_linear(
    x: Tensor,
    weight: Tensor,
    scale: Tensor,
    bias: Tensor | None = None,
    *,
    out_features: int | None = None,
    weight_gain: Tensor | float | None = None,
    w_bit: int = 32,
    in_bit: int = 32,
    crosstalk: float = 0.0,
    drop: float = 0.0,
    phase_noise: float = 0.0,
    seed: int | Tensor | None = None,
    attenuation: float = reference.ATTENUATION,
    coupling: float = reference.COUPLING,
) -> Tensor:
    """What a block-circulant array of multi-operand rings makes of ``x``.

    ``y[p k + i] = sum over q of s[q] T(sum over j of w[p, q, (i - j) mod k] x[q k + j]**2) + bias[p k + i]``, where
    ``T`` is what a ring transmits. Differentiable in ``x``, ``weight``, ``scale`` and ``bias``; the gradient passes
    straight through quantizers, at that of weights and factors clipped to the range from -1 to 1.

    Args:
        x: inputs, shape ``(..., in_features)``.
        weight: trained weights, shape ``(P, Q, k)``, ``P = ceil(out_features / k)``, ``Q = ceil(in_features / k)``.
        scale: trained balancing factors, shape ``(max(1, Q // 2) + 1,)``; see
            :func:`quantsim_kernels.reference.squeezelight.differential_scale`.
        bias: added to the result, shape ``(out_features,)``.
        out_features: outputs; ``None``: as many as ``bias`` has, else ``P k``.
        weight_gain: multiplies quantized weights; ``None`` means 1.
        w_bit: bits of weights and balancing factors, from 16 on not quantized.
        in_bit: bits of inputs, which are clipped to the range from 0 to 1; from 16 on neither.
        crosstalk: thermal coupling between the heaters of a ring, from 0 to 1: weights grow by the factor
            ``1 + max(3, k (1 - drop) - 1) crosstalk``.
        drop: fraction of operands that is pruned, for the crosstalk.
        phase_noise: standard deviation of the Gaussian noise of each phase, in radians.
        seed: of that noise: an integer, or a 0-d int64 tensor, which is never read back from its device; ``None`` draws
            from quantsim's own stream. Every backend draws the same numbers.
        attenuation: amplitude left after one round trip, between 0 and 1.
        coupling: self-coupling between waveguide and ring, between 0 and 1.

    Returns:
        Shape ``(..., out_features)``, in the dtype of ``x``; computed in float32, in float64 for float64.

    Raises:
        TypeError: an operand is no floating-point tensor.
        ValueError: shapes do not fit, or a setting is out of its range.

    Example:
        >>> weight, scale = torch.full((1, 2, 2), 0.13), torch.tensor([1.0, 0.0])
        >>> x = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0], [1.0, 1.0, -1.0, 1.0]])
        >>> squeezelight_linear(x, weight, scale, out_features=1)
        tensor([[ 0.2404],
                [-0.2404],
                [ 0.0000]])
    """
    check_rings(w_bit, in_bit, crosstalk, drop, phase_noise, attenuation, coupling)
    if out_features is None:
        if isinstance(bias, Tensor) and bias.dim() == 1:
            out_features = bias.shape[0]
        else:
            out_features = weight.shape[0] * weight.shape[-1] if isinstance(weight, Tensor) and weight.dim() == 3 else 0
    _check_tensors(x, weight, scale, bias, out_features)
    noise_seed: Tensor | None = None
    if phase_noise:
        noise_seed = next_seed(x.device) if seed is None else seed_tensor(seed, x.device)
    arguments: dict[str, Any] = {
        "out_features": out_features,
        "weight_gain": weight_gain,
        "w_bit": w_bit,
        "in_bit": in_bit,
        "factor": reference.crosstalk_factor(weight.shape[2], crosstalk, drop),
        "phase_noise": phase_noise,
        "seed": noise_seed,
        "attenuation": attenuation,
        "coupling": coupling,
    }
    if torch.compiler.is_compiling():
        # A compiler makes one loop of the definition, whose forward stores no phases (a backward in the graph may).
        return reference.squeezelight_linear(x, weight, scale, bias, **arguments)
    kernel = registry.require(LINEAR, Scheme.OPTICAL, x, weight, scale, bias, **arguments)
    return kernel.function(x, weight, scale, bias, **arguments)


registry.register(op=LINEAR, scheme=Scheme.OPTICAL, backend=Backend.REFERENCE)(reference.squeezelight_linear)
registry.register(op=LINEAR, scheme=Scheme.OPTICAL, backend=Backend.TORCH, predicate=fast.objection, priority=10)(
    fast.squeezelight_linear
)
