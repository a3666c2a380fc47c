"""The random bits of stochastic rounding in int32 arithmetic that wraps around: the reference's bits, without int64.

Multiplication, addition, xor and left-over shifts of 32-bit words are the same with and without a sign; a right shift
of a word with a sign brings copies of it in, which a mask removes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from quantsim_kernels.reference.noise import HIGH_WORD_STEP, MULTIPLIERS, NOISE_BITS, SHIFTS, noise_keys

__all__ = ["NoiseStream", "traced_noise"]

_WORD_BITS = 32
# Numbers of the stream's own scratch memory.
_WORDS, _SHIFTED = -1, -2


def _signed(word: int) -> int:
    """The number with a sign that has these 32 bits."""
    return (word + 2**31) % 2**32 - 2**31


def _right_shift_mask(shift: int) -> int:
    return (1 << (_WORD_BITS - shift)) - 1


def traced_noise(shape: Sequence[int], seed: Tensor, start: Tensor | None = None) -> Tensor:
    """Functional form, which a compiler fuses with what uses it; see :func:`quantsim_kernels.reference.noise.noise`.

    Args:
        shape: shape of the tensor whose elements are numbered row by row.
        seed: 0-d int64 tensor.
        start: number of the first element, a 0-d int64 tensor, for a piece that does not cross a multiple of 2**32;
            ``None`` means 0.

    Returns:
        Integers from 0 to 2**24 - 1, int32, of the given shape.
    """
    count = math.prod(shape)
    keys = noise_keys(seed)
    # A compiler would work the keys out anew for every vector of elements; a running sum it computes once, before.
    first, second = torch.stack([keys[0], keys[1] - keys[0]]).cumsum(0).to(torch.int32).unbind()
    if count < 2**31:
        word = torch.arange(count, dtype=torch.int32, device=seed.device)
        between = second
        if start is not None:
            word = word + start.to(torch.int32)
            between = between + (start >> _WORD_BITS).to(torch.int32) * HIGH_WORD_STEP
    else:
        index = torch.arange(count, dtype=torch.int64, device=seed.device)
        word = index.to(torch.int32)
        between = second + (index >> _WORD_BITS).to(torch.int32) * HIGH_WORD_STEP
    word = word ^ first
    for number, (shift, multiplier) in enumerate(zip(SHIFTS, MULTIPLIERS, strict=True)):
        word = (word ^ ((word >> shift) & _right_shift_mask(shift))) * multiplier
        if number == 0:
            word = word + between
    unused = _WORD_BITS - NOISE_BITS
    return ((word >> unused) & _right_shift_mask(unused)).reshape(tuple(shape))


class NoiseStream:
    """The bits of one tensor, taken piece after piece in the order of its elements (op by op, on the CPU).

    What is taken lies in memory that the next piece overwrites: fresh memory costs more than all that is done to it.
    """

    def __init__(self, seed: Tensor) -> None:
        self._first, self._second = noise_keys(int(seed.item()))
        self._position = 0
        self._memory: dict[int, Tensor] = {}

    def scratch(self, number: int, shape: Sequence[int], dtype: torch.dtype = torch.float32) -> Tensor:
        """Uninitialised memory for 32-bit numbers, the same for each piece; ``number`` (from 0) tells several apart."""
        count = math.prod(shape)
        memory = self._memory.get(number)
        if memory is None or memory.numel() < count:
            memory = self._memory[number] = torch.empty(count, dtype=torch.int32)
        return memory[:count].view(tuple(shape)).view(dtype)

    def take(self, shape: Sequence[int]) -> Tensor:
        """The 24 bits of each of the next elements, int32, of the given shape."""
        unused = _WORD_BITS - NOISE_BITS
        return self.take_words(shape).bitwise_right_shift_(unused).bitwise_and_(_right_shift_mask(unused))

    def take_words(self, shape: Sequence[int]) -> Tensor:
        """The same as the high bits of 32-bit words, whose low 8 bits are no noise."""
        return self._take(shape, plus=0)

    def take_centred(self, shape: Sequence[int]) -> Tensor:
        """The 24 bits of each of the next elements, less 2**23: what a shift that keeps the sign gives for nothing."""
        return self._take(shape, plus=-(2**31)).bitwise_right_shift_(_WORD_BITS - NOISE_BITS)

    def _take(self, shape: Sequence[int], plus: int) -> Tensor:
        """The next words, each with ``plus`` added."""
        count = math.prod(shape)
        until = 2**_WORD_BITS - self._position % 2**_WORD_BITS
        if count > until:
            # The high word of the element number changes within the piece.
            before = self._take((until,), plus).clone()
            return torch.cat([before, self._take((count - until,), plus)]).view(tuple(shape))
        low, high = self._position % 2**_WORD_BITS, self._position >> _WORD_BITS
        self._position += count
        between = _signed((self._second + high * HIGH_WORD_STEP) % 2**_WORD_BITS)
        word = self._first_round(low, count)
        torch.add(torch.tensor(between, dtype=torch.int32), word, alpha=MULTIPLIERS[0], out=word)
        scratch = self.scratch(_SHIFTED, word.shape, torch.int32)
        for shift, multiplier, added in zip(SHIFTS[1:], MULTIPLIERS[1:], (0, plus), strict=True):
            torch.bitwise_right_shift(word, shift, out=scratch)
            word.bitwise_xor_(scratch.bitwise_and_(_right_shift_mask(shift)))
            if added:
                torch.add(torch.tensor(added, dtype=torch.int32), word, alpha=multiplier, out=word)
            else:
                word.mul_(multiplier)
        return word.view(tuple(shape))

    def _first_round(self, low: int, count: int) -> Tensor:
        """``w ^ (w >> 16)`` with ``w = (low + i) ^ key``, in one pass.

        In a run of 2**16 element numbers with one high half, that half of ``w`` is constant, and so is what its shift
        adds to the low half: both are one number for xor.
        """
        half = SHIFTS[0]
        run = 1 << half
        first_run, skipped = low >> half, low & (run - 1)
        runs = (skipped + count + run - 1) >> half
        high = torch.arange(first_run, first_run + runs).bitwise_xor_(self._first >> half)
        constant = (high << half).bitwise_or_(high ^ (self._first & (run - 1))).to(torch.int32)
        if runs == 1:
            return torch.arange(skipped, skipped + count, dtype=torch.int32).bitwise_xor_(constant)
        words = self.scratch(_WORDS, (runs, run), torch.int32)
        torch.bitwise_xor(torch.arange(run, dtype=torch.int32), constant.unsqueeze(1), out=words)
        return words.view(-1)[skipped : skipped + count]
