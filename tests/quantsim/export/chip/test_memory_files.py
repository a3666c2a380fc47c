from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quantsim.errors import ConfigurationError
from quantsim.export.chip.memory_files import MemoryFormat, decode_memory, encode_memory
from quantsim.export.chip.memory_layout import FirstCode, MemoryLayout, MemoryTiling


def word_of(codes: list[int], layout: MemoryLayout) -> int:
    """The word as one number, in Python's integers."""
    placed = codes if layout.first_code is FirstCode.LOW else codes[::-1]
    return sum((code % 2**layout.bits) << (place * layout.bits) for place, code in enumerate(placed))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_files_hold_the_words(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from([1, 2, 4, 8, 16, 32, 64]))
    signed = data.draw(st.booleans()) if bits > 1 else False
    first = data.draw(st.sampled_from(list(FirstCode)))
    tiling = MemoryTiling(columns=data.draw(st.integers(1, 9)), first_code=first)
    shape = (data.draw(st.integers(1, 4)), data.draw(st.integers(1, 11)))
    layout = tiling.of_rows(shape, bits, signed=signed)
    low, high = layout.limits
    codes = data.draw(st.lists(st.integers(low, high), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    array = np.array(codes, np.int64).reshape(shape)
    words = layout.arrange(array).tolist()
    numbers = [word_of(word, layout) for word in words]

    text = encode_memory(array, layout, MemoryFormat.HEX).decode("ascii")
    assert text == "".join(f"{number:0{layout.hex_digits}x}\n" for number in numbers)
    binary = encode_memory(array, layout, MemoryFormat.BIN)
    assert binary == b"".join(number.to_bytes(layout.word_bytes, "little") for number in numbers)
    decimal = encode_memory(array, layout, MemoryFormat.DECIMAL).decode("ascii")
    assert [[int(code) for code in line.split()] for line in decimal.splitlines()] == words
    assert len({len(line) for line in decimal.splitlines()}) == 1
    for form in MemoryFormat:
        np.testing.assert_array_equal(decode_memory(encode_memory(array, layout, form), layout, form), array)


def test_masks_are_bits() -> None:
    layout = MemoryTiling(columns=8).of_rows((1, 3), 1, signed=False)
    mask = np.array([[True, False, True]])
    assert encode_memory(mask, layout, MemoryFormat.HEX) == b"05\n"
    assert encode_memory(mask, layout, MemoryFormat.BIN) == b"\x05"


@pytest.mark.parametrize(
    ("form", "data"),
    [
        (MemoryFormat.HEX, b"01\n0g\n"),
        (MemoryFormat.HEX, b"01\n0 \n"),
        (MemoryFormat.HEX, b"01 02 "),
        (MemoryFormat.HEX, b"01\n"),
        (MemoryFormat.HEX, b""),
        (MemoryFormat.BIN, b"\x01"),
        (MemoryFormat.BIN, b"\x01\x02\x03"),
        (MemoryFormat.DECIMAL, b"   1\n"),
        (MemoryFormat.DECIMAL, b"   1\n   a\n"),
        (MemoryFormat.DECIMAL, b"   1\n  1 \n"),
        (MemoryFormat.DECIMAL, b"   1\n 1-1\n"),
        (MemoryFormat.DECIMAL, b"   1\n--11\n"),
        (MemoryFormat.DECIMAL, b"   1\n   -\n"),
        (MemoryFormat.DECIMAL, b"   1 \n  2\n"),
        (MemoryFormat.DECIMAL, b"   1\n 128\n"),
    ],
)
def test_other_files_are_refused(form: MemoryFormat, data: bytes) -> None:
    layout = MemoryTiling(columns=1).of_rows((2,), 8, signed=True)
    with pytest.raises(ConfigurationError, match="expected 2 words of 1 codes, 8 bits each"):
        decode_memory(data, layout, form)


@pytest.mark.parametrize("form", MemoryFormat)
@pytest.mark.parametrize("shape", [(0,), (0, 4), (4, 0)])
@pytest.mark.parametrize("bits", [4, 8])
def test_memories_of_nothing(form: MemoryFormat, shape: tuple[int, ...], bits: int) -> None:
    tiling = MemoryTiling(rows=2, columns=4)
    for layout in (tiling.of_rows(shape, bits, signed=True), tiling.of_weights(shape, bits)):
        data = encode_memory(np.zeros(shape, np.int64), layout, form)
        assert data == b""
        assert decode_memory(data, layout, form).shape == shape
