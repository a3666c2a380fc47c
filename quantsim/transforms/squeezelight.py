"""The pass that makes linear layers of micro-rings (SqueezeLight)."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Annotated, Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from quantsim.errors import ConfigurationError, QuantsimError
from quantsim.optical.squeezelight import RingConversion, SqueezeLightLinear
from quantsim.sim.example_inputs import ModelInputs
from quantsim.sim.slots import shown
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
    """Inputs that least_squares draws, or takes at most of those given."""
    steps: Annotated[int, Field(strict=True, ge=0)] = 100
    """Steps of gradient descent of least_squares."""
    seed: Annotated[int, Field(strict=True)] = 0
    """Of what is drawn and of the noise. Each module gets one that follows from it and the module's path."""

    @property
    def label(self) -> str:
        """Short words for tables."""
        bits = "".join(f", {name}{value}" for name, value in (("w", self.w_bit), ("in", self.in_bit)) if value < 16)
        return f"rings of {self.miniblock}, {self.method.value}{bits}"


def squeezelight_module_transform_pass(
    network: nn.Module, pass_args: Mapping[str, Any], fit_inputs: Iterable[Any] | None = None
) -> nn.Module:
    """Replaces linear layers by micro-rings, `quantsim.optical.squeezelight.SqueezeLightLinear`.

    The rings have parameters of their own: weights that were tied are no longer. Hooks of the layers are lost.

    Args:
        network: Changed in place, unless it is itself replaced. Unchanged if an error is raised.
        pass_args: ``by`` (``"name"`` or ``"regex_name"``); keys, each with the parameters of `SqueezeLightArguments`
            or None; ``default``, which leaves the output head of a language model out. Not changed.
        fit_inputs: Batches of the model's inputs, each a mapping of keyword arguments, a tuple of positional ones, or
            the only argument. The model runs on them once, as in evaluation, and layers with the method
            ``least_squares`` are fitted to what they get there. ``None``: to random numbers, which have neither the
            spread nor the signs of a layer's inputs.

    Returns:
        The model, or its replacement.

    Raises:
        ConfigurationError: The arguments are not valid, a key matches nothing, or a layer that is to be fitted is not
            reached by ``fit_inputs``.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> model = squeezelight_module_transform_pass(model, {"by": "name", "0": {"miniblock": 2}})
        >>> [type(module).__name__ for module in model]
        ['SqueezeLightLinear', 'ReLU', 'Linear']
        >>> fit = {"by": "name", "2": {"method": "least_squares", "steps": 5}}
        >>> model = squeezelight_module_transform_pass(model, fit, [torch.rand(64, 4), torch.rand(64, 4)])
    """
    return plan_squeezelight(network, pass_args, fit_inputs).apply()


def plan_squeezelight(
    network: nn.Module, pass_args: Mapping[str, Any], fit_inputs: Iterable[Any] | None = None
) -> TransformPlan:
    """What `squeezelight_module_transform_pass` would do; changes nothing, torch's global generator included.

    Args:
        network: The model.
        pass_args: Arguments of the pass.
        fit_inputs: Batches that layers are fitted to.

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
    seen: dict[str, Tensor] = {}
    if fit_inputs is not None:
        fitted = [match for match in matches if match.parameters.method is RingConversion.LEAST_SQUARES]
        seen = _inputs_of_layers(network, fitted, _batches(fit_inputs))
    return TransformPlan.of(network, [_replacement(match, seen.get(match.path)) for match in matches])


def _batches(fit_inputs: Iterable[Any]) -> list[ModelInputs]:
    batches = None if isinstance(fit_inputs, (Mapping, Tensor, str)) else list(fit_inputs)
    if not batches:
        raise ConfigurationError(
            where="fit_inputs",
            got=type(fit_inputs).__name__ if batches is None else "no batch",
            expected="a list (or another iterable) of batches of the model's inputs",
            fix="put a single batch into a list" if batches is None else None,
        )
    return [ModelInputs.of(batch, what="fit_inputs") for batch in batches]


def _inputs_of_layers(
    network: nn.Module, matches: Sequence[ModuleMatch[SqueezeLightArguments]], batches: Sequence[ModelInputs]
) -> dict[str, Tensor]:
    """Rows that each layer gets when the model runs, the same number of each batch; by path."""
    rows: dict[str, list[Tensor]] = {match.path: [] for match in matches}
    if not matches:
        return {}

    def note(path: str, wanted: int, module: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = (given[0] if given else named["input"]).detach()
        x = x.reshape(-1, x.shape[-1])
        chosen = torch.linspace(0, x.shape[0] - 1, min(wanted, x.shape[0]), device=x.device).round().long()
        rows[path].append(x[chosen])

    modes = [(module, module.training) for module in network.modules()]
    hooks = [
        match.module.register_forward_pre_hook(
            partial(note, match.path, -(-match.parameters.samples // len(batches))), with_kwargs=True
        )
        for match in matches
    ]
    try:
        network.eval()
        with torch.no_grad():
            for batch in batches:
                batch.call(network)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes:
            module.training = training
    unreached = [path for path, found in rows.items() if sum(part.shape[0] for part in found) < 2]
    if unreached:
        raise ConfigurationError(
            "layers got fewer than two rows of inputs",
            where="fit_inputs",
            got=f"none or one for {shown(unreached, limit=4)}",
            expected="inputs that reach every layer that is to be fitted",
            fix="give more batches, or method 'average' for these layers",
        )
    return {path: torch.cat(found) for path, found in rows.items()}


def _replacement(match: ModuleMatch[SqueezeLightArguments], inputs: Tensor | None) -> ModuleReplacement:
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
            new = SqueezeLightLinear.from_linear(layer, inputs=inputs, **settings)
        except QuantsimError as error:
            raise error.with_location(match.path or type(layer).__name__)  # noqa: B904 (the same error)
    return ModuleReplacement(match.path, match.module, new, match.key, match.parameters.label, match.aliases)
