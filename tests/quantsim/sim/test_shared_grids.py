from __future__ import annotations

import pytest

from quantsim.quantization import affine
from quantsim.sim.config import IntegerSetting
from quantsim.sim.shared_grids import SharedGrids, share_quantizers
from quantsim_encodings.document import TensorReference, TensorRole

A, B, C, D = (TensorReference(name, TensorRole.OUTPUT, "0") for name in "abcd")
INT8 = IntegerSetting(bits=8, symmetric=False)


def quantizer() -> affine.QuantizeDequantize:
    return affine.QuantizeDequantize((), 8, False)


def test_sets_grow_together() -> None:
    grids = SharedGrids()
    assert not grids
    grids.join([A, B])
    grids.join([C, D])
    grids.join([C])
    assert sorted(map(len, grids.sets())) == [2, 2]
    grids.join([B, C])
    assert [set(members) for members in grids.sets()] == [{A, B, C, D}]
    assert grids.members(TensorReference("e", TensorRole.OUTPUT, "0")) == [TensorReference("e", TensorRole.OUTPUT, "0")]


def test_one_quantizer_is_put_in_all_places() -> None:
    grids = SharedGrids()
    grids.join([A, B])
    before = {A: quantizer(), B: quantizer(), C: quantizer()}
    after = share_quantizers(before, grids, dict.fromkeys(before, INT8))
    assert after[A] is after[B] is before[A]
    assert after[C] is before[C]


def test_settings_that_differ_are_not_shared() -> None:
    grids = SharedGrids()
    grids.join([A, B])
    before = {A: quantizer(), B: quantizer()}
    assert share_quantizers(before, grids, {A: INT8, B: IntegerSetting(bits=4)}) == before


def test_a_range_that_is_known_is_set_and_stays() -> None:
    setting = IntegerSetting(bits=8, symmetric=False, fixed_range=(0.0, 1.0))
    (fixed,) = share_quantizers({A: quantizer()}, SharedGrids(), {A: setting}).values()
    assert fixed.is_frozen
    assert fixed.is_initialized()
    assert float(fixed.get_scale()) == pytest.approx(1 / 255)  # type: ignore[attr-defined]
