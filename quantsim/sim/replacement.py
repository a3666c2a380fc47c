"""Swaps the modules of a model for quantized ones, in every place that holds them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.nn import BaseQuantizationMixin, QuantizationMixin

__all__ = ["quantized_counterpart", "swap_modules"]


def quantized_counterpart(path: str, module: nn.Module) -> BaseQuantizationMixin:
    """The quantized module for a module: shares its parameters, buffers, submodules and hooks; holds no quantizers yet.

    Args:
        path: Where the module is, for errors.
        module: Of a class that has a quantized class or derives from one that has; or already quantized.

    Raises:
        ConfigurationError: The quantized class cannot be made from this module.
    """
    if isinstance(module, BaseQuantizationMixin):
        return module
    if type(module) in QuantizationMixin.cls_to_qcls:
        return QuantizationMixin.from_module(module)
    quantized_class = QuantizationMixin.wrap(type(module))
    try:
        return quantized_class.from_module(module)
    except (TypeError, AttributeError) as error:
        raise ConfigurationError(
            "the module cannot be quantized",
            where=path or type(module).__name__,
            got=f"{type(module).__name__}: {error}",
            expected=f"a module that {quantized_class.__name__} can be made from",
            fix=f"exclude it: config exclude=['{path}']",
        ) from error


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
    for parent in list(model.modules()):
        for name, child in parent._modules.items():
            if child is not None and child in replacements:
                parent._modules[name] = replacements[child]
    return replacements.get(model, model)
