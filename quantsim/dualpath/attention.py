"""`QAttention`: attention of vision transformers with a training path and an integer path."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn
from typing_extensions import override

from quantsim.dualpath.attention_paths import TwoPathAttention, activation_quantizer
from quantsim.dualpath.integer_graph import Grid
from quantsim.dualpath.integer_softmax import SoftmaxRule
from quantsim.dualpath.layers import QBaseLinear
from quantsim.dualpath.quantizer_slots import QuantizerSlot
from quantsim.dualpath.rescale import MulShift
from quantsim.errors import ConfigurationError

__all__ = ["QAttention"]


class QAttention(TwoPathAttention):
    """Multi-head self-attention with the constructor, parameters and forward of timm's ``Attention``.

    See `TwoPathAttention` for the two paths and the attributes that are not listed here.

    Args:
        dim: Channels.
        num_heads: Heads.
        qkv_bias: Whether the projection to queries, keys and values has a bias.
        qk_norm: Whether queries and keys are normalised; such a module trains, and becomes integers only as part of a
            model (`quantsim.dualpath.to_integer`).
        attn_drop: Dropout of the probabilities, in training.
        proj_drop: Dropout of the result, in training.
        norm_layer: Class of those normalisations.
        wbit: Bits of the weights; 32 for no quantizers.
        abit: Bits of the activations; 32 for no quantizers.
        train_flag: Whether the module starts on the training path.
        softmax_rule: How integer attention rounds probabilities, see `SoftmaxRule`.

    Attributes:
        qkv: Projection to queries, keys and values.
        proj: Projection of the result.
        xq: Input quantizer; `torch.nn.Identity` if there is none, as all.
        qqkv: Shared quantizer of queries, keys and values.
        qproj: Quantizer of the product of probabilities and values.
        qquery: Quantizer of normalised queries, with ``qk_norm``.
        qkey: Quantizer of normalised keys, with ``qk_norm``.

    Raises:
        ConfigurationError: If ``num_heads`` does not divide ``dim``.

    Example:
        >>> import torch
        >>> from quantsim.nn import compute_encodings
        >>> attention = QAttention(8, num_heads=2, wbit=8, abit=8)
        >>> x = torch.randn(1, 5, 8)
        >>> with compute_encodings(attention):
        ...     _ = attention(x)
        >>> attention.inference()(x).dtype
        torch.int32
    """

    xq = QuantizerSlot("qkv", "input_quantizers", "0")
    qqkv = QuantizerSlot("qkv", "output_quantizers", "0")
    qproj = QuantizerSlot("attnv", "output_quantizers", "0")
    qquery = QuantizerSlot("qk", "input_quantizers", "0")
    qkey = QuantizerSlot("qk", "input_quantizers", "1")
    _layers = ("qkv", "proj")

    def __init__(
        self,
        dim: int,
        num_heads: int,
        qkv_bias: bool = False,
        qk_norm: bool = False,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        norm_layer: Callable[[int], nn.Module] = nn.LayerNorm,
        *,
        wbit: int = 32,
        abit: int = 32,
        train_flag: bool = True,
        softmax_rule: SoftmaxRule | str = SoftmaxRule.UNNORMALIZED,
    ) -> None:
        super().__init__()
        if dim % num_heads:
            raise ConfigurationError(
                where="QAttention(dim)", got=f"{dim} for {num_heads} heads", expected="a multiple of num_heads"
            )
        self.num_heads, self.head_dim, self.scale = num_heads, dim // num_heads, (dim // num_heads) ** -0.5
        self.qkv = QBaseLinear(dim, 3 * dim, qkv_bias, wbit, abit)
        self.q_norm = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        self.k_norm = norm_layer(self.head_dim) if qk_norm else nn.Identity()
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = QBaseLinear(dim, dim, True, wbit)
        self.proj_drop = nn.Dropout(proj_drop)
        self._make_attention(self.head_dim, abit, train_flag, softmax_rule)
        self._value_rescale = MulShift()
        self.qqkv, self.qproj = activation_quantizer(abit), activation_quantizer(abit)
        if qk_norm:
            self.qquery, self.qkey = activation_quantizer(abit), activation_quantizer(abit)

    @property
    @override
    def output_grid(self) -> Grid | None:
        return self.proj.output_grid

    def forward(self, x: Tensor) -> Tensor:
        """Attends within ``x`` of shape (B, N, dim): real numbers, or on the inference path codes of ``xq``'s grid."""
        if not self.train_flag and not self._ready():
            self.inference()
        batch, tokens, _ = x.shape
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        if self.train_flag:
            x = self.trainFunc(self.q_norm(q), self.k_norm(k), v)
        else:
            x = self.evalFunc(q, k, v)
        x = self.proj(x.transpose(1, 2).flatten(-2))
        return self.proj_drop(x) if self.train_flag else x

    def trainFunc(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: N802 (the published name)
        """Training path: real numbers, shapes (B, heads, N, head_dim)."""
        return self._attend(q, k, v)[0]

    def evalFunc(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:  # noqa: N802 (the published name)
        """Inference path: codes of ``qqkv`` in, codes of ``qproj`` out."""
        return self._attend_integer(q, k, v)

    @override
    def _drop(self, probabilities: Tensor) -> Tensor:
        return self.attn_drop(probabilities)

    @override
    def _prepare(self) -> None:
        if not isinstance(self.q_norm, nn.Identity):
            raise ConfigurationError(
                "normalised queries and keys have no integer form inside the module",
                where=self._place("qk_norm"),
                got=type(self.q_norm).__name__,
                expected="qk_norm=False",
                fix="convert the model that holds the module with quantsim.dualpath.to_integer",
            )
        grid, result = self._grid("qqkv"), self._required("qproj")
        self.qkv.inference()
        self._prepare_product(grid, grid, grid, result, self._value_rescale)
        self.proj.inference(input_quantizer=result)
