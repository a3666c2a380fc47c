r"""Memories as files: hexadecimal words for ``$readmemh``, bytes, decimal numbers.

All hold the same words in the same order, a line or a fixed number of bytes each:

- ``hex``: the word as one number in two's complement, always the same number of digits;
- ``bin``: the same number in whole bytes, the least significant first;
- ``decimal``: the codes of the word, the first one first.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final

import numpy as np

from quantsim.errors import ConfigurationError
from quantsim.export.chip.memory_layout import FirstCode, MemoryLayout

__all__ = ["SUFFIXES", "MemoryFormat", "decode_memory", "encode_memory"]


class MemoryFormat(StrEnum):
    """How a memory is written."""

    HEX = "hex"
    BIN = "bin"
    DECIMAL = "decimal"


SUFFIXES: Final = {MemoryFormat.HEX: ".hex", MemoryFormat.BIN: ".bin", MemoryFormat.DECIMAL: ".txt"}
"""How names of files end."""

_NEWLINE: Final = ord("\n")
_TABLE_BITS: Final = 16
"""Up to here there is a table of all decimal numbers."""


def encode_memory(array: np.ndarray, layout: MemoryLayout, form: MemoryFormat) -> bytes:
    r"""What the file of a memory holds.

    Args:
        array: Integers of the layout's shape.
        layout: How they lie in memory.
        form: How the memory is written.

    Raises:
        ConfigurationError: The array does not fit the layout.

    Example:
        >>> from quantsim.export.chip.memory_layout import MemoryTiling
        >>> layout = MemoryTiling(rows=1, columns=2).of_weights((2, 2), 4)
        >>> codes = np.array([[1, -1], [-8, 7]])
        >>> [encode_memory(codes, layout, form) for form in MemoryFormat]
        [b'f1\n78\n', b'\xf1x', b' 1 -1\n-8  7\n']
    """
    words = layout.arrange(array)
    if form is MemoryFormat.DECIMAL:
        return _decimal(words, layout)
    packed = _packed(words, layout)
    if form is MemoryFormat.BIN:
        return packed.tobytes()
    digits = layout.hex_digits
    text = packed[:, ::-1].tobytes().hex().encode("ascii")
    lines = np.full((layout.words, digits + 1), _NEWLINE, np.uint8)
    if text:
        # A word of half a byte has one digit, its byte two.
        lines[:, :-1] = np.frombuffer(text, np.uint8).reshape(layout.words, -1)[:, -digits:]
    return lines.tobytes()


def decode_memory(data: bytes, layout: MemoryLayout, form: MemoryFormat) -> np.ndarray:
    r"""The array that a memory's file holds, int64.

    Args:
        data: The file.
        layout: How the array lies in memory.
        form: How the memory is written.

    Raises:
        ConfigurationError: The file holds no such memory.

    Example:
        >>> from quantsim.export.chip.memory_layout import MemoryTiling
        >>> layout = MemoryTiling(rows=1, columns=2).of_weights((2, 2), 4)
        >>> decode_memory(b"f1\n78\n", layout, MemoryFormat.HEX).tolist()
        [[1, -1], [-8, 7]]
    """
    try:
        if form is MemoryFormat.DECIMAL:
            return layout.restore(_numbers(data, layout))
        packed = _bytes_of_hex(data, layout) if form is MemoryFormat.HEX else np.frombuffer(data, np.uint8)
        return layout.restore(_unpacked(packed.reshape(layout.words, layout.word_bytes), layout))
    except (ValueError, OverflowError) as error:
        raise ConfigurationError(
            "the file holds another memory",
            where=f"decode_memory({form.value})",
            got=" ".join(str(error).split()),
            expected=f"{layout.words} words of {layout.columns} codes, {layout.bits} bits each",
        ) from error


def _packed(words: np.ndarray, layout: MemoryLayout) -> np.ndarray:
    """The bytes of each word, the least significant first."""
    codes = words if layout.first_code is FirstCode.LOW else words[:, ::-1]
    if layout.bits >= 8:
        narrow = codes.astype(f"<i{layout.bits // 8}", casting="unsafe")
        return np.ascontiguousarray(narrow).view(np.uint8).reshape(len(words), layout.word_bytes)
    spread = (codes.astype(np.uint8)[:, :, None] >> np.arange(layout.bits, dtype=np.uint8)) & 1
    return np.packbits(spread.reshape(len(words), layout.word_bits), axis=1, bitorder="little")


def _unpacked(packed: np.ndarray, layout: MemoryLayout) -> np.ndarray:
    if layout.bits >= 8:
        kind = f"<{'i' if layout.signed else 'u'}{layout.bits // 8}"
        codes = np.ascontiguousarray(packed).view(kind).astype(np.int64)
    else:
        bits = np.unpackbits(packed, axis=1, bitorder="little", count=layout.word_bits)
        places = bits.reshape(len(packed), layout.columns, layout.bits).astype(np.int64)
        codes = (places << np.arange(layout.bits)).sum(axis=2)
        if layout.signed:
            codes -= (codes >> (layout.bits - 1)) << layout.bits
    return codes if layout.first_code is FirstCode.LOW else codes[:, ::-1]


def _bytes_of_hex(data: bytes, layout: MemoryLayout) -> np.ndarray:
    lines = np.frombuffer(data, np.uint8).reshape(layout.words, layout.hex_digits + 1)
    if not (lines[:, -1] == _NEWLINE).all():
        raise ValueError("lines of different lengths")
    padded = np.full((layout.words, 2 * layout.word_bytes), ord("0"), np.uint8)
    padded[:, -layout.hex_digits :] = lines[:, :-1]
    values = np.frombuffer(bytes.fromhex(padded.tobytes().decode("ascii")), np.uint8)
    return values.reshape(layout.words, layout.word_bytes)[:, ::-1]


def _decimal(words: np.ndarray, layout: MemoryLayout) -> bytes:
    """Lines of numbers, right-aligned, one space between them."""
    low, high = layout.limits
    width = _decimal_width(layout)
    if layout.bits > _TABLE_BITS:
        lines = (" ".join(str(code).rjust(width) for code in word) for word in words.tolist())
        return "".join(f"{line}\n" for line in lines).encode("ascii")
    table = np.frombuffer(
        "".join(f"{code:{width}d} " for code in range(low, high + 1)).encode("ascii"), np.uint8
    ).reshape(-1, width + 1)
    lines = table[words - low].reshape(len(words), layout.columns * (width + 1))
    if len(words):
        lines[:, -1] = _NEWLINE
    return lines.tobytes()


def _numbers(data: bytes, layout: MemoryLayout) -> np.ndarray:
    width = _decimal_width(layout)
    text = np.frombuffer(data, np.uint8).reshape(layout.words, layout.columns, width + 1)
    if not ((text[:, :-1, -1] == ord(" ")).all() and (text[:, -1, -1] == _NEWLINE).all()):
        raise ValueError("lines of different lengths")
    values = np.zeros(text.shape[:2], np.int64)
    negative = np.zeros(text.shape[:2], np.bool_)
    begun = np.zeros(text.shape[:2], np.bool_)
    is_digit = begun
    for place in range(width):
        character = text[:, :, place]
        is_digit = (character >= ord("0")) & (character <= ord("9"))
        # Spaces, perhaps a minus, digits.
        if not (is_digit | (~begun & ((character == ord(" ")) | (character == ord("-"))))).all():
            raise ValueError("a number is malformed")
        negative |= character == ord("-")
        begun |= character != ord(" ")
        values = values * 10 - np.where(is_digit, character.astype(np.int64) - ord("0"), 0)
    if not is_digit.all():
        raise ValueError("a number is malformed")
    codes = np.where(negative, values, -values)
    low, high = layout.limits
    if codes.size and not (low <= int(codes.min()) and int(codes.max()) <= high):
        raise ValueError(f"numbers from {codes.min()} to {codes.max()}, which {layout.bits} bits do not hold")
    return codes


def _decimal_width(layout: MemoryLayout) -> int:
    return max(len(str(limit)) for limit in layout.limits)
