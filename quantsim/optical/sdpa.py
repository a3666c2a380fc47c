"""Attention whose two matrix products run on a simulated photonic engine, as functions of tensors and ranges."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim.errors import ConfigurationError, NotCalibratedError, ShapeError
from quantsim.optical.settings import AttentionRange
from quantsim.quantization.optical import DEFAULT_LUT, batch_range
from quantsim.quantization.optical.analyzer import smoothed
from quantsim_encodings.formats import OpticalNoise
from quantsim_kernels.optical import OpticalGradient, optical_matmul, optical_quantize
from quantsim_kernels.random_seeds import SEED_STEP, seed_tensor

__all__ = ["attention_probabilities", "float_attention", "optical_product", "optical_transformer_SDPA"]

Choice = TypeVar("Choice", bound=StrEnum)


class LevelSource(Protocol):
    """What a product has to know of each of its three tensors; optical quantizers are such."""

    @property
    def levels(self) -> int: ...
    @property
    def lut(self) -> float | None: ...
    @property
    def ste(self) -> OpticalGradient: ...
    @property
    def photons(self) -> float | None: ...
    @property
    def follows_data(self) -> bool: ...
    def range_for(self, x: Tensor, extremes: Tensor | None = None) -> Tensor: ...
    def current_noise(self) -> OpticalNoise: ...
    def next_seed(self) -> Tensor: ...


def optical_product(
    a: Tensor, b: Tensor, a_source: LevelSource, b_source: LevelSource, out: LevelSource, factor: Tensor | None = None
) -> Tensor:
    """Multiplies two stacks of matrices optically: ``Q_noise(factor * (Q(a) @ Q(b; lut)))``.

    Ranges that follow the data are moved first, that of the result by the product before it is clipped.

    Args:
        a: Shape (..., L, K).
        b: Shape (..., K, N), the stored operand, which has the smallest transmission.
        a_source: Range of ``a``.
        b_source: Range and smallest transmission of ``b``.
        out: Range and noise of the result.
        factor: What the detector's reading is multiplied with, broadcast to the result; ``None``: nothing.

    Returns:
        Shape (..., L, N), in the dtype of ``a``.
    """
    a_range, b_range = a_source.range_for(a), b_source.range_for(b)
    levels, lut, ste = out.levels, b_source.lut, out.ste
    if out.follows_data or factor is not None:  # the range has to know the accumulator before it can be quantized
        accumulator, extremes = optical_matmul(
            a, b, a_range, b_range, None, levels=levels, lut=lut, noise=OpticalNoise.NONE, ste=ste
        )
        if factor is not None:
            accumulator = accumulator * factor
            return _detect(accumulator, out.range_for(accumulator), out, a.shape[-1]).to(a.dtype)
        return _detect(accumulator, out.range_for(accumulator, extremes), out, a.shape[-1]).to(a.dtype)
    out_range, noise = out.range_for(a), out.current_noise()
    result, _ = optical_matmul(
        a,
        b,
        a_range,
        b_range,
        out_range,
        levels=levels,
        lut=lut,
        noise=noise,
        seed=None if noise is OpticalNoise.NONE else out.next_seed(),
        photons=out.photons if noise is OpticalNoise.SHOT else None,
        ste=ste,
    )
    return result.to(a.dtype)


def _detect(accumulator: Tensor, range: Tensor, out: LevelSource, terms: int) -> Tensor:
    """Maps sums of ``terms`` products onto the levels; ``out.photons`` are those of one product, at full scale."""
    noise = out.current_noise()
    return optical_quantize(
        accumulator,
        range,
        out.levels,
        lut=out.lut,
        noise=noise,
        seed=None if noise is OpticalNoise.NONE else out.next_seed(),
        photons=None if noise is not OpticalNoise.SHOT or out.photons is None else out.photons * terms,
        ste=out.ste,
    )


def repeat_heads(query: Tensor, key: Tensor, value: Tensor, enable_gqa: bool, where: str) -> tuple[Tensor, Tensor]:
    """Repeats the heads of key and value for groups of query heads that share one.

    Raises:
        ShapeError: If the numbers of heads do not fit.
    """
    heads, shared = query.shape[-3], key.shape[-3]
    if heads == shared == value.shape[-3]:
        return key, value
    if not enable_gqa or shared == 0 or heads % shared or value.shape[-3] != shared:
        raise ShapeError(
            where=where,
            got=f"{heads} heads of query, {shared} of key and {value.shape[-3]} of value",
            expected="equal numbers, or with enable_gqa a multiple for query",
        )
    return key.repeat_interleave(heads // shared, -3), value.repeat_interleave(heads // shared, -3)


def attention_probabilities(
    scores: Tensor, attn_mask: Tensor | None, is_causal: bool, scale: float, where: str = "attention"
) -> Tensor:
    """Scales and masks scores, and normalises each row.

    Args:
        scores: Products of queries and keys, shape (..., L, S).
        attn_mask: ``True`` where a key takes part, or numbers to add; broadcast to ``scores``.
        is_causal: Whether the keys after a query's position are left out as well. Queries are the last ``L`` of the
            ``S`` positions, as they are when keys come from a cache.
        scale: Factor of the scores.
        where: What errors call the mask's owner.

    Returns:
        Probabilities in the dtype of ``scores`` (computed in float32). A row whose keys a bool mask or causality
        leaves out altogether is 0.

    Raises:
        ShapeError: If the mask does not broadcast to the scores.

    Example:
        >>> attention_probabilities(torch.zeros(2, 3), None, True, 1.0)
        tensor([[0.5000, 0.5000, 0.0000],
                [0.3333, 0.3333, 0.3333]])
    """
    scaled = scores * scale
    keep: Tensor | None = None
    if attn_mask is not None:
        try:
            fits = torch.broadcast_shapes(attn_mask.shape, scores.shape) == scores.shape
        except RuntimeError:
            fits = False
        if not fits:
            raise ShapeError(
                where=f"{where}(attn_mask)",
                got=f"shape {tuple(attn_mask.shape)}",
                expected=f"one that broadcasts to the scores' {tuple(scores.shape)}",
            )
        if attn_mask.dtype is torch.bool:
            keep = attn_mask
        else:
            scaled = scaled + attn_mask
    if is_causal:
        rows, columns = scores.shape[-2:]
        causal = torch.ones(rows, columns, dtype=torch.bool, device=scores.device).tril(columns - rows)
        keep = causal if keep is None else keep & causal
    if keep is None:
        return F.softmax(scaled, dim=-1, dtype=torch.float32).to(scores.dtype)
    # The smallest number instead of minus infinity: rows without a key have no NaN, forward or backward.
    scaled = scaled.masked_fill(~keep, torch.finfo(scaled.dtype).min)
    probabilities = F.softmax(scaled, dim=-1, dtype=torch.float32).to(scores.dtype)
    return probabilities * keep.any(dim=-1, keepdim=True)


def float_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> tuple[Tensor, Tensor]:
    """Plain attention, step by step: what the optical one computes without quantizers.

    Returns:
        The output and the probabilities (after dropout).
    """
    key, value = repeat_heads(query, key, value, enable_gqa, "float_attention")
    scores = torch.matmul(query, key.transpose(-2, -1))
    probabilities = attention_probabilities(scores, attn_mask, is_causal, scale_of(query, scale))
    probabilities = F.dropout(probabilities, dropout_p) if dropout_p else probabilities
    return torch.matmul(probabilities, value), probabilities


def scale_of(query: Tensor, scale: float | None) -> float:
    """``scale``, by default one over the square root of the length of a query."""
    return 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale


def optical_attention_steps(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sources: dict[str, LevelSource],
    row_range: bool,
    *,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    where: str,
) -> tuple[Tensor, Tensor]:
    """Both optical products and the softmax between them; output and probabilities (after dropout)."""
    factor = scale_of(query, scale)
    key, value = repeat_heads(query, key, value, enable_gqa, where)
    scores = optical_product(query, key.transpose(-2, -1), sources["query"], sources["key"], sources["qk"])
    probabilities = attention_probabilities(scores.float(), attn_mask, is_causal, factor, where).to(query.dtype)
    probabilities = F.dropout(probabilities, dropout_p) if dropout_p else probabilities
    sent, largest = probabilities, None
    if row_range:
        # A grid from 0 to the row's maximum is the grid from 0 to 1 for the row divided by it.
        largest = probabilities.detach().amax(dim=-1, keepdim=True)
        largest = torch.where(largest > 0.0, largest, 1.0)  # rows whose keys are all left out
        sent = probabilities / largest
    output = optical_product(sent, value, sources["attn"], sources["value"], sources["av"], largest)
    return output, probabilities


@dataclass
class _GivenRange:
    """A `LevelSource` of a range tensor of the caller's, which is changed in place."""

    name: str
    range: Tensor
    levels: int
    lut: float | None
    noise: OpticalNoise
    quantiles: tuple[float, float] | None
    smooth_factor: float
    photons: float | None
    ste: OpticalGradient
    follows_data: bool
    seed: Tensor

    def range_for(self, x: Tensor, extremes: Tensor | None = None) -> Tensor:
        if not self.follows_data:
            return self.range
        known = extremes is not None and self.quantiles is None
        batch = extremes.detach().float() if known and extremes is not None else batch_range(x, self.quantiles)
        with torch.no_grad():
            self.range.copy_(smoothed(self.range, batch.to(self.range.device), self.smooth_factor))
        return self.range.clone()

    def current_noise(self) -> OpticalNoise:
        return self.noise

    def next_seed(self) -> Tensor:
        return self.seed


def optical_transformer_SDPA(  # noqa: N802 (the published name)
    query: Tensor,
    key: Tensor,
    value: Tensor,
    query_range: Tensor,
    key_range: Tensor,
    qk_range: Tensor,
    attn_range: Tensor | AttentionRange | str,
    value_range: Tensor,
    av_range: Tensor,
    *,
    quantiles: tuple[float, float] | None = None,
    seed: int | Tensor = 0,
    update: bool = False,
    levels: int = 256,
    lut: float | None = DEFAULT_LUT,
    smooth_factor: float = 0.9,
    bypass: bool = False,
    noise: OpticalNoise | str = OpticalNoise.DITHER,
    photons: float | None = None,
    ste: OpticalGradient | str = OpticalGradient.IDENTITY,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Scaled dot-product attention of the Optical Transformer (arXiv 2302.10360).

    ``s = Q_noise(Q(query) · Q(key; lut)ᵀ)``, ``p = dropout(softmax(s · scale + mask))``,
    ``y = Q_noise(Q(p) · Q(value; lut))``; the range of ``s`` is that before the scale.

    At 256 levels from 0 to 1 every probability below 1/510 becomes 0: even attention over 512 keys is all 0. Take
    ``attn_range="row"`` for long rows.

    Args:
        query: Shape (..., heads, L, E).
        key: Shape (..., heads, S, E).
        value: Shape (..., heads, S, Ev).
        query_range: float32 tensor (lo, hi); so the other ranges. NaN: not set.
        key_range: ...
        qk_range: Of the product of queries and keys.
        attn_range: Of the probabilities: a fixed range, ``"unit"`` (0 to 1), or ``"row"`` (0 to each row's maximum).
        value_range: ...
        av_range: Of the result.
        quantiles: Quantiles that are a batch's range, when it updates the ranges; ``None``: its ends.
        seed: Seed of the noise; give another in each call.
        update: Whether the batch moves the ranges (not ``attn_range``), in place, before they are used.
        levels: Number of levels of all quantizers.
        lut: Smallest transmission of key and value, as a fraction of the ends of their ranges; ``None``: none.
        smooth_factor: Weight of the old ranges when the batch moves them.
        bypass: Plain attention instead.
        noise: Of both products: ``"dither"``, ``"shot"`` or ``"none"``.
        photons: Photon budget of shot noise.
        ste: Gradient, ``"identity"`` or ``"clipped"``.
        attn_mask: ``True`` where a key takes part, or numbers to add; broadcasts to (..., heads, L, S).
        dropout_p: Probability that a probability becomes 0; drawn from torch's generator, as torch does.
        is_causal: Whether a query sees no later key, besides ``attn_mask``; the last query sees the last key.
        scale: ``1 / sqrt(E)`` by default.
        enable_gqa: Whether groups of query heads may share a head of key and value.

    Returns:
        Shape (..., heads, L, Ev), in the dtype of ``query``.

    Raises:
        NotCalibratedError: On the CPU, if a range is NaN and the batch does not set it.
        ConfigurationError: If a setting or the shape of a range is wrong.
        ShapeError: If heads or mask do not fit.

    Example:
        >>> q, k, v = torch.randn(3, 1, 2, 4, 8)
        >>> ranges = torch.full((6, 2), float("nan"))
        >>> args = (q, k, v, ranges[0], ranges[1], ranges[2], "unit", ranges[4], ranges[5])
        >>> optical_transformer_SDPA(*args, update=True, is_causal=True).shape
        torch.Size([1, 2, 4, 8])
        >>> bool(ranges[2].isfinite().all())
        True
    """
    where = "optical_transformer_SDPA"
    if bypass:
        return float_attention(query, key, value, attn_mask, dropout_p, is_causal, scale, enable_gqa)[0]
    kind = _one_of(OpticalNoise, noise, f"{where}(noise)")
    gradient = _one_of(OpticalGradient, ste, f"{where}(ste)")
    row_range = False
    if not isinstance(attn_range, Tensor):
        row_range = _one_of(AttentionRange, attn_range, f"{where}(attn_range)") is AttentionRange.ROW
        attn_range = torch.tensor((0.0, 1.0), device=query.device)
    first = seed_tensor(seed, query.device, f"{where}(seed)")
    given = {
        "query": query_range,
        "key": key_range,
        "qk": qk_range,
        "attn": attn_range,
        "value": value_range,
        "av": av_range,
    }
    sources: dict[str, LevelSource] = {}
    for name, values in given.items():
        follows, noisy = update and name != "attn", name in ("qk", "av")
        if tuple(values.shape) != (2,) or values.dtype is not torch.float32:
            raise ConfigurationError(
                where=f"{where}({name}_range)",
                got=f"a {values.dtype} tensor of shape {tuple(values.shape)}",
                expected="a float32 tensor of shape (2,): lo, hi",
            )
        readable = values.device.type == "cpu" and not torch.compiler.is_compiling()  # else the host would wait
        if readable and not follows and bool(values.isnan().any()):
            raise NotCalibratedError(
                "the range is not set",
                where=f"{where}({name}_range)",
                got="NaN",
                expected="(lo, hi)",
                fix="run batches with update=True first",
            )
        sources[name] = _GivenRange(
            name,
            values,
            levels,
            lut if name in ("key", "value") else None,
            kind if noisy else OpticalNoise.NONE,
            quantiles,
            smooth_factor,
            photons if noisy else None,
            gradient,
            follows,
            first if name == "qk" else first + (SEED_STEP >> 1),
        )
    return optical_attention_steps(
        query,
        key,
        value,
        sources,
        row_range,
        attn_mask=attn_mask,
        dropout_p=dropout_p,
        is_causal=is_causal,
        scale=scale,
        enable_gqa=enable_gqa,
        where=where,
    )[0]


def _one_of(kind: type[Choice], value: object, where: str) -> Choice:
    try:
        return kind(value)
    except ValueError:
        raise ConfigurationError(
            where=where, got=repr(value), expected=" or ".join(repr(each.value) for each in kind)
        ) from None
