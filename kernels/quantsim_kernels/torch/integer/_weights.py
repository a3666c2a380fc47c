"""Weights as exact float products need them: in float32 or float64, cut into blocks of K whose sums stay exact."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

__all__ = ["PreparedWeight", "prepared_weight"]

EXACT_FLOAT32 = 2**24
EXACT_FLOAT64 = 2**53
# With blocks shorter than this, float64 is faster.
_SHORTEST = 96

_PREPARED = WeakIdKeyDictionary()


@dataclass(eq=False)
class PreparedWeight:
    """A weight and what is known of it. It lives as long as the integer weight it was made from.

    Attributes:
        integers: shape ``(O, K, ...)``.
        version: of the integers when this was made.
        pieces: the weight in float32 for each block of K whose sums stay exact, or in float64 as a whole, by the
            operand's bounds.
        sums: sum of the weights of each output, int64.
    """

    integers: Tensor
    version: int | None
    pieces: dict[tuple[int, int, bool, bool], tuple[tuple[tuple[int, int], Tensor], ...]]
    sums: Tensor

    def float_pieces(
        self, low: int, high: int, float32: bool, divisible: bool = True
    ) -> tuple[tuple[tuple[int, int], Tensor], ...]:
        """Blocks of K and the weight's part of each, in a dtype that holds all sums with operands of these bounds.

        Args:
            low: smallest operand.
            high: largest operand.
            float32: whether float32 is exact on the device.
            divisible: whether K may be cut.

        Raises:
            OverflowError: not even float64 holds the sums.
        """
        key = (low, high, float32, divisible)
        if key not in self.pieces:
            self.pieces[key] = self._make_pieces(low, high, float32, divisible)
        return self.pieces[key]

    def _make_pieces(
        self, low: int, high: int, float32: bool, divisible: bool
    ) -> tuple[tuple[tuple[int, int], Tensor], ...]:
        below, above = max(-low, 0), max(high, 0)
        # Columns of what each k may add to a sum, upwards and downwards, in whatever order sums are made.
        weight = self.integers.to(torch.int64)
        weight = weight.reshape(*weight.shape[:2], -1)
        positive, negative = weight.clamp(min=0).sum(2), -weight.clamp(max=0).sum(2)
        upwards, downwards = positive * above + negative * below, positive * below + negative * above
        reach = torch.stack([upwards, downwards]).cumsum(2).reshape(-1, weight.shape[1])
        largest = int(reach[:, -1].max()) if reach.numel() else 0
        if largest >= EXACT_FLOAT64:
            raise OverflowError(f"linear: sums may reach {largest}, expected less than 2^53")
        length = weight.shape[1]
        blocks: list[tuple[int, int]] = []
        if float32 and (divisible or largest <= EXACT_FLOAT32):
            blocks = _blocks(reach, length)
        if not blocks or len(blocks) > max(1, length // _SHORTEST):
            return (((0, length), self.integers.to(torch.float64)),)
        return tuple(((start, stop), self.integers[:, start:stop].to(torch.float32)) for start, stop in blocks)


def _blocks(reach: Tensor, length: int) -> list[tuple[int, int]]:
    """The longest ranges of K in order whose sums stay within 2^24; none where even one product does not."""
    blocks, start = [], 0
    base = torch.zeros_like(reach[:, :1])
    while start < length:
        worst = (reach - base).amax(0)
        stop = int(torch.searchsorted(worst[start:].contiguous(), EXACT_FLOAT32, right=True)) + start
        if stop == start:
            return []
        blocks.append((start, stop))
        base = reach[:, stop - 1 : stop]
        start = stop
    return blocks or [(0, length)]


def prepared_weight(weight: Tensor) -> PreparedWeight:
    """What is known of ``weight``: made when it is first used, and again after it was changed."""
    version = None if weight.is_inference() else weight._version
    known = cast("PreparedWeight | None", _PREPARED.get(weight))
    if known is None or known.version != version:
        sums = weight.reshape(weight.shape[0], -1).sum(1, dtype=torch.int64)
        # A detached alias: the key must not be kept alive by what is stored under it.
        known = PreparedWeight(integers=weight.detach(), version=version, pieces={}, sums=sums)
        _PREPARED[weight] = known
    return known
