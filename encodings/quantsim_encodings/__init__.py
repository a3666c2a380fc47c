"""Quantization encodings as data: formats, encodings, and the JSON files that carry them. Needs no torch.

Everything is re-exported lazily, so that ``import quantsim_encodings.formats`` (all that kernels need) loads neither
numpy nor pydantic.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quantsim_encodings.comparison import Difference, diff
    from quantsim_encodings.conversion import convert, losses, with_names, with_tensors
    from quantsim_encodings.document import (
        EncodingEntry,
        EncodingsDocument,
        EncodingsVersion,
        Producer,
        TensorReference,
        TensorRole,
    )
    from quantsim_encodings.encoding import (
        AffineEncoding,
        DynamicEncoding,
        Encoding,
        FixedPointEncoding,
        FloatEncoding,
        GroupedBlockEncoding,
        MXEncoding,
        OpticalEncoding,
        UnplacedGroupedBlockEncoding,
    )
    from quantsim_encodings.errors import EncodingsError, Problem
    from quantsim_encodings.files import dumps, loads, read, validate, write
    from quantsim_encodings.formats import (
        NAMED_BLOCK_FORMATS,
        NAMED_FLOAT_FORMATS,
        NAMED_MX_FORMATS,
        BlockFormat,
        FixedPointFormat,
        FloatFormat,
        Format,
        IntFormat,
        MXFormat,
        MXScaleRule,
        NanEncoding,
        NVFP4Format,
        OpticalFormat,
        OpticalNoise,
        RoundingMode,
        block_format,
        float_format,
        mx_format,
    )
    from quantsim_encodings.granularity import (
        Flattened,
        Granularity,
        PerBlock,
        PerBlocks,
        PerChannel,
        PerTensor,
        PerToken,
    )
    from quantsim_encodings.layout import place, transpose
    from quantsim_encodings.loss import DEFAULT_ALLOWED, Loss
    from quantsim_encodings.schemas import json_schema

__all__ = [
    "DEFAULT_ALLOWED",
    "NAMED_BLOCK_FORMATS",
    "NAMED_FLOAT_FORMATS",
    "NAMED_MX_FORMATS",
    "AffineEncoding",
    "BlockFormat",
    "Difference",
    "DynamicEncoding",
    "Encoding",
    "EncodingEntry",
    "EncodingsDocument",
    "EncodingsError",
    "EncodingsVersion",
    "FixedPointEncoding",
    "FixedPointFormat",
    "Flattened",
    "FloatEncoding",
    "FloatFormat",
    "Format",
    "Granularity",
    "GroupedBlockEncoding",
    "IntFormat",
    "Loss",
    "MXEncoding",
    "MXFormat",
    "MXScaleRule",
    "NVFP4Format",
    "NanEncoding",
    "OpticalEncoding",
    "OpticalFormat",
    "OpticalNoise",
    "PerBlock",
    "PerBlocks",
    "PerChannel",
    "PerTensor",
    "PerToken",
    "Problem",
    "Producer",
    "RoundingMode",
    "TensorReference",
    "TensorRole",
    "UnplacedGroupedBlockEncoding",
    "block_format",
    "convert",
    "diff",
    "dumps",
    "float_format",
    "json_schema",
    "loads",
    "losses",
    "mx_format",
    "place",
    "read",
    "transpose",
    "validate",
    "with_names",
    "with_tensors",
    "write",
]

# Searched in this order for a public name; each module's own ``__all__`` says what it holds.
_MODULES = (
    "formats",
    "granularity",
    "errors",
    "encoding",
    "document",
    "loss",
    "layout",
    "conversion",
    "files",
    "comparison",
    "schemas",
)


def __getattr__(name: str) -> object:
    if name in __all__:
        for module_name in _MODULES:
            module = importlib.import_module(f"{__name__}.{module_name}")
            if name in module.__all__:
                value = getattr(module, name)
                globals()[name] = value
                return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
