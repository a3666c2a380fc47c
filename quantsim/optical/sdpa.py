"""Attention whose two matrix products run on a simulated photonic engine, as functions of tensors and ranges."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from quantsim.errors import ConfigurationError, NotCalibratedError, QuantsimError, ShapeError
from quantsim.optical.settings import AttentionRange
from quantsim.quantization.optical import DEFAULT_LUT, batch_range
from quantsim.quantization.optical.analyzer import smoothed
from quantsim_encodings.formats import OpticalNoise
from quantsim_kernels.optical import OpticalGradient, optical_matmul, optical_quantize
from quantsim_kernels.optical_attention import optical_attention
from quantsim_kernels.random_seeds import SEED_STEP, seed_tensor
from quantsim_kernels.reference.attention import Product, attention_steps, attention_weights

__all__ = ["attention_probabilities", "float_attention", "optical_transformer_SDPA"]

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


def _product(a: Tensor, b: Tensor, a_range: Tensor, b_range: Tensor, lut: float | None, out: LevelSource) -> Tensor:
    """``Q_noise(Q(a) @ Q(b; lut))``; the range of the result follows the product before it is clipped, if it does."""
    accumulator, extremes = optical_matmul(
        a, b, a_range, b_range, None, levels=out.levels, lut=lut, noise=OpticalNoise.NONE, ste=out.ste
    )
    range = out.range_for(accumulator, extremes)
    noise = out.current_noise()
    return optical_quantize(
        accumulator,
        range,
        out.levels,
        lut=out.lut,
        noise=noise,
        seed=None if noise is OpticalNoise.NONE else out.next_seed(),
        photons=None if noise is not OpticalNoise.SHOT or out.photons is None else out.photons * a.shape[-1],
        ste=out.ste,
        owned=True,
    )


def attention_probabilities(
    scores: Tensor, attn_mask: Tensor | None, is_causal: bool, scale: float, where: str = "attention"
) -> Tensor:
    """Scales and masks scores, and normalises each row: `quantsim_kernels.reference.attention.attention_weights`.

    Args:
        scores: Products of queries and keys, shape (..., L, S).
        attn_mask: ``True`` where a key takes part, or numbers to add; broadcast to ``scores``.
        is_causal: Whether the keys after a query's position are left out as well.
        scale: Factor of the scores.
        where: What errors call the mask's owner.

    Returns:
        Probabilities in the dtype of ``scores`` (computed in float32). A row without a key is 0.

    Raises:
        ShapeError: If the mask does not broadcast to the scores.

    Example:
        >>> attention_probabilities(torch.zeros(2, 3), None, True, 1.0)
        tensor([[0.5000, 0.5000, 0.0000],
                [0.3333, 0.3333, 0.3333]])
    """
    with _shapes_of(where):
        return attention_weights(scores, attn_mask, is_causal, scale).to(scores.dtype)


@contextmanager
def _shapes_of(where: str) -> Iterator[None]:
    """Gives the kernels' complaints about shapes their place."""
    try:
        yield
    except QuantsimError:
        raise
    except ValueError as error:
        raise ShapeError(str(error), where=where) from None


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

    def product(a: Tensor, b: Tensor, row_range: Tensor | None) -> Tensor:
        return torch.matmul(a, b) if a.dtype is b.dtype else torch.matmul(a.to(b.dtype), b)

    return given_products(
        query,
        key,
        value,
        product,
        product,
        attn_mask,
        dropout_p,
        is_causal,
        scale,
        enable_gqa,
        False,
        "float_attention",
    )


def given_products(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    scores_of: Product,
    output_of: Product,
    attn_mask: Tensor | None,
    dropout_p: float,
    is_causal: bool,
    scale: float | None,
    enable_gqa: bool,
    row_range: bool,
    where: str,
) -> tuple[Tensor, Tensor]:
    """Output and probabilities (after dropout), in the dtype of ``query``, from given products."""
    with _shapes_of(where):
        output, weights = attention_steps(
            query,
            key,
            value,
            scores_of,
            output_of,
            attn_mask=attn_mask,
            dropout=(lambda weights: F.dropout(weights, dropout_p)) if dropout_p else None,
            is_causal=is_causal,
            scale=scale,
            enable_gqa=enable_gqa,
            row_range=row_range,
        )
    return output, weights.to(query.dtype)


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
    """Output and probabilities (after dropout) of optical attention with these ranges.

    Where all ranges stand, one call of the kernel `quantsim_kernels.optical_attention` computes it. Where those of the
    products follow the data, the two products are made first, then their ranges, then the levels.
    """
    query_range, key_range = sources["query"].range_for(query), sources["key"].range_for(key)
    value_range = sources["value"].range_for(value)
    qk, av = sources["qk"], sources["av"]
    alike = qk.current_noise() is av.current_noise() and qk.photons == av.photons
    stored_alike = sources["key"].lut == sources["value"].lut
    if alike and stored_alike and not (qk.follows_data or av.follows_data):
        qk_range, av_range = qk.range_for(query), av.range_for(value)
        attn_range = "row" if row_range else sources["attn"].range_for(query)
        noise = qk.current_noise()
        noisy = noise is not OpticalNoise.NONE
        with _shapes_of(where):
            output, _, _, weights = optical_attention(
                query,
                key,
                value,
                query_range,
                key_range,
                qk_range,
                value_range,
                av_range,
                attn_mask,
                dropout_p,
                is_causal,
                scale,
                enable_gqa,
                attn_range=attn_range,
                levels=av.levels,
                lut=sources["value"].lut,
                noise=noise,
                seed=qk.next_seed() if noisy else None,
                photons=qk.photons if noise is OpticalNoise.SHOT else None,
                ste=av.ste,
                av_seed=av.next_seed() if noisy else None,
                torch_dropout=True,
            )
        return output, weights.to(query.dtype)

    def scores_of(a: Tensor, b: Tensor, row_range: Tensor | None) -> Tensor:
        return _product(a, b, query_range, key_range, sources["key"].lut, qk)

    def output_of(a: Tensor, b: Tensor, row_range: Tensor | None) -> Tensor:
        a_range = sources["attn"].range_for(a) if row_range is None else row_range
        return _product(a, b, a_range, value_range, sources["value"].lut, av)

    return given_products(
        query, key, value, scores_of, output_of, attn_mask, dropout_p, is_causal, scale, enable_gqa, row_range, where
    )


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
