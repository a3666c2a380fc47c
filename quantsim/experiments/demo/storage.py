"""How many bytes a model's parameters take in their formats."""

from __future__ import annotations

from quantsim_encodings import AffineEncoding, DynamicEncoding, Encoding, FloatEncoding, GroupedBlockEncoding
from torch import nn

from quantsim.quantization.base import QuantizerBase

__all__ = ["encoding_overhead_bits", "parameter_bytes"]

_SCALE_BITS = 32


def encoding_overhead_bits(encoding: Encoding) -> int:
    """Bits of the parameters stored beside the codes: float32 scales, and offsets where they are not fixed.

    Args:
        encoding: Of one parameter.

    Raises:
        TypeError: The kind of encoding stores nothing that this function knows.

    Example:
        >>> from quantsim_encodings import IntFormat, PerTensor
        >>> symmetric = AffineEncoding(IntFormat(-128, 127), 0.5, 0, symmetric=True, granularity=PerTensor())
        >>> encoding_overhead_bits(symmetric)
        32
    """
    match encoding:
        case GroupedBlockEncoding():
            # A float32 scale per channel, and per block an integer that widens the codes to the decompressed width.
            per_block = encoding.decompressed_bits - encoding.format.bits
            return encoding.per_channel_scale.size * _SCALE_BITS + encoding.per_block_int_scale.size * per_block
        case AffineEncoding():
            offsets = 0 if encoding.symmetric else encoding.offset.size * encoding.format.bits
            return encoding.scale.size * _SCALE_BITS + offsets
        case FloatEncoding():
            return 0 if encoding.scale is None else encoding.scale.size * _SCALE_BITS
        case DynamicEncoding():
            return 0
        case _:
            raise TypeError(f"storage of a {type(encoding).__name__} is not defined; add a case that counts what it stores")


def parameter_bytes(model: nn.Module) -> int:
    """Storage of all parameters, in bytes: quantized ones in their format with scales and offsets, the others as they are.

    A parameter used by several modules counts once. Ranges that quantizers hold as parameters are not counted: what is stored is
    the scale.

    Args:
        model: A float model or the ``.model`` of a calibrated simulation.

    Example:
        >>> parameter_bytes(nn.Linear(8, 4))
        144
    """
    seen: set[int] = set()
    bits = 0
    for module in model.modules():
        if isinstance(module, QuantizerBase):
            continue
        quantizers = getattr(module, "param_quantizers", {})
        for name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            quantizer = quantizers[name] if name in quantizers else None
            encoding = None if quantizer is None else quantizer.get_encodings()
            if encoding is None:
                bits += parameter.numel() * parameter.element_size() * 8
            else:
                bits += parameter.numel() * encoding.format.bits + encoding_overhead_bits(encoding)
    return -(-bits // 8)
