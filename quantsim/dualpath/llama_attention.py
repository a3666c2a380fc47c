"""`QLlamaAttention`: causal attention with rotary positions, with a training path and an integer path."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor, nn
from typing_extensions import override

from quantsim.dualpath.attention_paths import TwoPathAttention, activation_quantizer
from quantsim.dualpath.integer_codes import activation_codes, grid_dtype
from quantsim.dualpath.integer_graph import Grid
from quantsim.dualpath.integer_softmax import SoftmaxRule
from quantsim.dualpath.layers import QBaseLinear
from quantsim.dualpath.quantizer_base import QBase
from quantsim.dualpath.quantizer_slots import WIDEST, QuantizerSlot
from quantsim.dualpath.rescale import MulShift
from quantsim.nn import QuantizedIdentity

__all__ = ["QLlamaAttention"]

_ROTATION_BITS: Final = 14
"""Fraction bits of integer sines and cosines, which are int16."""


class QLlamaAttention(TwoPathAttention):
    """Attention with the config, parameters and forward of transformers' ``LlamaAttention``: the decoder's case.

    Grouped keys and values, rotary positions and a cache work on both paths; on the inference path the rotation is
    done on integers, with sines and cosines of 14 fraction bits, and a cache holds codes. Projected queries and keys
    have 16 bits before the rotation. See `TwoPathAttention` for the two paths and the attributes that are not listed
    here.

    Args:
        config: ``LlamaConfig``, or an object with its fields.
        layer_idx: Number of the layer, for a cache.
        wbit: Bits of the weights; 32 for no quantizers.
        abit: Bits of the activations; 32 for no quantizers.
        train_flag: Whether the module starts on the training path.
        softmax_rule: How integer attention rounds probabilities, see `SoftmaxRule`.

    Attributes:
        q_proj: Projection to queries; ``k_proj``, ``v_proj`` and ``o_proj`` likewise.
        xq: Input quantizer; `torch.nn.Identity` if there is none, as all.
        qquery: Quantizer of rotated queries.
        qkey: Quantizer of rotated keys.
        qvalue: Quantizer of values.
        qproj: Quantizer of the product of probabilities and values.

    Example:
        >>> from types import SimpleNamespace
        >>> from quantsim.nn import compute_encodings
        >>> config = SimpleNamespace(
        ...     hidden_size=8,
        ...     num_attention_heads=2,
        ...     num_key_value_heads=1,
        ...     attention_dropout=0.0,
        ...     attention_bias=False,
        ... )
        >>> attention = QLlamaAttention(config, wbit=8, abit=8)
        >>> x, angles = torch.randn(1, 5, 8), torch.linspace(0, 1, 20).reshape(1, 5, 4)
        >>> with compute_encodings(attention):
        ...     _ = attention(x, (angles.cos(), angles.sin()))
        >>> attention.inference()(x, (angles.cos(), angles.sin()))[0].dtype
        torch.int32
    """

    xq = QuantizerSlot("input", "output_quantizers", "0")
    qquery = QuantizerSlot("qk", "input_quantizers", "0")
    qkey = QuantizerSlot("qk", "input_quantizers", "1")
    qvalue = QuantizerSlot("v_proj", "output_quantizers", "0")
    qproj = QuantizerSlot("attnv", "output_quantizers", "0")
    _before_query = QuantizerSlot("q_proj", "output_quantizers", "0")
    _before_key = QuantizerSlot("k_proj", "output_quantizers", "0")
    _rotated_grids: tuple[Grid, Grid]
    _layers = ("q_proj", "k_proj", "v_proj", "o_proj")

    def __init__(
        self,
        config: Any,
        layer_idx: int = 0,
        *,
        wbit: int = 32,
        abit: int = 32,
        train_flag: bool = True,
        softmax_rule: SoftmaxRule | str = SoftmaxRule.UNNORMALIZED,
    ) -> None:
        super().__init__()
        self.config, self.layer_idx, self.is_causal = config, layer_idx, True
        heads, groups = config.num_attention_heads, config.num_key_value_heads
        self.head_dim = getattr(config, "head_dim", None) or config.hidden_size // heads
        self.num_key_value_groups, self.scaling = heads // groups, self.head_dim**-0.5
        self.attention_dropout = nn.Dropout(config.attention_dropout)
        bias, hidden = bool(config.attention_bias), config.hidden_size
        self.input = QuantizedIdentity()
        self.q_proj = QBaseLinear(hidden, heads * self.head_dim, bias, wbit)
        self.k_proj = QBaseLinear(hidden, groups * self.head_dim, bias, wbit)
        self.v_proj = QBaseLinear(hidden, groups * self.head_dim, bias, wbit)
        self.o_proj = QBaseLinear(heads * self.head_dim, hidden, bias, wbit)
        self._make_attention(self.head_dim, abit, train_flag, softmax_rule)
        self._value_rescale = MulShift()
        self._query_rotation, self._key_rotation = MulShift(), MulShift()
        self.xq = activation_quantizer(abit, unsigned=True)
        for name in ("qquery", "qkey", "qvalue", "qproj"):
            setattr(self, name, activation_quantizer(abit))
        if abit < WIDEST:
            self._before_query, self._before_key = QBase(16, unsigned=False), QBase(16, unsigned=False)

    @property
    @override
    def output_grid(self) -> Grid | None:
        return self.o_proj.output_grid

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor],
        attention_mask: Tensor | None = None,
        past_key_values: Any | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends within ``hidden_states`` and what a cache holds.

        Args:
            hidden_states: Shape (B, N, hidden): real numbers, or on the inference path codes of ``xq``'s grid.
            position_embeddings: Cosines and sines, each of shape (B, N, head_dim).
            attention_mask: Added to the scores, or booleans that are True where a key takes part; broadcasts to
                (B, heads, N, keys). Without one, attention is causal.
            past_key_values: A cache of transformers.
            kwargs: What else transformers hands on; ignored.

        Returns:
            The result, shape (B, N, hidden), and the probabilities (``None`` on the inference path).
        """
        if not self.train_flag and not self._ready():
            self.inference()
        if self.train_flag:
            x = self.input(hidden_states)
        else:
            x = activation_codes(hidden_states, self._required("xq"), self._grid("xq"), self._place("xq"))
        q, k, v = (
            layer(x).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        q, k = self._rotated(q, k, *position_embeddings)
        if past_key_values is not None:
            k, v = past_key_values.update(k, v, self.layer_idx)
        groups = self.num_key_value_groups
        k, v = (_repeated(each, groups) if groups > 1 else each for each in (k, v))
        if attention_mask is None and q.shape[-2] > 1:
            shape = (q.shape[-2], k.shape[-2])
            attention_mask = torch.ones(shape, dtype=torch.bool, device=q.device).tril(shape[1] - shape[0])
        if self.train_flag:
            context, probabilities = self.trainFunc(q, k, v, attention_mask)
        else:
            context, probabilities = self.evalFunc(q, k, v, attention_mask), None
        return self.o_proj(context.transpose(1, 2).flatten(-2)), probabilities

    def trainFunc(  # noqa: N802 (the published name)
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Training path: real numbers, shapes (B, heads, N, head_dim); the result and the probabilities."""
        return self._attend(q, k, v, mask)

    def evalFunc(  # noqa: N802 (the published name)
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None
    ) -> Tensor:
        """Inference path: codes of ``qquery``, ``qkey`` and ``qvalue`` in, codes of ``qproj`` out."""
        return self._attend_integer(q, k, v, mask)

    def _rotated(self, q: Tensor, k: Tensor, cosines: Tensor, sines: Tensor) -> tuple[Tensor, Tensor]:
        cosines, sines = cosines.unsqueeze(1), sines.unsqueeze(1)
        if self.train_flag:
            return tuple(each * cosines + _half_turned(each) * sines for each in (q, k))  # pyright: ignore[reportReturnType]
        cosines, sines = ((each.double() * 2**_ROTATION_BITS).round().to(torch.int64) for each in (cosines, sines))
        results = []
        for codes, before, grid, rescale in (
            (q, self.q_proj.output_grid, self._rotated_grids[0], self._query_rotation),
            (k, self.k_proj.output_grid, self._rotated_grids[1], self._key_rotation),
        ):
            assert before is not None
            centred = codes.to(torch.int64) - before.zero_point
            sums = centred * cosines + _half_turned(centred) * sines  # 16 and 15 bits: below 2^31
            moved = rescale(sums) + grid.zero_point
            results.append(moved.clamp(grid.low, grid.high).to(grid_dtype(grid)))
        return results[0], results[1]

    @override
    def _drop(self, probabilities: Tensor) -> Tensor:
        return self.attention_dropout(probabilities)

    @override
    def _prepare(self) -> None:
        queries, keys, values = (self._grid(name) for name in ("qquery", "qkey", "qvalue"))
        self._rotated_grids = (queries, keys)
        source, result = self._required("xq"), self._required("qproj")
        for before, grid, rescale in (
            ("_before_query", queries, self._query_rotation),
            ("_before_key", keys, self._key_rotation),
        ):
            step = float(self._grid(before).scale) * 2.0**-_ROTATION_BITS
            rescale.inference(input_scale=step, output_scale=float(grid.scale))
        for layer in (self.q_proj, self.k_proj, self.v_proj):
            layer.inference(input_quantizer=source)
        self._prepare_product(queries, keys, values, result, self._value_rescale)
        self.o_proj.inference(input_quantizer=result)


def _repeated(x: Tensor, groups: int) -> Tensor:
    """Each head ``groups`` times, from (B, heads, N, D) to (B, heads * groups, N, D)."""
    return x[:, :, None].expand(-1, -1, groups, -1, -1).flatten(1, 2)


def _half_turned(x: Tensor) -> Tensor:
    """The halves of the last dimension swapped, the second negated: what a quarter turn of each pair gives."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)
