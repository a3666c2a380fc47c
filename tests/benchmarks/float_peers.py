"""Other libraries' casts to small floating-point formats and layers that compute with them, where they are installed.

None is a dependency. Every function returns something callable, or None where the library is missing or cannot do it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from peers import TensorFunction, installed, quiet
from torch import nn

from quantsim_encodings.formats import FloatFormat

_TORCHAO_ELEMENTS: dict[str, Any] = {"mxfp8_e4m3": torch.float8_e4m3fn, "mxfp8_e5m2": torch.float8_e5m2}


def pychop_cast(format: FloatFormat, rounding: int) -> TensorFunction | None:
    """pychop's cast; its formats are IEEE-like (e4m3 ends at 240)."""
    if not installed("pychop"):
        return None
    with quiet():
        import pychop  # pyright: ignore[reportMissingImports]

        return pychop.Chop(exp_bits=format.exponent_bits, sig_bits=format.mantissa_bits, rmode=rounding)


def gfloat_cast(format: FloatFormat) -> TensorFunction | None:
    """gfloat's rounding of NumPy arrays, to nearest even."""
    if not installed("gfloat"):
        return None
    import gfloat
    from gfloat import formats

    known = {"fp16": formats.format_info_binary16, "e4m3fn": formats.format_info_ocp_e4m3}
    information = known.get(format.label)
    if information is None:
        return None
    return lambda x: torch.from_numpy(gfloat.round_ndarray(information, x.numpy()))


def qtorch_cast(format: FloatFormat, rounding: str) -> TensorFunction | None:
    """QPyTorch's cast, compiled C++ (built by the library at its first import)."""
    if not installed("qtorch"):
        return None
    try:
        with quiet():
            from qtorch.quant import float_quantize  # pyright: ignore[reportMissingImports]
    except Exception:
        return None
    return lambda x: float_quantize(x, exp=format.exponent_bits, man=format.mantissa_bits, rounding=rounding)


def torch_cast(format: FloatFormat) -> TensorFunction | None:
    """torch's own conversion there and back."""
    dtypes = {"fp16": torch.float16, "e4m3fn": torch.float8_e4m3fn, "e5m2": torch.float8_e5m2, "bf16": torch.bfloat16}
    dtype = dtypes.get(format.label)
    return None if dtype is None else lambda x: x.to(dtype).to(torch.float32)


def torchao_blocks(name: str) -> TensorFunction | None:
    """torchao's MX or NVFP4 (one-level) tensor, made and read back."""
    if not installed("torchao"):
        return None
    try:
        with quiet():
            from torchao.prototype.mx_formats.mx_tensor import MXTensor  # pyright: ignore[reportMissingImports]
            from torchao.prototype.mx_formats.nvfp4_tensor import NVFP4Tensor  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None
    if name == "nvfp4_one_level":
        return lambda x: NVFP4Tensor.to_nvfp4(x).dequantize(torch.float32)
    element = _TORCHAO_ELEMENTS.get(name) or (torch.float4_e2m1fn_x2 if name == "mxfp4" else None)
    return None if element is None else lambda x: MXTensor.to_mx(x, element, 32).dequantize(torch.float32)


def pychop_layer(name: str, sizes: tuple[int, int], exponent_bits: int, mantissa_bits: int) -> nn.Module | None:
    """pychop's quantized layer (its recurrent layers do not quantise states)."""
    if not installed("pychop"):
        return None
    with quiet():
        import pychop  # pyright: ignore[reportMissingImports]
        from pychop import layers  # pyright: ignore[reportMissingImports]

        chop = pychop.ChopSTE(exp_bits=exponent_bits, sig_bits=mantissa_bits, rmode=1)
        make: Callable[..., nn.Module] = getattr(layers, name)
        extra = {"batch_first": True} if name == "QuantizedLSTM" else {}
        try:
            return make(*sizes, chop=chop, **extra)
        except Exception:
            return None
