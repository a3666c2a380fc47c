"""Keeps the quantized value of a parameter while neither the parameter nor its quantizer changes.

Version counters and addresses alone cannot say that a tensor is unchanged: ``weight.data.copy_(...)`` writes without
counting, and FSDP refills one address with other values. So a kept value is used only after the content was compared,
which costs a fraction of quantizing it again: one matrix-vector product with a fixed random vector.

Affine values are kept as integer codes, so that a cached 8-bit weight adds a quarter of the weight's memory, not all of
it again; mapping codes to real numbers costs a third of quantizing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quantsim.quantization.affine.base import AffineQuantizerBase
from quantsim.quantization.base import QuantizerBase
from quantsim_kernels.affine import affine_dequantize, affine_quantize

__all__ = ["SMALLEST_CACHED", "ParameterCache"]

SMALLEST_CACHED = 8192
"""Parameters with fewer elements are quantized each time: that is as fast as the check."""

_CODE_TYPES = (torch.int8, torch.uint8, torch.int16)


@dataclass(frozen=True)
class _Codes:
    """Integers on an affine grid, and what maps them to real numbers."""

    codes: Tensor
    scale: Tensor
    offset: Tensor | None
    block_size: tuple[int, ...] | None

    def dequantize(self) -> Tensor:
        """The real numbers, bit for bit as the quantizer gave them."""
        return affine_dequantize(self.codes, self.scale, self.offset, self.block_size)


@dataclass(frozen=True)
class _Entry:
    """A quantized value and all that it depends on."""

    quantized: Tensor | _Codes
    shape: torch.Size
    stride: tuple[int, ...]
    version: int
    alias: Tensor  # shares the parameter's memory, so that the allocator cannot give its address to another tensor
    probe: Tensor
    fingerprint: Tensor
    quantizer: QuantizerBase
    ranges: tuple[Tensor, ...]
    settings: dict[str, Any]


class ParameterCache:
    """Quantized values of one module's parameters, by name.

    Invariants: never used while autograd has to record the quantization, nor while compiling, nor off the CPU (where
    the comparison would wait for the device); never copied with the module.
    """

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}

    def quantize(self, name: str, parameter: Tensor, quantizer: QuantizerBase) -> Tensor:
        """Returns ``quantizer(parameter)``, kept from last time if everything it depends on is unchanged."""
        if not may_be_cached(parameter, quantizer):
            self._entries.pop(name, None)
            return quantizer(parameter)
        entry = self._entries.get(name)
        if entry is not None and _is_current(entry, parameter, quantizer):
            kept = entry.quantized
            return kept.dequantize() if isinstance(kept, _Codes) else kept
        # Normal tensors even under inference_mode: a later call outside of it may use them with autograd.
        with torch.inference_mode(False), torch.no_grad():
            quantized = quantizer(parameter)
            if quantized is parameter:  # the quantizer changes nothing; there is nothing to keep
                return quantized
            self._entries[name] = _make_entry(quantized, parameter, quantizer)
        return quantized

    def clear(self) -> None:
        """Forgets all kept values."""
        self._entries.clear()


def may_be_cached(parameter: Tensor, quantizer: QuantizerBase) -> bool:
    """Whether the quantized value is a constant as far as autograd and the compiler are concerned.

    The exact types leave out what stands in for a parameter under torch.func, fake tensors, DTensor and FSDP.
    """
    return (
        parameter.numel() >= SMALLEST_CACHED
        and nn.Parameter in (type(parameter), type(parameter._base))  # or rows of one, as in attention
        and parameter.device.type == "cpu"
        and not (torch.is_grad_enabled() and (parameter.requires_grad or _trains(quantizer)))
        and not torch.compiler.is_compiling()
        and not quantizer.is_observing
        and not quantizer._forward_hooks
        and not quantizer._forward_pre_hooks
        and not quantizer.is_stochastic
        and not parameter.is_inference()
    )


def _trains(quantizer: QuantizerBase) -> bool:
    return any(values.requires_grad for values in quantizer._parameters.values() if values is not None)


def _make_entry(quantized: Tensor, parameter: Tensor, quantizer: QuantizerBase) -> _Entry:
    probe = _probe(parameter)
    return _Entry(
        quantized=_as_codes(quantized, parameter, quantizer) or quantized,
        shape=parameter.shape,
        stride=parameter.stride(),
        version=parameter._version,
        alias=parameter.detach(),
        probe=probe,
        fingerprint=_fingerprint(parameter, probe),
        quantizer=quantizer,
        ranges=tuple(values.detach().clone() for values in _range_tensors(quantizer)),
        settings=quantizer.persistent_settings(),
    )


def _as_codes(quantized: Tensor, parameter: Tensor, quantizer: QuantizerBase) -> _Codes | None:
    """Codes that give exactly ``quantized`` again, or ``None`` if there are none that are smaller."""
    if not isinstance(quantizer, AffineQuantizerBase) or parameter.dtype != torch.float32:
        return None
    dtype = next((dtype for dtype in _CODE_TYPES if _holds(dtype, quantizer.qmin, quantizer.qmax)), None)
    scale, offset = quantizer.get_scale(), quantizer.get_offset()
    if dtype is None or scale is None:
        return None
    scale = scale.detach().clone()
    offset = offset.detach().clone() if offset is not None and bool(offset.any()) else None
    block_size = quantizer.block_size
    codes = affine_quantize(parameter, scale, offset, quantizer.qmin, quantizer.qmax, block_size).to(dtype)
    kept = _Codes(codes, scale, offset, block_size)
    return kept if torch.equal(kept.dequantize(), quantized) else None


def _holds(dtype: torch.dtype, qmin: int, qmax: int) -> bool:
    limits = torch.iinfo(dtype)
    return limits.min <= qmin and qmax <= limits.max


def _is_current(entry: _Entry, parameter: Tensor, quantizer: QuantizerBase) -> bool:
    return (
        entry.quantizer is quantizer
        and entry.version == parameter._version
        and entry.alias.data_ptr() == parameter.data_ptr()
        and entry.alias.dtype == parameter.dtype
        and entry.shape == parameter.shape
        and entry.stride == parameter.stride()
        and entry.settings == quantizer.persistent_settings()
        and _same_ranges(entry.ranges, _range_tensors(quantizer))
        and torch.equal(entry.fingerprint, _fingerprint(parameter, entry.probe))
    )


def _range_tensors(quantizer: QuantizerBase) -> list[Tensor]:
    values = (*quantizer._parameters.values(), *quantizer._buffers.values())
    return [value for value in values if value is not None]


def _same_ranges(kept: tuple[Tensor, ...], now: list[Tensor]) -> bool:
    return len(kept) == len(now) and all(torch.equal(a, b) for a, b in zip(kept, now, strict=True))


def _rows(parameter: Tensor) -> Tensor:
    return parameter.detach().reshape(parameter.shape[0], -1) if parameter.dim() > 1 else parameter.detach()[None]


def _probe(parameter: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)  # its own: the global generator is the user's
    columns = _rows(parameter).shape[1]
    return torch.rand(columns, generator=generator, dtype=torch.float64).add_(0.5).to(parameter.dtype)


def _fingerprint(parameter: Tensor, probe: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.mv(_rows(parameter), probe)
