"""Other libraries that do the same work, each used where it is installed (none is a dependency).

Every function returns something callable, or None where the library is missing or cannot do it; so a table shows what
was there.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn

TensorFunction = Callable[[torch.Tensor], torch.Tensor]


def installed(name: str) -> bool:
    """Whether a top-level package can be found (without importing it)."""
    return importlib.util.find_spec(name) is not None


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep other libraries' import-time messages out of the tables."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        previous = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(previous)


def aimet_quantizer(shape: tuple[int, ...], block_size: tuple[int, ...] | None, x: torch.Tensor) -> nn.Module | None:
    """aimet-torch's int8 symmetric QuantizeDequantize, calibrated."""
    if not installed("aimet_torch"):
        return None
    with quiet():
        from aimet_torch.quantization import affine  # pyright: ignore[reportMissingImports]

        quantizer = affine.QuantizeDequantize(shape, 8, True, block_size=block_size)
        with quantizer.compute_encodings():
            quantizer(x)
    return quantizer


def aimet_linear(linear: nn.Linear, x: torch.Tensor) -> nn.Module | None:
    """aimet-torch's QuantizedLinear with three calibrated int8 quantizers over a float layer."""
    if not installed("aimet_torch"):
        return None
    with quiet():
        import aimet_torch.nn as aimet_nn  # pyright: ignore[reportMissingImports]
        from aimet_torch.quantization import affine  # pyright: ignore[reportMissingImports]

        module = aimet_nn.QuantizationMixin.from_module(linear)
        module.input_quantizers[0] = affine.QuantizeDequantize((), 8, False)
        module.param_quantizers["weight"] = affine.QuantizeDequantize((linear.out_features, 1), 8, True)
        module.output_quantizers[0] = affine.QuantizeDequantize((), 8, False)
        with module.compute_encodings():
            module(x)
    return module


def aimet_analyzers(shape: tuple[int, ...]) -> dict[str, Any]:
    """aimet-torch's encoding analyzers by the names used in the tables."""
    if not installed("aimet_torch"):
        return {}
    with quiet():
        from aimet_torch.quantization import encoding_analyzer  # pyright: ignore[reportMissingImports]

    return {
        "min-max": encoding_analyzer.MinMaxEncodingAnalyzer(shape),
        "percentile": encoding_analyzer.PercentileEncodingAnalyzer(shape, percentile=99.9),
        "sqnr": encoding_analyzer.SqnrEncodingAnalyzer(shape),
    }


def torchao_quantize_dequantize(scale: torch.Tensor, block_size: tuple[int, ...]) -> TensorFunction | None:
    """torchao's fake quantisation to int8 with given scales."""
    if not installed("torchao"):
        return None
    try:
        with quiet():
            from torchao.quantization.quant_primitives import (  # pyright: ignore[reportMissingImports]
                _fake_quantize_affine as fake_quantize,
            )
    except ImportError:
        return None
    zero_point = torch.zeros_like(scale, dtype=torch.int32)
    return lambda x: fake_quantize(x, block_size, scale, zero_point, torch.int8, -128, 127)


def brevitas_quantize_dequantize(x: torch.Tensor) -> nn.Module | None:
    """brevitas' int8 QuantIdentity with a learned scale, per tensor."""
    if not installed("brevitas"):
        return None
    try:
        with quiet():
            import brevitas.nn as brevitas_nn  # pyright: ignore[reportMissingImports]

            # One step of statistics sets the scale; from the second on it is the learned parameter.
            module = brevitas_nn.QuantIdentity(bit_width=8, return_quant_tensor=False, collect_stats_steps=1)
            module(x)
            module(x)
    except Exception:
        return None
    return module


def torchao_dynamic_model(model: nn.Module) -> nn.Module | None:
    """A copy of a model with torchao's W8A8 (dynamic activations, true int8 matrix products)."""
    if not installed("torchao"):
        return None
    import copy

    try:
        with quiet():
            from torchao.quantization import (  # pyright: ignore[reportMissingImports]
                Int8DynamicActivationInt8WeightConfig,
                quantize_,
            )

            quantised = copy.deepcopy(model)
            quantize_(quantised, Int8DynamicActivationInt8WeightConfig())
    except Exception:
        return None
    return quantised


def quanto_model(model: nn.Module, run: Callable[[nn.Module], object]) -> nn.Module | None:
    """A copy of a model with optimum-quanto's int8 weights and activations, calibrated by ``run``."""
    if not installed("optimum"):
        return None
    import copy

    try:
        with quiet():
            from optimum.quanto import Calibration, freeze, qint8, quantize  # pyright: ignore[reportMissingImports]

            quantised = copy.deepcopy(model)
            quantize(quantised, weights=qint8, activations=qint8)
            with Calibration(), torch.no_grad():
                run(quantised)
            freeze(quantised)
    except Exception:
        return None
    return quantised
