"""Masks that keep pruned weights at zero: in training, in inference, in state_dicts and in exports.

A mask is a boolean buffer of the module, beside its parameter. The parameter itself holds the zeros, so whatever reads
it (another quantizer, an export, a module made from this one) sees the pruned weights. Before each forward they are set
to zero again, because optimizers move them: by momentum from before, or by gradients, which stay dense so that a
pruning method can see what it would gain from growing a weight again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from quantsim.errors import ConfigurationError
from quantsim.quantization.sharded_tensors import local_parts, whole

__all__ = [
    "MASK_SUFFIX",
    "apply_pruning_masks",
    "pruning_mask",
    "pruning_masks",
    "remove_pruning_mask",
    "set_pruning_mask",
    "zero_pruned_weights",
]

MASK_SUFFIX: Final = "_pruning_mask"
"""What is added to a parameter's name for that of the buffer."""


class _KeepZeros:
    """Sets the pruned weights of a module to zero before its forward, and before its state is saved."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, module: nn.Module, *_: Any) -> None:
        # What an export traces has been made zero before, and a trace that changes a parameter is refused.
        if not torch.compiler.is_exporting():
            _zero(module, self.name)


def set_pruning_mask(module: nn.Module, mask: Tensor, name: str = "weight") -> None:
    """Prunes a parameter: where ``mask`` is False it is 0 from now on. Replaces an earlier mask.

    Works on float and on quantized modules; a quantized module made from a pruned one stays pruned. State_dicts hold
    the mask beside the weight: to load one, set some mask first.

    Args:
        module: Owner of the parameter.
        mask: In the shape of the parameter; True (or not 0) is kept.
        name: Name of the parameter.

    Raises:
        ConfigurationError: If the module has no such parameter, or the mask has another shape.

    Example:
        >>> linear = nn.Linear(4, 1, bias=False)
        >>> set_pruning_mask(linear, torch.tensor([[True, False, True, False]]))
        >>> _ = linear.weight.data.fill_(2.0)  # whatever an optimizer does
        >>> float(linear(torch.ones(4)).detach())
        4.0
    """
    parameter = module._parameters.get(name)
    where = f"set_pruning_mask({type(module).__name__}, {name!r})"
    if parameter is None or isinstance(parameter, UninitializedParameter):
        raise ConfigurationError(
            "there is no such parameter to prune",
            where=where,
            got=f"parameters {[key for key, value in module._parameters.items() if value is not None]}",
            expected=f"an initialised parameter {name!r}",
        )
    if mask.shape != parameter.shape:
        raise ConfigurationError(
            "the mask does not fit the parameter",
            where=where,
            got=f"shape {tuple(mask.shape)}",
            expected=f"shape {tuple(parameter.shape)}",
        )
    kept = whole(mask.detach()).to(device=parameter.device, dtype=torch.bool).clone()
    buffer = f"{name}{MASK_SUFFIX}"
    if buffer in module._buffers:
        module._buffers[buffer] = kept
    else:
        module.register_buffer(buffer, kept)
    if not any(isinstance(hook, _KeepZeros) and hook.name == name for hook in module._forward_pre_hooks.values()):
        hook = _KeepZeros(name)
        module.register_forward_pre_hook(hook)
        module.register_state_dict_pre_hook(hook)
    _zero(module, name)


def remove_pruning_mask(module: nn.Module, name: str = "weight") -> None:
    """Takes the mask away; the weights keep their zeros, and may be trained again. Nothing where there is no mask."""
    module._buffers.pop(f"{name}{MASK_SUFFIX}", None)
    for hooks in (module._forward_pre_hooks, module._state_dict_pre_hooks):
        for key, hook in list(hooks.items()):
            if isinstance(hook, _KeepZeros) and hook.name == name:
                del hooks[key]


def pruning_mask(module: nn.Module, name: str = "weight") -> Tensor | None:
    """The mask of a parameter, True where it is kept; None if there is none."""
    return module._buffers.get(f"{name}{MASK_SUFFIX}")


def pruning_masks(model: nn.Module) -> Iterator[tuple[str, nn.Module, str, Tensor]]:
    """Yields path of the module, module, parameter name and mask of all pruned parameters of a model."""
    for path, module in model.named_modules():
        for buffer, mask in module._buffers.items():
            if buffer.endswith(MASK_SUFFIX) and mask is not None:
                yield path, module, buffer.removesuffix(MASK_SUFFIX), mask


def apply_pruning_masks(model: nn.Module) -> None:
    """Sets all pruned weights of a model to zero now; forwards, calibration and state_dicts do it by themselves."""
    for module in model.modules():
        zero_pruned_weights(module)


def zero_pruned_weights(module: nn.Module) -> None:
    """Does `apply_pruning_masks` for one module, without those inside it."""
    for buffer in list(module._buffers):
        if buffer.endswith(MASK_SUFFIX):
            _zero(module, buffer.removesuffix(MASK_SUFFIX))


@torch.no_grad()
def _zero(module: nn.Module, name: str) -> None:
    mask, parameter = pruning_mask(module, name), module._parameters.get(name)
    if mask is None or parameter is None or mask.is_meta or parameter.is_meta:
        return
    if torch.compiler.is_compiling():
        parameter.mul_(mask)
    else:
        # Past the version counter: a module that runs twice before one backward saved these very values.
        values, kept = local_parts(parameter.data, mask)
        values.masked_fill_(~kept, 0.0)
