"""Makes the float-precision layers from the rows of their table."""

from __future__ import annotations

import inspect
from collections.abc import Iterable
from inspect import Parameter, Signature
from typing import Any, ClassVar, Final, Self

from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.layers.placement import place_float_quantizers
from quantsim.layers.settings import FloatPrecisionSettings
from quantsim.layers.table import LayerSpec
from quantsim.nn import BaseQuantizationMixin, QuantizationMixin
from quantsim_encodings.formats import BlockFormat, FloatFormat, RoundingMode

__all__ = ["FloatPrecisionLayer", "generate_layers", "layer_signature"]

PUBLIC_MODULE: Final = "quantsim.layers"
"""Where the layers are found, by people and by pickle."""

_DOCUMENTATION: Final = """`torch.nn.{name}` in a float format: a quantized module whose quantizers cast to it.

    Args:
{torch}        exp_bits: Exponent bits of an IEEE-like format.
        sig_bits: Stored fraction bits, the hidden bit not counted.
{optional}        rmode: Rounding mode, by number or name (see `quantsim_encodings.formats.RoundingMode`).
{keywords}        format: Float or block format, or its name, instead of ``exp_bits`` and ``sig_bits``.
        saturate: Whether what is too large becomes the largest number; ``None``: as IEEE 754 has it.
        subnormal: Whether subnormal numbers are kept; they become zero otherwise.
        seed: Seed of stochastic rounding's noise.
        gradient_format: Float format that gradients are cast to, with the same rounding.
        quantize_output: Whether the output is cast; ``None`` for this layer's default.

    Raises:
        ConfigurationError: If there is not exactly one format, or it, the rounding or another setting is impossible.
    """
_SETTINGS: Final = ("rmode", "format", "saturate", "subnormal", "seed", "gradient_format", "quantize_output")


class FloatPrecisionLayer(BaseQuantizationMixin):
    """What all layers of `quantsim.layers` have in common.

    Parameters are the torch layer's, in name, shape and precision (fp32 masters): ``state_dict`` holds the same keys,
    besides those of the quantizers, and ``layer.load_state_dict(torch_layer.state_dict(), strict=False)`` takes a
    torch layer's over.
    """

    _layer: ClassVar[LayerSpec]
    _signature: ClassVar[Signature]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        owner = type(self).__name__
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{owner}{_without_annotations(self._signature)}: {error}") from None
        bound.apply_defaults()
        given = dict(bound.arguments)
        settings = _settings(
            owner, given.pop("exp_bits"), given.pop("sig_bits"), **{name: given.pop(name) for name in _SETTINGS}
        )
        super().__init__(**given)
        place_float_quantizers(self, settings)

    @classmethod
    def from_module(
        cls,
        module: nn.Module,
        exp_bits: int | None = None,
        sig_bits: int | None = None,
        rmode: RoundingMode | str | int = 1,
        *,
        format: FloatFormat | BlockFormat | str | None = None,
        saturate: bool | None = None,
        subnormal: bool = True,
        seed: int | None = None,
        gradient_format: FloatFormat | str | None = None,
        quantize_output: bool | None = None,
    ) -> Self:
        """Makes the layer from a torch layer, with which it shares parameters, buffers and hooks.

        Args:
            module: The torch layer (exactly of that class); a layer of this class is returned as it is. Its own
                settings, ``batch_first`` among them, are kept.
            exp_bits: See the class, as for all that follow.
            sig_bits: ...
            rmode: ...
            format: ...
            saturate: ...
            subnormal: ...
            seed: ...
            gradient_format: ...
            quantize_output: ...

        Raises:
            ConfigurationError: If ``module`` is of another class, or a setting is impossible.

        Example:
            >>> from quantsim.layers import QuantizedLinear
            >>> linear = nn.Linear(4, 2)
            >>> QuantizedLinear.from_module(linear, 5, 10).weight is linear.weight
            True
        """
        if isinstance(module, cls):
            return module
        torch_class = cls._float_class()
        if type(module) is not torch_class:
            raise ConfigurationError(
                where=f"{cls.__name__}.from_module",
                got=f"a module of type {type(module).__name__}",
                expected=f"a {torch_class.__name__}",
                fix="call from_module on the layer of that type, or QuantizationMixin.from_module and "
                "place_float_quantizers",
            )
        settings = _settings(
            f"{cls.__name__}.from_module",
            exp_bits,
            sig_bits,
            rmode=rmode,
            format=format,
            saturate=saturate,
            subnormal=subnormal,
            seed=seed,
            gradient_format=gradient_format,
            quantize_output=quantize_output,
        )
        layer: Any = QuantizationMixin.from_module(module)
        layer.__class__ = cls  # adds nothing but the constructor
        place_float_quantizers(layer, settings)
        return layer


def _settings(owner: str, exp_bits: Any, sig_bits: Any, *, rmode: Any, **others: Any) -> FloatPrecisionSettings:
    try:
        return FloatPrecisionSettings(exp_bits, sig_bits, rounding=rmode, **others)
    except ConfigurationError as error:
        raise error.with_location(owner)  # noqa: B904 (the same error, with its place)


def layer_signature(spec: LayerSpec) -> Signature:
    """The arguments of a layer's constructor, without ``self``.

    Example:
        >>> from quantsim.layers.table import LAYERS
        >>> list(layer_signature(LAYERS[0]).parameters)[:6]
        ['in_features', 'out_features', 'exp_bits', 'sig_bits', 'rmode', 'bias']
    """
    required, positional, keywords = _torch_parameters(spec)
    either = Parameter.POSITIONAL_OR_KEYWORD

    def setting(name: str, default: Any, annotation: Any, kind: Any = Parameter.KEYWORD_ONLY) -> Parameter:
        return Parameter(name, kind, default=default, annotation=annotation)

    return Signature(
        [
            *required,
            setting("exp_bits", None, "int | None", either),
            setting("sig_bits", None, "int | None", either),
            *positional,
            setting("rmode", 1, "int | str | RoundingMode", either),
            *(parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in keywords),
            setting("format", None, "FloatFormat | BlockFormat | str | None"),
            setting("saturate", None, "bool | None"),
            setting("subnormal", True, "bool"),
            setting("seed", None, "int | None"),
            setting("gradient_format", None, "FloatFormat | str | None"),
            setting("quantize_output", None, "bool | None"),
        ]
    )


def _torch_parameters(spec: LayerSpec) -> tuple[list[Parameter], list[Parameter], list[Parameter]]:
    """The torch layer's required arguments, its optional ones that have a position, and the others."""
    parameters = spec.torch_parameters()
    required = [each for each in parameters if each.default is Parameter.empty]
    by_name = {each.name: each for each in parameters}
    positional = [by_name[name] for name in spec.positional]
    return required, positional, [each for each in parameters if each not in required and each not in positional]


def generate_layers(specs: Iterable[LayerSpec]) -> dict[str, type[FloatPrecisionLayer]]:
    """Makes the class of each row: the quantized module of `quantsim.nn` with another constructor."""
    layers: dict[str, type[FloatPrecisionLayer]] = {}
    for spec in specs:
        base = QuantizationMixin.cls_to_qcls[spec.torch_class]
        signature = layer_signature(spec)
        namespace: dict[str, Any] = {
            "__module__": PUBLIC_MODULE,
            "__qualname__": spec.name,
            "__doc__": _documentation(spec),
            "__signature__": signature,
            "_layer": spec,
            "_signature": signature,
        }
        layers[spec.name] = type(spec.name, (FloatPrecisionLayer, base), namespace)
    return layers


def _documentation(spec: LayerSpec) -> str:
    lines = [
        "".join(f"        {each.name}: See `torch.nn.{spec.torch_class.__name__}`{_default(each)}.\n" for each in group)
        for group in _torch_parameters(spec)
    ]
    return _DOCUMENTATION.format(name=spec.torch_class.__name__, torch=lines[0], optional=lines[1], keywords=lines[2])


def _default(parameter: Parameter) -> str:
    return "" if parameter.default is inspect.Parameter.empty else f" (default {parameter.default!r})"


def _without_annotations(signature: Signature) -> Signature:
    return Signature([each.replace(annotation=Parameter.empty) for each in signature.parameters.values()])
