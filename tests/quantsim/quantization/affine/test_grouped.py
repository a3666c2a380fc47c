from __future__ import annotations

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.quantization import affine

GROUPINGS = [(1, 1), (1, 2), (1, -1), (2, 2), (-1, -1)]


def make(grouping=(1, -1), x=None):
    quantizer = affine.GroupedBlockQuantizeDequantize((8, 4), 4, True, 8, block_size=(1, 16), block_grouping=grouping)
    if x is not None:
        with quantizer.compute_encodings():
            quantizer(x)
    return quantizer


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_scales_are_integers_times_the_groups_scale(grouping):
    quantizer = make(grouping, torch.randn(8, 64) * torch.rand(8, 64).mul(4).exp())
    encoding = quantizer.get_encodings()
    integers = torch.tensor(encoding.per_block_int_scale)
    assert integers.min() >= 1
    assert integers.max() == 16
    product = torch.tensor(encoding.per_channel_scale) * integers
    assert torch.equal(product, quantizer.get_scale().detach())
    rows, columns = (n if g == -1 else g for n, g in zip((8, 4), grouping, strict=True))
    assert quantizer.get_per_channel_scale().shape == (8 // rows, 4 // columns)


def test_without_grouping_it_is_plain_blockwise():
    x = torch.randn(8, 64)
    plain = affine.QuantizeDequantize((8, 4), 4, True, block_size=(1, 16))
    with plain.compute_encodings():
        plain(x)
    assert torch.equal(make(None, x)(x), plain(x))


@pytest.mark.parametrize("grouping", GROUPINGS)
def test_encodings_round_trip(grouping):
    x = torch.randn(8, 64)
    quantizer = make(grouping, x)
    encoding = quantizer.get_encodings()
    for twin in (affine.GroupedBlockQuantizeDequantize.from_encodings(encoding), make(grouping)):
        twin.set_encodings(encoding)
        assert twin.get_encodings() == encoding
        assert torch.equal(twin(x), quantizer(x))


def test_encodings_of_another_grouping_are_refused():
    quantizer = make((1, -1), torch.randn(8, 64))
    before = quantizer.get_encodings()
    with pytest.raises(ConfigurationError, match="grouping"):
        quantizer.set_encodings(make((1, 1), torch.randn(8, 64) * torch.rand(8, 64).mul(4).exp()).get_encodings())
    assert quantizer.get_encodings() == before
    with pytest.raises(TypeError, match="GroupedBlockEncoding"):
        quantizer.set_encodings(affine.DynamicQuantizeDequantize(8, True).get_encodings())


def test_range_gradients_flow_through_the_grouping():
    x = torch.randn(8, 64)
    quantizer = make((1, -1), x)
    quantizer(x).square().sum().backward()
    for gradient in (quantizer.min.grad, quantizer.max.grad):
        assert torch.isfinite(gradient).all()
        assert gradient.abs().sum() > 0


def test_uninitialised_has_no_numbers():
    quantizer = make()
    assert quantizer.get_encodings() is None
    assert quantizer.get_per_channel_scale() is None


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"symmetric": False}, "symmetric"),
        ({"decompressed_bw": 2}, "at least bitwidth"),
        ({"block_grouping": (1, 3)}, "divisor"),
        ({"block_grouping": (1,)}, "divisor"),
    ],
)
def test_impossible_arguments(arguments, match):
    given = {"shape": (8, 4), "bitwidth": 4, "symmetric": True, "decompressed_bw": 8, "block_size": (1, 16)}
    with pytest.raises(ConfigurationError, match=match):
        affine.GroupedBlockQuantizeDequantize(**(given | arguments))
