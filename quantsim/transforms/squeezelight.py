"""The pass that makes linear layers of micro-rings (SqueezeLight)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from quantsim.errors import ConfigurationError, QuantsimError
from quantsim.optical.squeezelight import RingConversion, SqueezeLightLinear
from quantsim.transforms.matching import ModuleMatch, PassArguments, match_modules
from quantsim.transforms.optical import float_linear, linear_layers
from quantsim.transforms.plan import ModuleReplacement, TransformPlan

__all__ = ["SqueezeLightArguments", "plan_squeezelight", "squeezelight_module_transform_pass"]

_Count = Annotated[int, Field(strict=True, ge=1)]
_Bits = Annotated[int, Field(strict=True, ge=1, le=32)]


class SqueezeLightArguments(BaseModel):
    """Parameters of the pass for the modules that a key matches; see `quantsim.optical.squeezelight`.

    Example:
        >>> SqueezeLightArguments(miniblock=8, w_bit=8).label
        'rings of 8, average, w8'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    method: RingConversion = RingConversion.AVERAGE
    """How a trained layer becomes rings: average (as published) or least_squares."""
    miniblock: _Count = 4
    """Operands of a ring."""
    w_bit: _Bits = 32
    """Bits of weights; from 16 they are not quantized."""
    in_bit: _Bits = 32
    """Bits of inputs; from 16 they are left alone."""
    crosstalk: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Thermal coupling between the heaters of a ring."""
    phase_noise: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 0.0
    """Standard deviation of the noise on each phase, in radians."""
    drop: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    """Fraction of operands that is pruned."""
    samples: Annotated[int, Field(strict=True, ge=2)] = 1024
    """Inputs that least_squares draws."""
    steps: Annotated[int, Field(strict=True, ge=0)] = 100
    """Steps of gradient descent of least_squares."""
    seed: Annotated[int, Field(strict=True)] = 0
    """Of what is drawn and of the noise. Each module gets one that follows from it and the module's path."""

    @property
    def label(self) -> str:
        """Short words for tables."""
        bits = "".join(f", {name}{value}" for name, value in (("w", self.w_bit), ("in", self.in_bit)) if value < 16)
        return f"rings of {self.miniblock}, {self.method.value}{bits}"


def squeezelight_module_transform_pass(network: nn.Module, pass_args: Mapping[str, Any]) -> nn.Module:
    """Replaces linear layers by micro-rings, `quantsim.optical.squeezelight.SqueezeLightLinear`.

    The rings have parameters of their own: weights that were tied are no longer. Hooks of the layers are lost.

    Args:
        network: Changed in place, unless it is itself replaced. Unchanged if an error is raised.
        pass_args: ``by`` (``"name"`` or ``"regex_name"``); keys, each with the parameters of `SqueezeLightArguments`
            or None; ``default``, which leaves the output head of a language model out. Not changed.

    Returns:
        The model, or its replacement.

    Raises:
        ConfigurationError: The arguments are not valid, or a key matches nothing.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> model = squeezelight_module_transform_pass(model, {"by": "name", "0": {"miniblock": 2}})
        >>> [type(module).__name__ for module in model]
        ['SqueezeLightLinear', 'ReLU', 'Linear']
    """
    return plan_squeezelight(network, pass_args).apply()


def plan_squeezelight(network: nn.Module, pass_args: Mapping[str, Any]) -> TransformPlan:
    """What `squeezelight_module_transform_pass` would do; changes nothing, torch's global generator included.

    Args:
        network: The model.
        pass_args: Arguments of the pass.

    Raises:
        ConfigurationError: The arguments are not valid, or a key matches nothing.

    Example:
        >>> plan = plan_squeezelight(nn.Sequential(nn.Linear(4, 2)), {"by": "name", "default": {}})
        >>> [(item.path, item.label) for item in plan.replacements]
        [('0', 'rings of 4, average')]
    """
    if not isinstance(network, nn.Module):
        raise ConfigurationError(where="network", got=type(network).__name__, expected="a torch.nn.Module")
    arguments = PassArguments.parse(pass_args, SqueezeLightArguments)
    matches = match_modules(network, linear_layers(network), arguments)
    return TransformPlan.of(network, [_replacement(match) for match in matches])


def _replacement(match: ModuleMatch[SqueezeLightArguments]) -> ModuleReplacement:
    layer, settings = float_linear(match.module), match.parameters.model_dump()
    digest = hashlib.blake2b(f"{settings['seed']} {match.path}".encode(), digest_size=6).digest()
    settings["seed"] = int.from_bytes(digest, "little")
    device = layer.weight.device
    with torch.random.fork_rng([device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(settings["seed"])  # torch.manual_seed would reset all devices
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(settings["seed"])
        try:
            new = SqueezeLightLinear.from_linear(layer, **settings)
        except QuantsimError as error:
            raise error.with_location(match.path or type(layer).__name__)  # noqa: B904 (the same error)
    return ModuleReplacement(match.path, match.module, new, match.key, match.parameters.label, match.aliases)
