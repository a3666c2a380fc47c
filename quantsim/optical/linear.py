"""A linear layer whose matrix product runs on a simulated photonic engine."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from quantsim.errors import ConfigurationError, QuantsimError
from quantsim.nn import BaseQuantizationMixin, DispatchReport, DispatchSource, QuantizationMixin, QuantizedLinear
from quantsim.optical._weight_codes import WeightCodes
from quantsim.optical.settings import OpticalSettings
from quantsim.quantization.optical import DEFAULT_LUT, OpticalQuantizeDequantize
from quantsim_encodings.formats import OpticalNoise
from quantsim_kernels.optical import OpticalGradient, optical_linear
from quantsim_kernels.registry import Scheme, registry

__all__ = ["OtLinear"]

OP = "optical_linear"


class OtLinear(QuantizedLinear):
    """`torch.nn.Linear` on a simulated photonic engine (Optical Transformer, arXiv 2302.10360).

    ``y = Q_noise(Q(x) · Q(W; lut)ᵀ) + bias``: inputs, weights and the product's accumulator lie on evenly spaced
    levels, the bias is added in the end and is not quantized. The ranges follow the data in training and inside
    `compute_encodings`, that of the output from the accumulator before it is clipped; ``eval()`` freezes them. They
    and the seed of the noise are in the quantizers (`quantsim.quantization.optical`), and so in ``state_dict``.

    A quantized module: `input_quantizers`, `param_quantizers` and `output_quantizers` can be looked at, frozen,
    exported and replaced. While they are those of the constructor, the ``optical_linear`` kernel computes the layer
    (or one of the same arguments, see `set_kernel`); other combinations are computed quantizer by quantizer.

    Args:
        in_features: See `torch.nn.Linear`.
        out_features: See `torch.nn.Linear`.
        bias: See `torch.nn.Linear`.
        q_levels: See `OpticalSettings`, as for all that follow.
        q_lut_min: ...
        q_quantiles: ...
        q_smooth_factor: ...
        q_init_seed: ...
        q_bypass: ...
        noise: ...
        photons: ...
        ste: ...
        device: See `torch.nn.Linear`.
        dtype: See `torch.nn.Linear`.

    Attributes:
        q_bypass: While True the layer is exactly `torch.nn.Linear`, and no range moves.
        settings: What it was made with.

    Raises:
        ConfigurationError: If a setting is out of bounds.

    Example:
        >>> layer = OtLinear(4, 2, q_levels=128)
        >>> _ = layer(torch.randn(8, 4))  # in training, the first batch sets the ranges
        >>> layer.eval()(torch.randn(8, 4)).shape, layer.input_quantizers[0].levels
        (torch.Size([8, 2]), 128)
    """

    settings: OpticalSettings
    q_bypass: bool
    error_map: Tensor | None

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        *,
        q_levels: int = 256,
        q_lut_min: float | None = DEFAULT_LUT,
        q_quantiles: tuple[float, float] | None = None,
        q_smooth_factor: float = 0.9,
        q_init_seed: int = 0,
        q_bypass: bool = False,
        noise: OpticalNoise | str = OpticalNoise.DITHER,
        photons: float | None = None,
        ste: OpticalGradient | str = OpticalGradient.IDENTITY,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        settings = _settings(
            type(self).__name__,
            q_levels=q_levels,
            q_lut_min=q_lut_min,
            q_quantiles=q_quantiles,
            q_smooth_factor=q_smooth_factor,
            q_init_seed=q_init_seed,
            q_bypass=q_bypass,
            noise=noise,
            photons=photons,
            ste=ste,
        )
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self._make_optical(settings)

    @classmethod
    def from_linear(cls, linear: nn.Linear, *, share_parameters: bool = False, **q: Any) -> Self:
        """Makes the optical layer of a linear layer; device (``meta`` as well), dtype and training mode are kept.

        Args:
            linear: A `torch.nn.Linear`; it is not changed.
            share_parameters: Whether weight, bias and hooks are the very ones of ``linear``, so that tied weights stay
                tied, instead of copies without hooks.
            q: Settings by the names of the constructor's arguments.

        Raises:
            ConfigurationError: If ``linear`` is something else, or a setting is unknown or out of bounds.

        Example:
            >>> linear = nn.Linear(4, 2, dtype=torch.bfloat16)
            >>> OtLinear.from_linear(linear, q_levels=64).weight.dtype
            torch.bfloat16
        """
        where = f"{cls.__name__}.from_linear"
        settings = _settings(where, **q)
        if (
            not isinstance(linear, nn.Linear)
            or isinstance(linear, (BaseQuantizationMixin, nn.LazyLinear))
            or type(linear).forward is not nn.Linear.forward
        ):
            raise ConfigurationError(
                where=where,
                got=f"a {type(linear).__name__}",
                expected="a torch.nn.Linear with torch's own forward",
                fix="run a lazy layer once; take the float module of a quantized one by get_original_module()",
            )
        if share_parameters:
            source = object.__new__(nn.Linear)  # not copied, so that hooks and attributes of others come along
            source.__dict__.update(linear.__dict__)
        else:
            source = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
            for name, parameter in linear._parameters.items():
                if parameter is not None:
                    copied = parameter.detach().clone(memory_format=torch.preserve_format)
                    source._parameters[name] = nn.Parameter(copied, requires_grad=parameter.requires_grad)
            source.training = linear.training
        layer: Any = QuantizationMixin.from_module(source)
        layer.__class__ = cls  # adds the optical forward to the same containers
        layer._make_optical(settings)
        return layer

    def _make_optical(self, settings: OpticalSettings) -> None:
        self.settings, self.q_bypass, self.error_map = settings, settings.q_bypass, None
        self._weight_codes = WeightCodes()
        common: dict[str, Any] = {
            "levels": settings.q_levels,
            "quantiles": settings.q_quantiles,
            "smooth_factor": settings.q_smooth_factor,
            "seed": settings.q_init_seed,
            "ste": settings.ste,
        }
        device = self.weight.device
        made = (
            OpticalQuantizeDequantize(**common),
            OpticalQuantizeDequantize(**common, lut=settings.q_lut_min),
            OpticalQuantizeDequantize(
                **common, noise=settings.noise, photons=self._photons_of_output(settings.photons)
            ),
        )
        for quantizer in made:
            quantizer.train(self.training)
            quantizer.to(device)
        self.input_quantizers[0], self.param_quantizers["weight"], self.output_quantizers[0] = made

    def _photons_of_output(self, photons: float | None) -> float | None:
        """Photons behind an output at full scale: those of all its multiply-accumulates."""
        return None if photons is None else photons * self.in_features

    def set_error_map(self, error_map: Tensor | None) -> None:
        """Multiplies each quantized weight with a factor of its own: static errors of fabrication and calibration.

        Args:
            error_map: Factors in the weight's shape, or one that broadcasts to it; ``None``: no errors. Kept as a
                buffer, which is in the state_dict; a layer that loads one needs a map of that shape first.

        Raises:
            ConfigurationError: If the shape does not fit, or a factor is not finite.
        """
        self._weight_codes = WeightCodes()
        if error_map is None:
            self._buffers.pop("error_map", None)
            self.error_map = None
            return
        where = self._location("set_error_map")
        factors = error_map.detach().to(device=self.weight.device, dtype=torch.float32).clone()
        try:
            factors = factors.expand(self.weight.shape).contiguous()
        except RuntimeError:
            raise ConfigurationError(
                where=where, got=f"shape {tuple(error_map.shape)}", expected=f"{tuple(self.weight.shape)}"
            ) from None
        if not (factors.is_meta or bool(torch.isfinite(factors).all())):
            raise ConfigurationError(where=where, got="NaN or infinity among the factors", expected="finite factors")
        self.__dict__.pop("error_map", None)
        self.register_buffer("error_map", factors)

    # ---------------------------------------------------------------- forward

    @override
    def forward(self, input: Tensor) -> Tensor:
        """Computes the optical layer; the ranges follow ``input`` first in training and inside `compute_encodings`.

        Raises:
            NotCalibratedError: In evaluation, if a range was never set.
        """
        if self.q_bypass:
            return F.linear(input, self.weight, self.bias)
        if not self._has_own_quantizers() or input.is_meta or input.numel() == 0:
            return self._by_quantizers(input)
        return self._by_kernel(input)

    def _quantizers(self) -> tuple[Any, Any, Any]:
        return self.input_quantizers[0], self.param_quantizers["weight"], self.output_quantizers[0]

    def _has_own_quantizers(self) -> bool:
        """Whether the quantizers are such that one kernel computes them all."""
        quantizers = self._quantizers()
        inputs, weights, outputs = quantizers
        return (
            all(
                type(each) is OpticalQuantizeDequantize and not each._forward_hooks and not each._forward_pre_hooks
                for each in quantizers
            )
            and inputs.levels == weights.levels == outputs.levels
            and inputs.ste is weights.ste is outputs.ste
            and inputs.lut is None
            and outputs.lut is None
            and inputs.noise is OpticalNoise.NONE
            and weights.noise is OpticalNoise.NONE
            and self.param_quantizers._modules.get("bias") is None
        )

    def _by_kernel(self, input: Tensor) -> Tensor:
        inputs, weights, outputs = self._quantizers()
        kernel = self.get_kernel() or optical_linear
        settings: dict[str, Any] = {
            "levels": outputs.levels,
            "lut": weights.lut,
            "error_map": self.error_map,
            "ste": outputs.ste,
        }
        input_range = self._range("input_quantizers[0]", inputs, input)
        weight_range = self._weight_range(weights)
        if kernel is optical_linear:
            settings["weight_codes"] = self._weight_codes.of(
                self.weight, weight_range, weights.levels, weights.lut, self.error_map
            )
        if outputs.follows_data:
            # The range has to know the accumulator before it can be quantized.
            accumulator, extremes = kernel(
                input, self.weight, None, input_range, weight_range, None, noise=OpticalNoise.NONE, **settings
            )
            output_range = self._range("output_quantizers[0]", outputs, accumulator, extremes)
            owned = kernel is optical_linear  # what another kernel returns may be its own
            return self._with_bias(outputs.quantize_in(accumulator, output_range, owned=owned), input)
        output_range = self._range("output_quantizers[0]", outputs, input)
        noise = outputs.current_noise()
        result, _ = kernel(
            input,
            self.weight,
            self.bias,
            input_range,
            weight_range,
            output_range,
            noise=noise,
            seed=None if noise is OpticalNoise.NONE else outputs.next_seed(),
            photons=None if noise is not OpticalNoise.SHOT else outputs.photons / self.in_features,
            **settings,
        )
        return result

    def _by_quantizers(self, input: Tensor) -> Tensor:
        """The same numbers from one quantizer after the other, whichever they are."""
        inputs, weights, outputs = self._quantizers()
        quantized, weight = input.to(torch.float32), self.weight.to(torch.float32)  # as the kernel
        if inputs is not None:
            quantized = self._quantize_tensor("input_quantizers", 0, inputs, quantized)
        if weights is not None:
            if not (weights.is_initialized() or getattr(weights, "follows_data", False)):
                self._calibrate_parameters(overwrite=False)
            weight = weights(weight)
        if self.error_map is not None:
            weight = weight * self.error_map
        device = input.device.type
        with torch.autocast(device, enabled=False) if torch.amp.is_autocast_available(device) else nullcontext():
            result = F.linear(quantized, weight)
        if outputs is not None:
            result = self._quantize_tensor("output_quantizers", 0, outputs, result)
        return self._with_bias(result, input)

    def _with_bias(self, result: Tensor, input: Tensor) -> Tensor:
        if self.bias is None:
            return result.to(input.dtype)
        quantizer: Any = self.param_quantizers._modules.get("bias")
        bias = self.bias if quantizer is None else self._quantized_parameter("bias", quantizer)
        assert bias is not None
        return (result + bias).to(input.dtype)

    def _range(
        self, place: str, quantizer: OpticalQuantizeDequantize, x: Tensor, extremes: Tensor | None = None
    ) -> Tensor:
        try:
            return quantizer.range_for(x, extremes)
        except QuantsimError as error:
            raise error.with_location(self._location(place))  # noqa: B904 (the same error, with its place)

    def _weight_range(self, weights: OpticalQuantizeDequantize) -> Tensor:
        if not (weights.follows_data or weights._initialized or weights.is_initialized()):
            self._calibrate_parameters(overwrite=False)
        return self._range("param_quantizers['weight']", weights, self.weight)

    # ---------------------------------------------------------------- what the base says otherwise

    @override
    def set_kernel(self, kernel: Callable[..., Any] | None) -> None:
        """Sets the function that computes this layer instead of `quantsim_kernels.optical.optical_linear`.

        Args:
            kernel: Function of the same arguments and results; ``None`` goes back to that one.
        """
        super().set_kernel(kernel)

    @override
    def get_original_module(self) -> nn.Module:
        original = super().get_original_module()
        for name in ("settings", "q_bypass", "error_map", "_weight_codes"):
            original.__dict__.pop(name, None)
        original._buffers.pop("error_map", None)
        return original

    @override
    def explain_dispatch(self, *args: Any, **kwargs: Any) -> DispatchReport:
        """Says what computes this layer, and why."""

        def report(source: DispatchSource, reason: str, **more: Any) -> DispatchReport:
            return DispatchReport(op=OP, source=source, reason=reason, **more)

        if self.q_bypass:
            return report(DispatchSource.FAKE_QUANTIZATION, "q_bypass is on: torch computes the layer")
        if not self._has_own_quantizers():
            return report(
                DispatchSource.FAKE_QUANTIZATION, "the quantizers are not those of one optical engine: one by one"
            )
        if self._kernel is not None:
            return report(DispatchSource.INSTANCE, "set_kernel() was called", kernel=self._kernel)
        if type(self)._default_kernel is not None:
            reason = "set_default_kernel() was called on the class"
            return report(DispatchSource.CLASS, reason, kernel=type(self)._default_kernel)
        inputs, weights, outputs = self._quantizers()
        ranges = inputs.range, weights.range, outputs.range
        candidates = registry.explain(OP, Scheme.OPTICAL, self.weight, self.weight, self.bias, *ranges)
        return report(
            DispatchSource.REGISTRY,
            "the quantizers are those of one optical engine",
            kernel=optical_linear,
            candidates=candidates,
        )

    @override
    def extra_repr(self) -> str:
        bypass = ", q_bypass=True" if self.q_bypass else ""
        return f"{super().extra_repr()}{bypass}"


def _settings(where: str, **values: Any) -> OpticalSettings:
    if "attn_range" in values:
        raise ConfigurationError(where=where, got="attn_range", expected="settings of a linear layer")
    return OpticalSettings.parse(values, where)
