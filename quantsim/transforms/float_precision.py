"""The pass that makes a model compute in a floating-point or block format."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, Final, Self

import torch
from pydantic import BaseModel, ConfigDict, Field, InstanceOf, model_validator
from torch import nn

from quantsim.errors import ConfigurationError, QuantsimError
from quantsim.layers.placement import place_float_quantizers
from quantsim.layers.settings import FloatPrecisionSettings
from quantsim.nn import BaseQuantizationMixin
from quantsim.quantization.base import QuantizerBase
from quantsim.sim.leaf import Leaf, quantizable_modules
from quantsim.sim.module_kinds import ModuleKind
from quantsim.sim.replacement import quantized_counterpart
from quantsim.transforms.matching import ModuleMatch, PassArguments, match_modules
from quantsim.transforms.plan import ModuleReplacement, TransformPlan
from quantsim_encodings.formats import FloatFormat, MXFormat, NVFP4Format, RoundingMode, float_format

__all__ = ["FloatPrecisionArguments", "float_precision_module_transform_pass", "plan_float_precision"]

_NOTHING_TO_ROUND: Final = frozenset({ModuleKind.GRID_KEEPING, ModuleKind.LOSS})
"""Reshapes, dropout, max pools (their output holds values of their input), and what only training uses."""


class FloatPrecisionArguments(BaseModel):
    """Parameters of the pass for the modules that a key matches.

    Either ``exp_bits`` and ``sig_bits``, or ``format``.

    Example:
        >>> FloatPrecisionArguments(exp_bits=5, sig_bits=10, rmode="stochastic").label
        'e5m10, stochastic'
        >>> FloatPrecisionArguments(format="mxfp8_e4m3").label
        'mxfp8_e4m3, nearest_even'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, use_attribute_docstrings=True)

    exp_bits: int | None = Field(default=None, ge=1, le=11)
    """Exponent bits."""
    sig_bits: int | None = Field(default=None, ge=0, le=52)
    """Stored fraction bits, the hidden bit not counted."""
    format: str | InstanceOf[FloatFormat] | InstanceOf[MXFormat] | InstanceOf[NVFP4Format] | None = None
    """A float format (fp16, bf16, e4m3fn, e5m2, ...) or block format (mxfp8_e4m3, mxfp4, nvfp4, ...), or its name."""
    rmode: int | str = 1
    """Rounding mode, as number (0 to 9) or name (nearest, toward_zero, stochastic, ...)."""
    saturate: bool | None = None
    """What is too large becomes the largest number (true), infinity or NaN (false), or what the format says (null)."""
    subnormal: bool = True
    """Whether there are subnormal numbers; else they are flushed to zero."""
    seed: int | None = None
    """Of stochastic rounding. Each module gets a seed of its own that follows from it and the module's path."""
    gradient_format: str | InstanceOf[FloatFormat] | None = None
    """A float format, or its name, that gradients are rounded to in the backward."""
    quantize_output: bool | None = None
    """Whether outputs are rounded as well; null: only those of norms, recurrent modules and attention."""

    @model_validator(mode="after")
    def _settings_make_sense(self) -> Self:
        try:
            self.settings()
        except ConfigurationError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def label(self) -> str:
        """Short words for tables."""
        settings = self.settings()
        name = f"e{self.exp_bits}m{self.sig_bits}" if self.format is None else self.format
        if not isinstance(name, str):
            name = getattr(name, "label", None) or getattr(name, "name", None) or str(name)
        if self.format is None and float_format(name) != settings.target:  # e3m2, e2m3 and e2m1 are OCP's names
            name = f"{name} (IEEE-like)"
        return f"{name}, {RoundingMode.parse(settings.rounding).value}"

    def settings(self, path: str = "") -> FloatPrecisionSettings:
        """What the module at a path is given.

        Modules of one shape must not round with the same noise, so their seeds follow from their paths.

        Raises:
            ConfigurationError: The parameters contradict each other, or name what does not exist.
        """
        settings = FloatPrecisionSettings(
            exp_bits=self.exp_bits,
            sig_bits=self.sig_bits,
            format=self.format,
            rounding=self.rmode,
            saturate=self.saturate,
            subnormal=self.subnormal,
            seed=self.seed,
            gradient_format=self.gradient_format,
            quantize_output=self.quantize_output,
        )
        digest = hashlib.blake2b(path.encode(), digest_size=6).digest()
        return settings.with_seed_number(int.from_bytes(digest, "little"))


def float_precision_module_transform_pass(network: nn.Module, pass_args: Mapping[str, Any]) -> nn.Module:
    """Makes modules of a model compute in low precision: inputs, parameters and recurrent state are rounded.

    Every module that `quantsim.nn` has a quantized class for is replaced if a key matches its path; the replacement
    shares its parameters, so tied weights stay tied and optimizers keep working. Modules that only move values
    (reshapes, dropout, max pools) and losses are left alone. Functions that a model's own ``forward`` calls are no
    modules: `quantsim.QuantizationSimModel` rounds those too. A module that is quantized already is made anew: the
    last pass wins.

    Args:
        network: Changed in place, unless it is itself replaced. Unchanged if an error is raised.
        pass_args: ``by`` (``"name"`` or ``"regex_name"``); keys, each with the parameters of
            `FloatPrecisionArguments` or None; ``default``. The first key that matches wins, then ``default``, which
            leaves the output head of a language model (``lm_head``) out. Not changed.

    Returns:
        The model, or its replacement.

    Raises:
        ConfigurationError: The arguments are not valid, or a key matches nothing.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> model = float_precision_module_transform_pass(
        ...     model,
        ...     {"by": "name", "2": {"format": "bf16"}, "default": {"exp_bits": 4, "sig_bits": 3, "rmode": 5}},
        ... )
        >>> [type(module).__name__ for module in model]
        ['QuantizedLinear', 'QuantizedReLU', 'QuantizedLinear']
    """
    return plan_float_precision(network, pass_args).apply()


def plan_float_precision(network: nn.Module, pass_args: Mapping[str, Any]) -> TransformPlan:
    """What `float_precision_module_transform_pass` would do; changes nothing.

    Args:
        network: The model.
        pass_args: Arguments of the pass.

    Raises:
        ConfigurationError: The arguments are not valid, or a key matches nothing.

    Example:
        >>> model = nn.Sequential(nn.Linear(4, 2), nn.Dropout())
        >>> plan = plan_float_precision(model, {"by": "name", "default": {"format": "e4m3fn"}})
        >>> [(item.path, item.label) for item in plan.replacements], type(model[0]).__name__
        ([('0', 'e4m3fn, nearest_even')], 'Linear')
    """
    if not isinstance(network, nn.Module):
        raise ConfigurationError(where="network", got=type(network).__name__, expected="a torch.nn.Module")
    arguments = PassArguments.parse(pass_args, FloatPrecisionArguments)
    candidates: dict[str, nn.Module] = {}
    counterparts: dict[str, BaseQuantizationMixin] = {}
    for path, module in quantizable_modules(network).items():
        original = module.get_original_module() if isinstance(module, BaseQuantizationMixin) else module
        quantized = _counterpart(path, original)
        if Leaf(path, quantized).kind in _NOTHING_TO_ROUND:
            continue
        candidates[path], counterparts[path] = module, quantized
    matches = match_modules(network, candidates, arguments)
    usual = _device_of(network) or torch.device("cpu")
    return TransformPlan.of(network, [_replacement(match, counterparts[match.path], usual) for match in matches])


def _counterpart(path: str, module: nn.Module) -> BaseQuantizationMixin:
    try:
        return quantized_counterpart(path, module)
    except ConfigurationError as error:
        error.fix = f"leave it alone: a key that matches {path!r}, with the value None"
        raise


def _replacement(
    match: ModuleMatch[FloatPrecisionArguments], quantized: BaseQuantizationMixin, usual_device: torch.device
) -> ModuleReplacement:
    quantized.module_path = match.path or None
    try:
        place_float_quantizers(quantized, match.parameters.settings(match.path))
    except QuantsimError as error:
        raise error.with_location(match.path or type(match.module).__name__)  # noqa: B904 (the same error)
    device = _device_of(quantized) or usual_device
    if device.type != "meta":  # seeds have values before the parameters do
        for part in quantized.modules():
            if isinstance(part, QuantizerBase):
                part.to(device)
    return ModuleReplacement(match.path, match.module, quantized, match.key, match.parameters.label, match.aliases)


def _device_of(module: nn.Module) -> torch.device | None:
    values = next(module.parameters(), None)
    return None if values is None else values.device
