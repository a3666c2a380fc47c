"""Optical attention as modules: the state (six ranges, seeds of the noise), and attention layers that use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from quantsim.errors import QuantsimError
from quantsim.nn import QuantizationMixin
from quantsim.nn.containers import empty_list
from quantsim.optical.sdpa import LevelSource, float_attention, given_products, optical_attention_steps
from quantsim.optical.settings import AttentionRange, OpticalSettings
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.optical import OpticalQuantizeDequantize
from quantsim_encodings.formats import OpticalNoise

if TYPE_CHECKING:
    from quantsim.optical.transformers_attention import (
        OtBertSelfAttention,
        OtLlamaAttention,
        OtRobertaSelfAttention,
        convert_attention,
        is_interface_attention,
        use_optical_attention,
    )

__all__ = [
    "OpticalAttentionCore",
    "OtBertSelfAttention",
    "OtLlamaAttention",
    "OtRobertaSelfAttention",
    "ScaledDotProductAttention",
    "convert_attention",
    "is_interface_attention",
    "use_optical_attention",
]

_NEED_TRANSFORMERS = frozenset(__all__) - {"OpticalAttentionCore", "ScaledDotProductAttention"}

PLACES = {
    "query": ("input_quantizers", 0),
    "key": ("input_quantizers", 1),
    "value": ("input_quantizers", 2),
    "attn": ("input_quantizers", 3),
    "qk": ("output_quantizers", 0),
    "av": ("output_quantizers", 1),
}
"""Container and index of each of the six quantizers."""


def __getattr__(name: str) -> Any:
    """The classes that derive from transformers' are made when they are first asked for."""
    if name in _NEED_TRANSFORMERS:
        from quantsim.optical import transformers_attention

        return getattr(transformers_attention, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class ScaledDotProductAttention(nn.Module):
    """Attention of given queries, keys and values, without projections."""

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Returns the output and the probabilities; for the arguments see `optical_transformer_SDPA`."""
        return float_attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)


class OpticalAttentionCore(QuantizationMixin, ScaledDotProductAttention):
    """`ScaledDotProductAttention` on a simulated photonic engine; holds the six ranges and the seeds of the noise.

    The law is that of `optical_transformer_SDPA`. The ranges follow the data in training and inside
    `compute_encodings`; ``eval()`` freezes them. All of them, and where the noise stands, are in ``state_dict``.

    Input quantizers 0 to 3 are those of query, key, value and probabilities (fixed to 0 … 1, which with
    ``attn_range="row"`` means up to each row's maximum); output quantizers 0 and 1 are those of the products of
    queries with keys and of probabilities with values.

    Args:
        settings: What to make; by default `OpticalSettings` of the keyword arguments.
        q: Fields of `OpticalSettings`.

    Attributes:
        q_bypass: While True this is plain attention, and no range moves.
        settings: What it was made with.

    Raises:
        ConfigurationError: If a setting is unknown or out of bounds.

    Example:
        >>> core = OpticalAttentionCore(q_levels=128)
        >>> q, k, v = torch.randn(3, 1, 2, 4, 8)
        >>> output, probabilities = core(q, k, v, is_causal=True)
        >>> output.shape, sorted(core.ranges)
        (torch.Size([1, 2, 4, 8]), ['attn', 'av', 'key', 'qk', 'query', 'value'])
    """

    settings: OpticalSettings
    q_bypass: bool

    def __init__(self, settings: OpticalSettings | None = None, **q: Any) -> None:
        parsed = OpticalSettings.parse(q, type(self).__name__) if settings is None or q else settings
        super().__init__()
        self.settings, self.q_bypass = parsed, parsed.q_bypass
        common: dict[str, Any] = {
            "levels": parsed.q_levels,
            "quantiles": parsed.q_quantiles,
            "smooth_factor": parsed.q_smooth_factor,
            "ste": parsed.ste,
        }
        with torch.device("cpu"):  # also inside torch.device("meta"): the range of the probabilities is known
            for number, name in enumerate(PLACES):
                more: dict[str, Any] = {"seed": parsed.with_seed_number(number).q_init_seed}
                if name in ("key", "value"):
                    more["lut"] = parsed.q_lut_min
                if name in ("qk", "av"):
                    more |= {"noise": parsed.noise, "photons": parsed.photons}
                quantizer = OpticalQuantizeDequantize(**common, **more)
                if name == "attn":
                    quantizer.set_range(0.0, 1.0)
                    quantizer.freeze()
                container, index = PLACES[name]
                getattr(self, container)[index] = quantizer

    @override
    def __quant_init__(self) -> None:
        super().__quant_init__()
        self.input_quantizers, self.output_quantizers = empty_list(4), empty_list(2)

    @property
    def ranges(self) -> dict[str, Tensor]:
        """The six ranges by name, float32 of shape (2,); NaN while not set. Other quantizers have none here."""
        quantizers = {name: self._quantizer(name) for name in PLACES}
        return {name: quantizer.range for name, quantizer in quantizers.items() if hasattr(quantizer, "range")}  # pyright: ignore[reportReturnType]

    def _quantizer(self, name: str) -> Any:
        container, index = PLACES[name]
        return getattr(self, container)[index]

    @override
    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> tuple[Tensor, Tensor]:
        """Returns the output and the probabilities before quantization; ranges that follow the data move first.

        Args:
            query: See `optical_transformer_SDPA`, as for the others.
            key: ...
            value: ...
            attn_mask: ...
            dropout_p: ...
            is_causal: ...
            scale: ...
            enable_gqa: ...

        Raises:
            NotCalibratedError: In evaluation, if a range was never set; the text names this module.
            ShapeError: If heads or mask do not fit.
        """
        if self.q_bypass or query.numel() == 0 or key.numel() == 0:
            return float_attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
        quantizers = {name: self._quantizer(name) for name in PLACES}
        if not _are_of_one_engine(quantizers):
            return self._by_quantizers(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)
        sources: dict[str, LevelSource] = {
            name: _Located(quantizer, self._location("{}[{}]".format(*PLACES[name])))
            for name, quantizer in quantizers.items()
        }
        return optical_attention_steps(
            query,
            key,
            value,
            sources,
            self.settings.attn_range is AttentionRange.ROW,
            attn_mask=attn_mask,
            dropout_p=dropout_p,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
            where=self.module_path or type(self).__name__,
        )

    def _by_quantizers(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None,
        dropout_p: float,
        is_causal: bool,
        scale: float | None,
        enable_gqa: bool,
    ) -> tuple[Tensor, Tensor]:
        """The same law from one quantizer after the other, whichever they are; ``None`` leaves a tensor as it is."""

        def scores_of(a: Tensor, b: Tensor, row_range: Tensor | None) -> Tensor:
            product = torch.matmul(self._quantized("query", a), self._quantized("key", b))
            return self._quantized("qk", product)

        def output_of(a: Tensor, b: Tensor, row_range: Tensor | None) -> Tensor:
            weights = a.to(value.dtype)
            if row_range is None:
                weights = self._quantized("attn", weights)
            else:  # a grid from 0 to the row's maximum is the grid from 0 to 1 for the row divided by it
                largest = torch.where(row_range[1] > 0.0, row_range[1], 1.0).to(weights.dtype)
                weights = self._quantized("attn", weights / largest) * largest
            return self._quantized("av", torch.matmul(weights, self._quantized("value", b)))

        return given_products(
            query,
            key,
            value,
            scores_of,
            output_of,
            attn_mask,
            dropout_p,
            is_causal,
            scale,
            enable_gqa,
            self.settings.attn_range is AttentionRange.ROW,
            self.module_path or type(self).__name__,
        )

    def _quantized(self, name: str, x: Tensor) -> Tensor:
        quantizer: QuantizerBase | None = self._quantizer(name)
        if quantizer is None:
            return x
        try:
            return quantizer(x)
        except QuantsimError as error:
            raise error.with_location(self._location("{}[{}]".format(*PLACES[name])))  # noqa: B904 (the same error)

    @override
    def get_original_module(self) -> nn.Module:
        original = super().get_original_module()
        for name in ("settings", "q_bypass"):
            original.__dict__.pop(name, None)
        return original

    @override
    def extra_repr(self) -> str:
        bypass = ", q_bypass=True" if self.q_bypass else ""
        return f"attn_range={self.settings.attn_range.value}{bypass}"


class _Located:
    """An optical quantizer whose errors say where it is."""

    def __init__(self, quantizer: OpticalQuantizeDequantize, location: str) -> None:
        self._quantizer = quantizer
        self._place = location
        self.levels, self.lut, self.ste = quantizer.levels, quantizer.lut, quantizer.ste
        self.photons, self.follows_data = quantizer.photons, quantizer.follows_data
        self.current_noise = quantizer.current_noise
        self.next_seed = quantizer.next_seed

    def range_for(self, x: Tensor, extremes: Tensor | None = None) -> Tensor:
        try:
            return self._quantizer.range_for(x, extremes)
        except QuantsimError as error:
            raise error.with_location(self._place)  # noqa: B904 (the same error, with its place)


def _are_of_one_engine(quantizers: dict[str, Any]) -> bool:
    """Whether the quantizers are such that the optical products can stand for them."""
    first = quantizers["av"]
    return all(
        type(each) is OpticalQuantizeDequantize
        and not each._forward_hooks
        and not each._forward_pre_hooks
        and each.levels == first.levels
        and each.ste is first.ste
        and (name in ("key", "value") or each.lut is None)
        and (name in ("qk", "av") or each.noise is OpticalNoise.NONE)
        for name, each in quantizers.items()
    )
