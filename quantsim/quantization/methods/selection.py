"""Methods by name, and quantizers of one method from those of another."""

from __future__ import annotations

import copy
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Final, TypeVar

from quantsim.errors import ConfigurationError
from quantsim.quantization.affine import GroupedBlockQuantizeDequantize, QuantizeDequantize
from quantsim.quantization.affine.base import AffineQuantizerBase
from quantsim.quantization.analyzers import MinMaxEncodingAnalyzer
from quantsim.quantization.methods.adaround import AdaRoundQuantizeDequantize
from quantsim.quantization.methods.clipping import PACTQuantizeDequantize, RCFQuantizeDequantize
from quantsim.quantization.methods.drop import QDropQuantizeDequantize
from quantsim.quantization.methods.step_size import LSQQuantizeDequantize
from quantsim.quantization.methods.weight_statistics import SAWBEncodingAnalyzer, SAWBQuantizeDequantize

__all__ = ["METHODS", "Method", "with_method"]

Quantizer = TypeVar("Quantizer", bound=QuantizeDequantize)


class Method(StrEnum):
    """How the parameters of an integer grid, or what is put on it, come about."""

    RANGE = "range"
    """Both ends of the range are learned; to begin with, what the encoding analyzer says (min-max, say)."""
    LSQ = "lsq"
    """The step is learned."""
    PACT = "pact"
    """Where activations are clipped is learned."""
    RCF = "rcf"
    """Where values are clipped is learned, rounding taken into account."""
    SAWB = "sawb"
    """Weights are clipped where two of their moments say."""
    QDROP = "qdrop"
    """The step is learned, with quantization dropped at random."""
    ADAROUND = "adaround"
    """Which way each weight is rounded is learned."""


METHODS: Final = MappingProxyType(
    {
        Method.RANGE: QuantizeDequantize,
        Method.LSQ: LSQQuantizeDequantize,
        Method.PACT: PACTQuantizeDequantize,
        Method.RCF: RCFQuantizeDequantize,
        Method.SAWB: SAWBQuantizeDequantize,
        Method.QDROP: QDropQuantizeDequantize,
        Method.ADAROUND: AdaRoundQuantizeDequantize,
    }
)
"""The quantizer class of each method."""


def with_method(quantizer: AffineQuantizerBase, method: Method | str | type[Quantizer], **arguments: Any) -> Any:
    """A quantizer of another method with the grid of a quantizer, and with its range if it has one.

    The encoding analyzer is taken over too, unless it is plain min-max and the method has a better one of its own.

    Args:
        quantizer: Stays as it is.
        method: Method, its name, or a quantizer class.
        **arguments: More arguments of the method's quantizer, such as ``drop``.

    Raises:
        ConfigurationError: If there is no such method, or it cannot have the grid or the range.

    Example:
        >>> quantizer = QuantizeDequantize(shape=(), bitwidth=4, symmetric=True)
        >>> quantizer.set_range(-0.8, 0.7)
        >>> learned = with_method(quantizer, "lsq")
        >>> type(learned).__name__, round(float(learned.step.detach()), 6)
        ('LSQQuantizeDequantize', 0.1)
    """
    if isinstance(quantizer, GroupedBlockQuantizeDequantize):
        raise ConfigurationError(
            "scales that are multiples of another have no other method",
            where="with_method",
            got=type(quantizer).__name__,
            expected="affine.QuantizeDequantize or one of the methods",
        )
    kind = method if isinstance(method, type) else METHODS[parse_method(method)]
    analyzer = quantizer.encoding_analyzer
    if analyzer is not None and type(analyzer) not in (MinMaxEncodingAnalyzer, SAWBEncodingAnalyzer):
        arguments.setdefault("encoding_analyzer", copy.deepcopy(analyzer))
    if quantizer.zero_point_shift:
        arguments.setdefault("zero_point_shift", quantizer.zero_point_shift)
    made: Any = kind(
        quantizer.shape,
        qmin=quantizer.qmin,
        qmax=quantizer.qmax,
        symmetric=quantizer.symmetric,
        block_size=quantizer.block_size,
        **arguments,
    )
    encoding = quantizer.get_encodings()
    if encoding is not None:
        made.set_encodings(encoding)
    device = next(iter(quantizer.parameters())).device
    made.allow_overwrite(quantizer.is_overwrite_allowed)
    if quantizer.is_frozen:
        made.freeze()
    return made.to(device).train(quantizer.training)


def parse_method(value: Method | str) -> Method:
    """The method of that name.

    Raises:
        ConfigurationError: If there is none.
    """
    try:
        return Method(value)
    except ValueError:
        raise ConfigurationError(
            "no such method", where="method", got=repr(value), expected=", ".join(repr(each.value) for each in Method)
        ) from None
