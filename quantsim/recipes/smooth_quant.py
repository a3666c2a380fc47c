"""SmoothQuant: outliers of activations move into the weights, by scales that norms and linear layers absorb."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quantsim.errors import ConfigurationError
from quantsim.quantization.base import QuantizerBase
from quantsim.sim.calibration import evaluation_mode
from quantsim.sim.example_inputs import ModelInputs

__all__ = ["SmoothQuantReport", "smooth_quant"]

_SMALLEST = 1e-5
_TOLERANCE = 1e-3
"""Relative change of the outputs, by norm, that rounding may explain."""


@dataclass(frozen=True)
class SmoothQuantReport:
    """What was smoothed.

    Attributes:
        smoothed: Linear layers by the norm that absorbed the other half of their scales.
        left: Why a norm with linear layers behind it was left alone, by path.
    """

    smoothed: Mapping[str, tuple[str, ...]]
    left: Mapping[str, str]


@dataclass
class _Group:
    """A norm, and the linear layers that read its output."""

    norm: nn.Module
    linears: dict[str, nn.Linear] = field(default_factory=dict)
    largest: Tensor | None = None

    def parameters(self) -> list[Tensor]:
        """All that smoothing changes."""
        values = (*self.norm._parameters.values(), *(linear.weight for linear in self.linears.values()))
        return [each for each in values if each is not None]


@torch.no_grad()
def smooth_quant(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    strength: float = 0.5,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> SmoothQuantReport:
    """Divides channels of each norm's output by ``s``, and multiplies the weights that read them (Xiao et al. 2023).

    ``s_j = max |X_j|^strength / max |W_j|^(1 - strength)`` for input channel ``j`` of linear layers that read the same
    norm. The model computes what it did before; activations have smaller outliers for it, and weights larger ones. Do
    it before calibration, on the float model or on a simulation that has no ranges yet.

    Groups are found by running the model: linear layers whose input is the very output of a LayerNorm or RMSNorm. If
    something else reads that output too (the residual path of post-norm models such as BERT), or the norm does not
    multiply by its weight, the outputs change; such groups are put back and listed.

    Args:
        model: Changed in place.
        batches: Inputs of the model, in any form of example inputs; the first also serves as the check.
        strength: How much of the difficulty moves into the weights, 0 to 1.
        groups: Paths of linear layers by path of their norm, instead of searching.

    Raises:
        ConfigurationError: If ``strength`` is out of range, there is no data, or quantizers have ranges already.

    Example:
        >>> norm, linear = nn.LayerNorm(8), nn.Linear(8, 4)
        >>> _ = norm.weight.data[0].fill_(50.0)  # an outlier channel
        >>> model, x = nn.Sequential(norm, linear), torch.randn(64, 8)
        >>> before = model(x)
        >>> smooth_quant(model, [x]).smoothed
        {'0': ('1',)}
        >>> bool((model(x) - before).abs().max() < 1e-4), bool(norm.weight[0] < 10)
        (True, True)
    """
    if not 0.0 <= strength <= 1.0:
        raise ConfigurationError(where="smooth_quant(strength)", got=repr(strength), expected="a number from 0 to 1")
    _require_uncalibrated(model)
    inputs = [ModelInputs.of(batch, what=f"smooth_quant: batch {index}") for index, batch in enumerate(batches)]
    if not inputs:
        raise ConfigurationError(where="smooth_quant(batches)", got="no batch", expected="at least one")
    with evaluation_mode(model):
        found = _observe(model, inputs, groups)
        expected = _outputs(model, inputs[0])
        left: dict[str, str] = {}
        original = [(values, values.clone()) for group in found.values() for values in group.parameters()]
        try:
            for group in found.values():
                _fold(group, strength)
            if not _agree(expected, _outputs(model, inputs[0])):
                _put_back(original)
                for path, group in found.items():  # one by one, to see which
                    before = [(values, values.clone()) for values in group.parameters()]
                    _fold(group, strength)
                    if not _agree(expected, _outputs(model, inputs[0])):
                        _put_back(before)
                        left[path] = (
                            "the outputs change: something else reads its output, or it does not multiply by weight"
                        )
        except BaseException:
            _put_back(original)
            raise
    smoothed = {path: tuple(group.linears) for path, group in found.items() if path not in left}
    return SmoothQuantReport(smoothed, left)


def _require_uncalibrated(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if isinstance(module, QuantizerBase) and module.needs_calibration and module.is_initialized():
            raise ConfigurationError(
                "smoothing moves the ranges of quantizers",
                where=f"smooth_quant ({path})",
                got="a quantizer with a range",
                expected="a float model, or a simulation before calibration",
            )


def _observe(
    model: nn.Module, inputs: Sequence[ModelInputs], groups: Mapping[str, Sequence[str]] | None
) -> dict[str, _Group]:
    """Runs the model, and notes which linear layers read which norm, and the largest magnitude of each channel."""
    norms = {module: path for path, module in model.named_modules() if _is_norm(module)}
    wanted = None if groups is None else _named_linears(model, groups)
    given = {linear: norm for norm, linears in (groups or {}).items() for linear in linears}
    found: dict[str, _Group] = {}
    produced: dict[int, tuple[Tensor, str]] = {}

    def after_norm(norm: nn.Module, _: Any, output: Any) -> None:
        if isinstance(output, Tensor):
            produced[id(output)] = (output, norms[norm])  # which keeps it alive, and its id its own

    def before_linear(path: str, linear: nn.Module, args: tuple[Any, ...]) -> None:
        assert isinstance(linear, nn.Linear)
        if not args or not isinstance(args[0], Tensor):
            return
        norm = given.get(path)
        if groups is None and id(args[0]) in produced:
            norm = produced[id(args[0])][1]
        if norm is None:
            return
        group = found.setdefault(norm, _Group(model.get_submodule(norm)))
        group.linears[path] = linear
        rows = args[0].detach().reshape(-1, args[0].shape[-1])
        if len(rows) == 0:
            return
        largest = rows.abs().amax(0).float()
        group.largest = largest if group.largest is None else torch.maximum(group.largest, largest)

    handles = [norm.register_forward_hook(after_norm) for norm in norms]
    for path, module in model.named_modules():
        if isinstance(module, nn.Linear) and (wanted is None or module in wanted):
            handles.append(module.register_forward_pre_hook(partial(before_linear, path)))
    try:
        for each in inputs:
            produced.clear()
            each.call(model)
    finally:
        for handle in handles:
            handle.remove()
    return {path: group for path, group in found.items() if _fits(group)}


def _named_linears(model: nn.Module, groups: Mapping[str, Sequence[str]]) -> set[nn.Module]:
    """The linear layers that a caller named, if they and their norms can be smoothed."""
    modules = dict(model.named_modules())
    for norm, linears in groups.items():
        width = getattr(modules.get(norm), "weight", None)
        if not isinstance(width, Tensor) or width.dim() != 1:
            raise ConfigurationError(
                where=f"smooth_quant(groups[{norm!r}])",
                got=type(modules[norm]).__name__ if norm in modules else "no such module",
                expected="the path of a norm with one weight for each channel",
            )
        for path in linears:
            linear = modules.get(path)
            if not isinstance(linear, nn.Linear) or linear.in_features != len(width):
                raise ConfigurationError(
                    where=f"smooth_quant(groups[{norm!r}])",
                    got=f"{path!r}: {type(linear).__name__ if path in modules else 'no such module'}",
                    expected=f"paths of linear layers with {len(width)} inputs",
                )
    return {modules[path] for paths in groups.values() for path in paths}


def _is_norm(module: nn.Module) -> bool:
    weight = module._parameters.get("weight")
    name = type(module).__name__
    return weight is not None and weight.dim() == 1 and name.endswith(("LayerNorm", "RMSNorm"))


def _fits(group: _Group) -> bool:
    width = group.norm._parameters["weight"]
    return width is not None and all(linear.in_features == len(width) for linear in group.linears.values())


def _put_back(saved: Sequence[tuple[Tensor, Tensor]]) -> None:
    for values, before in saved:
        values.copy_(before)


def _fold(group: _Group, strength: float) -> None:
    assert group.largest is not None
    weights = torch.stack([linear.weight.detach().abs().amax(0).float() for linear in group.linears.values()]).amax(0)
    activations = group.largest.clamp_min(_SMALLEST)
    scale = activations.pow(strength) / weights.clamp_min(_SMALLEST).pow(1.0 - strength)
    scale = scale.clamp_min(_SMALLEST)
    for name in ("weight", "bias"):
        values = group.norm._parameters.get(name)
        if values is not None:
            values.copy_(values.float() / scale)
    for linear in group.linears.values():
        linear.weight.copy_(linear.weight.float() * scale)


def _outputs(model: nn.Module, inputs: ModelInputs) -> list[Tensor]:
    leaves = pytree.tree_leaves(inputs.call(model))
    return [leaf.detach().float().clone() for leaf in leaves if isinstance(leaf, Tensor) and leaf.is_floating_point()]


def _agree(expected: Sequence[Tensor], got: Sequence[Tensor]) -> bool:
    return all(
        float((a - b).norm()) <= _TOLERANCE * max(float(a.norm()), _SMALLEST)
        for a, b in zip(expected, got, strict=True)
    )
