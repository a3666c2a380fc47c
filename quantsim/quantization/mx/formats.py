"""Block formats in a quantizer's arguments and in its state_dict."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quantsim.errors import ConfigurationError
from quantsim.quantization.float.formats import format_settings as float_format_settings
from quantsim_encodings.formats import (
    NAMED_BLOCK_FORMATS,
    BlockFormat,
    FloatFormat,
    IntFormat,
    MXFormat,
    NVFP4Format,
    block_format,
)

__all__ = ["block_format_from_settings", "block_format_settings", "choose_block_format", "describe_block_format"]


def choose_block_format(owner: str, format: BlockFormat | str) -> BlockFormat:
    """Returns the format that an argument says, by name or as data.

    Raises:
        ConfigurationError: If there is none of that name, or it is no block format.

    Example:
        >>> choose_block_format("quantizer", "mxfp4").bits_per_element
        4.25
    """
    if isinstance(format, (MXFormat, NVFP4Format)):
        return format
    try:
        return block_format(format)
    except ValueError as error:
        raise ConfigurationError(str(error), where=f"{owner}(format)") from None


def describe_block_format(format: BlockFormat) -> str:
    """Returns the name of a format, or its constructor's call where it has none.

    Example:
        >>> describe_block_format(NVFP4Format()), describe_block_format(NVFP4Format(8))
        ('nvfp4', 'NVFP4Format(block_size=8, two_level=True)')
    """
    for name, known in NAMED_BLOCK_FORMATS.items():
        if known == format:
            return name
    if isinstance(format, NVFP4Format):
        return repr(format)
    element = format.element
    label = element.label if isinstance(element, FloatFormat) else f"int [{element.qmin}, {element.qmax}]"
    return f"{label} x {format.block_size} {format.scale_rule.value}"


def block_format_settings(format: BlockFormat) -> dict[str, Any]:
    """Returns the fields of a format as JSON values, for a state_dict."""
    if isinstance(format, NVFP4Format):
        return {"kind": "nvfp4", "block_size": format.block_size, "two_level": format.two_level}
    element = format.element
    numbers = (
        float_format_settings(element)
        if isinstance(element, FloatFormat)
        else {"qmin": element.qmin, "qmax": element.qmax}
    )
    return {
        "kind": "mx",
        "element": numbers,
        "block_size": format.block_size,
        "scale_rule": format.scale_rule.value,
        "name": format.name,
    }


def block_format_from_settings(settings: Mapping[str, Any]) -> BlockFormat:
    """Returns the format whose fields `block_format_settings` gave.

    Example:
        >>> block_format_from_settings(block_format_settings(block_format("mxint8"))) == block_format("mxint8")
        True
    """
    if settings["kind"] == "nvfp4":
        return NVFP4Format(settings["block_size"], settings["two_level"])
    numbers = settings["element"]
    element = IntFormat(**numbers) if "qmin" in numbers else FloatFormat(**numbers)
    return MXFormat(element, settings["block_size"], settings["scale_rule"], settings["name"])
