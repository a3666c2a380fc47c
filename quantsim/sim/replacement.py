"""Swaps the modules of a model for quantized ones, in every place that holds them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.nn import BaseQuantizationMixin, QuantizationMixin
from quantsim.sim.leaf import Leaf

__all__ = ["quantize_leaf", "swap_modules"]


def quantize_leaf(leaf: Leaf) -> BaseQuantizationMixin:
    """The quantized module for a leaf: shares its parameters, buffers, submodules and hooks; holds no quantizers yet.

    Raises:
        ConfigurationError: The quantized class cannot be made from this module.
    """
    if isinstance(leaf.module, BaseQuantizationMixin):
        return leaf.module
    try:
        if type(leaf.module) in QuantizationMixin.cls_to_qcls:
            quantized = QuantizationMixin.from_module(leaf.module)
        else:
            quantized = leaf.quantized_class.from_module(leaf.module)
    except (TypeError, AttributeError) as error:
        raise ConfigurationError(
            "the module cannot be quantized",
            where=leaf.path or type(leaf.module).__name__,
            got=f"{type(leaf.module).__name__}: {error}",
            expected=f"a module that {leaf.quantized_class.__name__} can be made from",
            fix=f"exclude it: config exclude=['{leaf.path}']",
        ) from error
    return quantized


def swap_modules(model: nn.Module, replacements: Mapping[nn.Module, nn.Module]) -> nn.Module:
    """Puts each replacement wherever its module is held, so that modules used twice stay one module.

    Args:
        model: Changed in place, unless it is itself replaced.
        replacements: New module by old module.

    Returns:
        The model, or its replacement.

    Example:
        >>> shared, new = nn.Linear(2, 2), nn.Identity()
        >>> model = swap_modules(nn.Sequential(shared, nn.ReLU(), shared), {shared: new})
        >>> model[0] is new and model[2] is new
        True
    """
    parents: Sequence[nn.Module] = list(model.modules())
    for parent in parents:
        for name, child in parent._modules.items():
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]
    return replacements.get(model, model)
