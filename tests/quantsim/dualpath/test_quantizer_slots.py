"""Short names of quantizers in containers."""

from __future__ import annotations

import pytest
from torch import nn

from quantsim.dualpath import QAttention, QBase, QBaseLinear
from quantsim.errors import ConfigurationError
from quantsim.quantization import affine


def test_a_slot_is_the_entry_of_the_container() -> None:
    layer = QBaseLinear(4, 2)
    for name in ("wq", "aq", "yq"):
        assert isinstance(getattr(layer, name), nn.Identity)
    quantizer = affine.QuantizeDequantize((), bitwidth=8, symmetric=False)
    layer.aq = quantizer
    assert layer.aq is layer.input_quantizers[0] is quantizer
    layer.input_quantizers[0] = QBase(4)
    assert layer.aq is not quantizer
    layer.aq = nn.Identity()
    assert layer.input_quantizers[0] is None
    assert "aq" not in dict(layer.named_children())


def test_slots_reach_into_submodules() -> None:
    attention = QAttention(8, 2, abit=8)
    assert attention.xq is attention.qkv.aq
    assert attention.qproj is attention.attnv.output_quantizers[0]
    assert "qqkv" in attention.quantizer_names()
    attention.qqkv = None
    assert attention.quantizer("qqkv") is None


def test_modules_that_are_no_quantizers_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="expected a quantizer"):
        QBaseLinear(4, 2).wq = nn.ReLU()
