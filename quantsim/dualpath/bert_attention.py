"""`QBertSelfAttention`: self-attention of BERT and RoBERTa, with a training path and an integer path."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from typing_extensions import override

from quantsim.dualpath.attention_paths import TwoPathAttention, activation_quantizer
from quantsim.dualpath.integer_codes import activation_codes
from quantsim.dualpath.integer_graph import Grid
from quantsim.dualpath.integer_softmax import SoftmaxRule
from quantsim.dualpath.layers import QBaseLinear
from quantsim.dualpath.quantizer_slots import QuantizerSlot
from quantsim.dualpath.rescale import MulShift
from quantsim.errors import ConfigurationError
from quantsim.nn import QuantizedIdentity

__all__ = ["QBertSelfAttention"]


class QBertSelfAttention(TwoPathAttention):
    """Self-attention with the config, parameters and forward of transformers' ``BertSelfAttention``.

    It takes that module's place in a model; RoBERTa's is the same. See `TwoPathAttention` for the two paths and the
    attributes that are not listed here.

    Args:
        config: Any object with ``hidden_size``, ``num_attention_heads`` and ``attention_probs_dropout_prob``.
        position_embedding_type: ``None`` or ``"absolute"``.
        layer_idx: Number of the layer, for a cache of keys and values.
        wbit: Bits of the weights; 32 for no quantizers.
        abit: Bits of the activations; 32 for no quantizers.
        train_flag: Whether the module starts on the training path.
        softmax_rule: How integer attention rounds probabilities, see `SoftmaxRule`.

    Attributes:
        query: Projection to queries; ``key`` and ``value`` likewise.
        xq: Input quantizer; `torch.nn.Identity` if there is none, as all.
        qquery: Quantizer of queries.
        qkey: Quantizer of keys.
        qvalue: Quantizer of values.
        yq: Quantizer of the result; without one, integer results are in int16, with 256 steps in one of the values.
        qkv_deq: Rescales the product of probabilities and values to steps of the result, on the inference path.

    Raises:
        ConfigurationError: If the heads do not divide the hidden size, or the position embeddings are others.

    Example:
        >>> from types import SimpleNamespace
        >>> import torch
        >>> from quantsim.nn import compute_encodings
        >>> config = SimpleNamespace(hidden_size=8, num_attention_heads=2, attention_probs_dropout_prob=0.0)
        >>> attention = QBertSelfAttention(config, wbit=8, abit=8)
        >>> x = torch.randn(1, 5, 8)
        >>> with compute_encodings(attention):
        ...     _ = attention(x)
        >>> context, _ = attention.inference()(x)
        >>> context.dtype
        torch.int8
    """

    xq = QuantizerSlot("input", "output_quantizers", "0")
    qquery = QuantizerSlot("query", "output_quantizers", "0")
    qkey = QuantizerSlot("key", "output_quantizers", "0")
    qvalue = QuantizerSlot("value", "output_quantizers", "0")
    yq = QuantizerSlot("attnv", "output_quantizers", "0")
    _layers = ("query", "key", "value")
    _output_grid: Grid | None = None

    def __init__(
        self,
        config: Any,
        position_embedding_type: str | None = None,
        *,
        layer_idx: int | None = None,
        wbit: int = 32,
        abit: int = 32,
        train_flag: bool = True,
        softmax_rule: SoftmaxRule | str = SoftmaxRule.UNNORMALIZED,
    ) -> None:
        super().__init__()
        heads, size = config.num_attention_heads, config.hidden_size
        if size % heads:
            raise ConfigurationError(
                where="QBertSelfAttention(config.hidden_size)",
                got=f"{size} for {heads} heads",
                expected="a multiple of config.num_attention_heads",
            )
        kind = position_embedding_type or getattr(config, "position_embedding_type", None) or "absolute"
        if kind != "absolute":
            raise ConfigurationError(
                where="QBertSelfAttention(position_embedding_type)", got=repr(kind), expected="None or 'absolute'"
            )
        self.config, self.layer_idx, self.position_embedding_type = config, layer_idx, kind
        self.num_attention_heads, self.attention_head_size = heads, size // heads
        self.all_head_size = size
        self.input = QuantizedIdentity()
        self.query, self.key, self.value = (QBaseLinear(size, size, True, wbit) for _ in range(3))
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self._make_attention(self.attention_head_size, abit, train_flag, softmax_rule)
        self.qkv_deq = MulShift()
        self.xq = activation_quantizer(abit, unsigned=True)
        for name in ("qquery", "qkey", "qvalue", "yq"):
            setattr(self, name, activation_quantizer(abit))

    @property
    @override
    def output_grid(self) -> Grid | None:
        return self._output_grid

    def transpose_for_scores(self, x: Tensor) -> Tensor:
        """Splits the heads: from (B, N, hidden) to (B, heads, N, head size)."""
        return x.unflatten(-1, (self.num_attention_heads, self.attention_head_size)).transpose(1, 2)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        past_key_values: Any | None = None,
        **kwargs: Any,
    ) -> tuple[Tensor, Tensor | None]:
        """Attends within ``hidden_states``.

        Args:
            hidden_states: Shape (B, N, hidden): real numbers, or on the inference path codes of ``xq``'s grid.
            attention_mask: Added to the scores, or booleans that are True where a key takes part; broadcasts to
                (B, heads, N, N).
            head_mask: Factors of the heads, on the training path only.
            past_key_values: A cache of transformers.
            kwargs: What else transformers hands on; ignored.

        Returns:
            The result, shape (B, N, hidden), and the probabilities (``None`` on the inference path).
        """
        if self.train_flag:
            return self.trainFunc(hidden_states, attention_mask, head_mask, past_key_values)
        if head_mask is not None:
            raise ConfigurationError(
                where=self._place("forward(head_mask)"),
                got="factors of the heads on the inference path",
                expected="None",
            )
        return self.evalFunc(hidden_states, attention_mask, past_key_values)

    def trainFunc(  # noqa: N802 (the published name)
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        head_mask: Tensor | None = None,
        past_key_values: Any | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Training path: real numbers."""
        q, k, v = self._projected(self.input(hidden_states), past_key_values)
        if head_mask is None:
            context, probabilities = self._attend(q, k, v, attention_mask)
        else:
            _, probabilities = self._attend(q, k, v, attention_mask)
            probabilities = probabilities * head_mask
            context = self.attnv(probabilities, v)
        return context.transpose(1, 2).flatten(-2), probabilities

    def evalFunc(  # noqa: N802 (the published name)
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, past_key_values: Any | None = None
    ) -> tuple[Tensor, None]:
        """Inference path: codes of the result's grid."""
        if not self._ready():
            self.inference()
        codes = activation_codes(hidden_states, self._required("xq"), self._grid("xq"), self._place("xq"))
        q, k, v = self._projected(codes, past_key_values)
        context = self._attend_integer(q, k, v, attention_mask)
        return context.transpose(1, 2).flatten(-2), None

    def _projected(self, x: Tensor, cache: Any | None) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v = (self.transpose_for_scores(layer(x)) for layer in (self.query, self.key, self.value))
        if cache is not None:
            own: Any = getattr(cache, "self_attention_cache", cache)
            k, v = own.update(k, v, self.layer_idx)
        return q, k, v

    @override
    def _drop(self, probabilities: Tensor) -> Tensor:
        return self.dropout(probabilities)

    @override
    def _prepare(self) -> None:
        queries, keys, values = (self._grid(name) for name in ("qquery", "qkey", "qvalue"))
        source = self._required("xq")
        self._grid("xq")
        for layer in (self.query, self.key, self.value):
            layer.inference(input_quantizer=source)
        self._output_grid = self._prepare_product(queries, keys, values, self.quantizer("yq"), self.qkv_deq)
