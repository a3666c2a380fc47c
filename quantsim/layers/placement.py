"""Places float (and block float) quantizers in a quantized module: which of its tensors are cast, and along what axis.

Inputs and parameters, biases included, are cast. Outputs are cast where they are no sums of products that an
accumulator holds: those of norms, activations, recurrent layers and attention, not those of linear layers,
convolutions and embeddings, unless `FloatPrecisionSettings.quantize_output` says otherwise. Recurrent layers cast
their states after every step; attention casts queries, keys, values, scores and probabilities as well.

Blocks of block formats run along the axis that a product sums over, else along channels or the last axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.layers.gradient_quantizers import (
    FloatGradientQuantizeDequantize,
    GradientPrecision,
    MXGradientQuantizeDequantize,
)
from quantsim.layers.settings import FloatPrecisionSettings
from quantsim.nn import BaseQuantizationMixin
from quantsim.nn.attention import AttentionBehaviour
from quantsim.nn.recurrent import RecurrentModule
from quantsim.nn.specification import ModuleSpec
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.float import FloatQuantizeDequantize
from quantsim.quantization.mx import MXQuantizeDequantize
from quantsim_encodings.formats import FloatFormat, float_format

__all__ = ["FloatPrecisionSettings", "place_float_quantizers"]

_SUMS_OF_PRODUCTS: Final = frozenset(
    "linear bilinear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d embedding embedding_bag "
    "matmul bmm baddbmm addmm".split()
)
_KEEP_THE_GRID: Final = frozenset(
    "relu relu6 max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d "
    "fractional_max_pool2d fractional_max_pool3d max_unpool1d max_unpool2d max_unpool3d identity flatten unflatten "
    "channel_shuffle pixel_shuffle pixel_unshuffle pad unfold".split()
)
"""Ops that pick among the numbers they are given (or zero, or six): the results of cast inputs are on the grid."""

_CHANNELS_BEFORE: Final = {"1d": -2, "2d": -3, "3d": -4}
"""Axis of the channels of an activation, by the end of the op's name."""


def place_float_quantizers(module: nn.Module, settings: FloatPrecisionSettings) -> None:
    """Sets the quantizers of a quantized module, and of the parts it is made of, so that it computes in a float format.

    All of its quantizers are replaced. On an error the module is unchanged.

    Args:
        module: A quantized module of `quantsim.nn`; one of several modules of a model should get settings whose seed
            is its own (`FloatPrecisionSettings.with_seed_number`).
        settings: Format, rounding, overflow, subnormals, seed, gradients, outputs.

    Raises:
        ConfigurationError: If ``module`` is no quantized module.

    Example:
        >>> from quantsim.nn import QuantizedLinear
        >>> linear = QuantizedLinear(4, 2)
        >>> place_float_quantizers(linear, FloatPrecisionSettings(exp_bits=5, sig_bits=10))
        >>> linear.input_quantizers[0].format.max, linear.output_quantizers[0]
        (65504.0, None)
    """
    if not isinstance(module, BaseQuantizationMixin):
        raise ConfigurationError(
            where="place_float_quantizers(module)",
            got=f"a module of type {type(module).__name__}",
            expected="a quantized module",
            fix="make one with QuantizationMixin.from_module(module)",
        )
    plan = _Plan(settings)
    if isinstance(module, AttentionBehaviour):
        _plan_attention(plan, module)
    else:
        _plan_module(plan, module)
    plan.carry_out()
    for part in module.modules():
        if isinstance(part, RecurrentModule):
            part.quantize_every_step = True


class _Plan:
    """Quantizers that have been made and where they go; nothing is changed until all of them exist."""

    def __init__(self, settings: FloatPrecisionSettings) -> None:
        self.settings = settings
        self.is_blocked = not isinstance(settings.target, FloatFormat)
        self._make = _maker(settings)
        self._made = 0
        self._places: list[tuple[Any, Any, QuantizerBase | None]] = []

    def quantizer(self, axis: int = -1) -> QuantizerBase:
        """A new quantizer, whose blocks, if there are any, run along ``axis``."""
        self._made += 1
        return self._make(self.settings.with_seed_number(self._made - 1), axis)

    def cast(self, container: nn.ModuleList | nn.ModuleDict, key: int | str, axis: int = -1) -> None:
        """Plans a new quantizer for an entry."""
        self.put(container, key, self.quantizer(axis))

    def output(self, module: Any, index: int = 0, axis: int = -1, *, wanted: bool = True) -> None:
        """Plans what an output gets: a cast, a cast of its gradient alone, or nothing."""
        if self.settings.quantize_output if self.settings.quantize_output is not None else wanted:
            self.cast(module.output_quantizers, index, axis)
        else:
            self.gradient_only(module.output_quantizers, index)

    def gradient_only(self, container: nn.ModuleList, key: int) -> None:
        """Plans a cast of the gradient that arrives there, if gradients are cast at all."""
        if self.settings.gradient_format is None:
            self.put(container, key, None)
            return
        self._made += 1
        settings = self.settings.with_seed_number(self._made - 1)
        self.put(container, key, _float_quantizer(settings, -1, float_format("fp32")))

    def put(self, container: nn.ModuleList | nn.ModuleDict, key: int | str, quantizer: QuantizerBase | None) -> None:
        """Plans an entry."""
        self._places.append((container, key, quantizer))

    def carry_out(self) -> None:
        """Sets all entries."""
        for container, key, quantizer in self._places:
            container[key] = quantizer


def _maker(settings: FloatPrecisionSettings) -> Callable[[FloatPrecisionSettings, int], QuantizerBase]:
    return _float_quantizer if isinstance(settings.target, FloatFormat) else _block_quantizer


def _float_quantizer(
    settings: FloatPrecisionSettings, axis: int, format: FloatFormat | None = None
) -> FloatQuantizeDequantize:
    """A plain cast; ``axis`` means nothing to it."""
    arguments: dict[str, Any] = {
        "format": format or settings.target,
        "rounding": settings.rounding,
        "saturate": settings.saturate,
        "subnormal": settings.subnormal,
        "scaled": False,
        "seed": settings.seed,
    }
    gradient = GradientPrecision.of(settings)
    if gradient is None:
        return FloatQuantizeDequantize(**arguments)
    return FloatGradientQuantizeDequantize(gradient=gradient, **arguments)


def _block_quantizer(settings: FloatPrecisionSettings, axis: int) -> MXQuantizeDequantize:
    arguments: dict[str, Any] = {
        "format": settings.target,
        "axis": axis,
        "rounding": settings.rounding,
        "seed": settings.seed,
    }
    gradient = GradientPrecision.of(settings)
    if gradient is None:
        return MXQuantizeDequantize(**arguments)
    return MXGradientQuantizeDequantize(gradient=gradient, **arguments)


# ---------------------------------------------------------------- kinds of modules


def _plan_module(plan: _Plan, module: Any) -> None:
    spec: ModuleSpec | None = getattr(type(module), "_spec", None)
    op = "" if spec is None else spec.op
    axes = _input_axes(op, len(module.input_quantizers))
    for index, axis in enumerate(axes):
        plan.cast(module.input_quantizers, index, axis)
    for name in module.param_quantizers:
        plan.cast(module.param_quantizers, name, _parameter_axis(op, name, module))
    if isinstance(module, RecurrentModule):
        _plan_states(plan, module)
        return
    for index in range(len(module.output_quantizers)):
        wanted = op not in _SUMS_OF_PRODUCTS and op not in _KEEP_THE_GRID
        plan.output(module, index, _channels(op), wanted=wanted)


def _plan_states(plan: _Plan, module: Any) -> None:
    """States are cast at every step. The sequence that comes out is made of them, so it shares their quantizer."""
    hidden = plan.quantizer()
    plan.put(module.output_quantizers, 0, hidden)
    plan.put(module.output_quantizers, 1, hidden)
    for index in range(2, len(module.output_quantizers)):
        plan.cast(module.output_quantizers, index)


def _plan_attention(plan: _Plan, module: Any) -> None:
    """Projections, q, k, v, scores, probabilities and output.

    A block format has its blocks along the axis that a product sums over, so keys and values are cast where they enter
    the products; others are cast where they leave the projections, as a cache of keys and values would hold them.
    """
    for name in module.param_quantizers:
        plan.cast(module.param_quantizers, name)
    for projection in (module.q_proj, module.k_proj, module.v_proj, module.out_proj):
        _plan_projection(plan, projection, is_output=projection is module.out_proj)
    for product in (module.qk_matmul, module.qkv_matmul):
        for index, axis in enumerate((-1, -2)):
            if plan.is_blocked:
                plan.cast(product.input_quantizers, index, axis)
            else:
                plan.put(product.input_quantizers, index, None)
    if not plan.is_blocked and module.dropout > 0.0:  # dropout scales what it keeps
        plan.cast(module.qkv_matmul.input_quantizers, 0)
    plan.cast(module.qk_matmul.output_quantizers, 0)
    # What the masks have made of the scores may be minus infinity; it is not cast again.
    plan.put(module.softmax.input_quantizers, 0, None)
    plan.cast(module.softmax.output_quantizers, 0)
    plan.gradient_only(module.qkv_matmul.output_quantizers, 0)


def _plan_projection(plan: _Plan, projection: Any, *, is_output: bool) -> None:
    plan.cast(projection.input_quantizers, 0)
    for name in projection.param_quantizers:
        plan.cast(projection.param_quantizers, name)
    if is_output:
        plan.output(projection)
    elif plan.is_blocked:
        plan.gradient_only(projection.output_quantizers, 0)
    else:
        plan.cast(projection.output_quantizers, 0)


# ---------------------------------------------------------------- axes of blocks


def _input_axes(op: str, count: int) -> list[int]:
    if op in ("matmul", "bmm") and count == 2:
        return [-1, -2]  # rows of the first, columns of the second
    return [_channels(op)] * count


def _channels(op: str) -> int:
    """The axis of channels of what has space after them; the last one of everything else."""
    if op in ("batch_norm", "group_norm", "instance_norm"):
        return 1
    if op.startswith(("conv", "dropout")) or "pool" in op:
        return _CHANNELS_BEFORE.get(op[-2:], -1)
    return -1


def _parameter_axis(op: str, name: str, module: Any) -> int:
    if name == "weight" and op.startswith("conv"):
        return 0 if op.startswith("conv_transpose") else 1
    return -1
