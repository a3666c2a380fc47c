"""`QWindowAttention`: Swin's attention within windows, with a training path and an integer path."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from typing_extensions import override

from quantsim.dualpath.attention_paths import TwoPathAttention, activation_quantizer, with_mask
from quantsim.dualpath.integer_graph import Grid
from quantsim.dualpath.integer_softmax import SCORE_STEP, SoftmaxRule
from quantsim.dualpath.layers import QBaseLinear
from quantsim.dualpath.quantizer_slots import QuantizerSlot
from quantsim.dualpath.rescale import MulShift
from quantsim.errors import ConfigurationError, ShapeError

__all__ = ["QWindowAttention"]


class QWindowAttention(TwoPathAttention):
    """Window attention with relative position bias, with the constructor and forward of timm's ``WindowAttention``.

    For shifted and unshifted windows. See `TwoPathAttention` for the two paths and the attributes that are not listed
    here; on the inference path the position bias is added to the scores as integers.

    Args:
        dim: Channels.
        num_heads: Heads.
        head_dim: Channels of a head, ``dim // num_heads`` if not given.
        window_size: Height and width of the window.
        qkv_bias: Whether the projection to queries, keys and values has a bias.
        attn_drop: Dropout of the probabilities, in training.
        proj_drop: Dropout of the result, in training.
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
        relative_position_bias_table: Parameter, one row for each offset between two positions.

    Example:
        >>> from quantsim.nn import compute_encodings
        >>> attention = QWindowAttention(8, num_heads=2, window_size=2, wbit=8, abit=8)
        >>> x, mask = torch.randn(3, 4, 8), torch.zeros(3, 4, 4)
        >>> with compute_encodings(attention):
        ...     _ = attention(x, mask)
        >>> attention.inference()(x, mask).dtype
        torch.int32
    """

    xq = QuantizerSlot("qkv", "input_quantizers", "0")
    qqkv = QuantizerSlot("qkv", "output_quantizers", "0")
    qproj = QuantizerSlot("attnv", "output_quantizers", "0")
    relative_position_index: Tensor
    _layers = ("qkv", "proj")

    def __init__(
        self,
        dim: int,
        num_heads: int,
        head_dim: int | None = None,
        window_size: int | tuple[int, int] = 7,
        qkv_bias: bool = True,
        attn_drop: float = 0.0,
        proj_drop: float = 0.0,
        *,
        wbit: int = 32,
        abit: int = 32,
        train_flag: bool = True,
        softmax_rule: SoftmaxRule | str = SoftmaxRule.UNNORMALIZED,
    ) -> None:
        super().__init__()
        if head_dim is None and dim % num_heads:
            raise ConfigurationError(
                where="QWindowAttention(dim)",
                got=f"{dim} for {num_heads} heads",
                expected="a multiple of num_heads",
                fix="pass head_dim",
            )
        height, width = (window_size, window_size) if isinstance(window_size, int) else window_size
        self.dim, self.num_heads, self.window_size = dim, num_heads, (height, width)
        self.window_area = height * width
        self.head_dim = head_dim or dim // num_heads
        self.scale = self.head_dim**-0.5
        inner = self.head_dim * num_heads
        self.relative_position_bias_table = nn.Parameter(torch.zeros((2 * height - 1) * (2 * width - 1), num_heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)
        self.register_buffer("relative_position_index", _relative_positions(height, width), persistent=False)
        self.qkv = QBaseLinear(dim, 3 * inner, qkv_bias, wbit, abit)
        self.attn_drop = nn.Dropout(attn_drop)
        self.proj = QBaseLinear(inner, dim, True, wbit)
        self.proj_drop = nn.Dropout(proj_drop)
        self._make_attention(self.head_dim, abit, train_flag, softmax_rule)
        self._value_rescale = MulShift()
        self.qqkv, self.qproj = activation_quantizer(abit), activation_quantizer(abit)

    @property
    @override
    def output_grid(self) -> Grid | None:
        return self.proj.output_grid

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attends within windows.

        Args:
            x: Shape (windows * B, N, dim): real numbers, or on the inference path codes of ``xq``'s grid.
            mask: Added to the scores (0, or -100 and less for what takes no part), or booleans that are True where an
                element takes part; shape (windows, N, N).
        """
        if not self.train_flag and not self._ready():
            self.inference()
        batch, tokens, _ = x.shape
        if tokens != self.window_area:
            raise ShapeError(
                where=self._place("forward"),
                got=f"{tokens} tokens",
                expected=f"{self.window_area}, a window of {self.window_size[0]} by {self.window_size[1]}",
            )
        qkv = self.qkv(x).reshape(batch, tokens, 3, self.num_heads, self.head_dim).permute(2, 0, 3, 1, 4)
        path = self.trainFunc if self.train_flag else self.evalFunc
        q, k, v = qkv.unbind(0)
        x = self.proj(path(q, k, v, batch, tokens, mask))
        return self.proj_drop(x) if self.train_flag else x

    def trainFunc(  # noqa: N802 (the published name)
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        B: int,  # noqa: N803 (the published name)
        N: int,  # noqa: N803 (the published name)
        mask: Tensor | None = None,
    ) -> Tensor:
        """Training path: real numbers of shape (B, heads, N, head_dim) in, (B, N, heads * head_dim) out."""
        scores = self._scores(q, k) + self._get_rel_pos_bias()
        if mask is not None:
            self._require_windows(mask, B)
            scores = with_mask(scores.unflatten(0, (B // len(mask), len(mask))), mask.unsqueeze(1)).flatten(0, 1)
        return self._weighted(scores, v)[0].transpose(1, 2).flatten(-2)

    def evalFunc(  # noqa: N802 (the published name)
        self,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        B: int,  # noqa: N803 (the published name)
        N: int,  # noqa: N803 (the published name)
        mask: Tensor | None = None,
    ) -> Tensor:
        """Inference path: codes of ``qqkv`` in, codes of ``qproj`` out."""
        bias = (self._get_rel_pos_bias().detach().double() / SCORE_STEP).round().to(torch.int32)
        expanded = None
        if mask is not None:  # windows run fastest in the batch
            self._require_windows(mask, B)
            expanded = mask.repeat(B // mask.shape[0], 1, 1).unsqueeze(1)
        return self._attend_integer(q, k, v, expanded, bias).transpose(1, 2).flatten(-2)

    def _get_rel_pos_bias(self) -> Tensor:
        """The position bias of each pair of positions, shape (1, heads, N, N)."""
        bias = self.relative_position_bias_table[self.relative_position_index.reshape(-1)]
        return bias.reshape(self.window_area, self.window_area, -1).permute(2, 0, 1).unsqueeze(0)

    def _require_windows(self, mask: Tensor, batch: int) -> None:
        if batch % mask.shape[0]:
            raise ShapeError(
                where=self._place("forward(mask)"),
                got=f"a mask of {mask.shape[0]} windows for a batch of {batch}",
                expected="a batch that is a multiple of the windows",
            )

    @override
    def _drop(self, probabilities: Tensor) -> Tensor:
        return self.attn_drop(probabilities)

    @override
    def _prepare(self) -> None:
        grid, result = self._grid("qqkv"), self._required("qproj")
        self.qkv.inference()
        self._prepare_product(grid, grid, grid, result, self._value_rescale)
        self.proj.inference(input_quantizer=result)


def _relative_positions(height: int, width: int) -> Tensor:
    """For each pair of positions in a window, the row of the bias table that belongs to their offset."""
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    rows, columns = rows.reshape(-1), columns.reshape(-1)
    down = rows[:, None] - rows[None, :] + height - 1
    right = columns[:, None] - columns[None, :] + width - 1
    return down * (2 * width - 1) + right
