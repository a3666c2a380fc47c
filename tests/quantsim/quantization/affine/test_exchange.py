from __future__ import annotations

import numpy as np
import pytest
import torch

from quantsim.errors import ConfigurationError, ShapeError
from quantsim.quantization import affine
from quantsim.quantization.affine.exchange import range_of
from quantsim.quantization.granularity import Flattened, PerBlocks, PerChannel, PerTensor
from quantsim_encodings.encoding import AffineEncoding
from quantsim_encodings.formats import IntFormat
from quantsim_kernels.reference.affine import scale_and_offset

SHAPES = [((), None), ((1,), None), ((8, 1), None), ((8, 2), (1, 32)), ((4, 1), (2, 64))]
GRIDS = [
    (-128, 127, True),
    (0, 255, False),
    (-8, 7, True),
    (-8, 7, False),
    (-7, 7, True),
    (0, 3, False),
    (0, 65535, False),
]


@pytest.mark.parametrize("kind", [affine.Quantize, affine.QuantizeDequantize, affine.Dequantize])
@pytest.mark.parametrize(("shape", "block_size"), SHAPES)
@pytest.mark.parametrize(("qmin", "qmax", "symmetric"), GRIDS)
def test_round_trip_is_exact(kind, shape, block_size, qmin, qmax, symmetric):
    quantizer = kind(shape, qmin, qmax, symmetric, block_size=block_size)
    with quantizer.compute_encodings():
        quantizer(torch.randn(8, 64) * 3 + 0.5)
    encoding = quantizer.get_encodings()
    made = kind.from_encodings(encoding)
    other = kind(shape, 2, False, block_size=block_size)
    other.set_encodings(encoding)
    x = torch.randn(8, 64)
    for twin in (made, other):
        assert twin.get_encodings() == encoding
        assert twin.shape == shape
        assert torch.equal(twin(x), quantizer(x))


@pytest.mark.parametrize("symmetric", [True, False])
def test_range_of_inverts_scale_and_offset(symmetric):
    generator = torch.Generator().manual_seed(0)
    low = -torch.rand(5000, generator=generator) * 10 ** torch.randint(-5, 5, (5000,), generator=generator).float()
    high = torch.rand(5000, generator=generator) * 10 ** torch.randint(-5, 5, (5000,), generator=generator).float()
    for qmin, qmax in ((-8, 7), (-128, 127), (-32768, 32767)):
        scale, offset = scale_and_offset(low, high, qmin, qmax, symmetric)
        minimum, maximum = range_of(scale, offset.double(), qmin, qmax)
        again = scale_and_offset(minimum, maximum, qmin, qmax, symmetric)
        assert torch.equal(again[0], scale)
        assert torch.equal(again[1], offset)


def test_zero_point_shift_is_kept():
    quantizer = affine.QuantizeDequantize((), 4, True, zero_point_shift=0.5)
    quantizer.set_range(-1, 1)
    twin = affine.QuantizeDequantize.from_encodings(quantizer.get_encodings())
    assert twin.zero_point_shift == 0.5
    x = torch.randn(32)
    assert torch.equal(twin(x), quantizer(x))


def encoding(scale, offset=0, *, qmin=-8, qmax=7, symmetric=True, granularity=None, block_size=None):
    scale = np.asarray(scale, dtype=np.float32)
    if granularity is None:
        granularity = PerTensor() if scale.size == 1 else PerChannel(0)
    return AffineEncoding(IntFormat(qmin, qmax), scale, offset, symmetric, granularity, block_size)


def test_shapes_that_mean_the_same_are_taken():
    quantizer = affine.QuantizeDequantize((4, 1, 1), 4, True)
    quantizer.set_encodings(encoding([0.1, 0.2, 0.3, 0.4]))
    assert quantizer.get_scale().shape == (4, 1, 1)
    quantizer.set_encodings(encoding([[0.5], [0.2], [0.3], [0.4]]))
    assert quantizer.get_scale().flatten()[0].item() == pytest.approx(0.5, rel=1e-6)
    affine.QuantizeDequantize((1,), 4, True).set_encodings(encoding(0.25))


def test_flattened_scales_find_their_place():
    quantizer = affine.QuantizeDequantize((2, 2), 4, True, block_size=(1, 8))
    quantizer.set_encodings(encoding([0.1, 0.2, 0.3, 0.4], granularity=Flattened(8)))
    torch.testing.assert_close(
        quantizer.get_scale().detach(), torch.tensor([[0.1, 0.2], [0.3, 0.4]]), rtol=1e-6, atol=0
    )
    with pytest.raises(ShapeError, match="does not say how"):
        affine.QuantizeDequantize.from_encodings(encoding([0.1, 0.2], granularity=Flattened()))


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        (encoding([0.1, 0.2]), ShapeError),
        (encoding(0.1), ShapeError),
        (encoding([[0.1, 0.2], [0.3, 0.4]], granularity=PerBlocks((1, 1))), ShapeError),
        (encoding([0.1] * 4, offset=3), ConfigurationError),
        (encoding([0.1] * 4, offset=30, symmetric=False), ConfigurationError),
        ("nonsense", TypeError),
    ],
)
def test_what_does_not_fit_changes_nothing(wrong, error):
    quantizer = affine.QuantizeDequantize((4, 1), 8, False)
    quantizer.set_range(-1, 1)
    before = quantizer.get_encodings()
    with pytest.raises(error):
        quantizer.set_encodings(wrong)
    assert quantizer.get_encodings() == before


@pytest.mark.parametrize(("bits", "symmetric"), [(8, True), (8, False), (4, True), (16, False)])
def test_legacy_round_trip(bits, symmetric):
    quantizer = affine.QuantizeDequantize((3, 1), bits, symmetric)
    with quantizer.compute_encodings():
        quantizer(torch.randn(3, 50))
    legacy = quantizer.get_legacy_encodings()
    assert [set(entry) for entry in legacy] == [
        {"min", "max", "scale", "offset", "bitwidth", "dtype", "is_symmetric"}
    ] * 3
    assert legacy[0]["is_symmetric"] == str(symmetric)
    if symmetric:
        assert legacy[0]["offset"] == -(2 ** (bits - 1))
    other = affine.QuantizeDequantize((3, 1), 2, not symmetric)
    other.set_legacy_encodings(legacy)
    assert other.get_encodings() == quantizer.get_encodings()


def test_legacy_list_says_what_it_cannot():
    quantizer = affine.QuantizeDequantize((), -7, 7, True)
    quantizer.set_range(-1, 1)
    with pytest.raises(ConfigurationError, match="all integers of a bitwidth"):
        quantizer.get_legacy_encodings()


@pytest.mark.parametrize(
    ("legacy", "error"),
    [
        ([], ShapeError),
        ([{"bitwidth": 8}], ConfigurationError),
        ([{"bitwidth": 8, "is_symmetric": "Maybe", "scale": 1.0, "offset": 0}], ConfigurationError),
        ([{"bitwidth": 8, "is_symmetric": "False", "scale": "x", "offset": 0}], ConfigurationError),
    ],
)
def test_bad_legacy_lists_change_nothing(legacy, error):
    quantizer = affine.QuantizeDequantize((), 8, False)
    quantizer.set_range(-1, 1)
    before = quantizer.get_encodings()
    with pytest.raises(error):
        quantizer.set_legacy_encodings(legacy)
    assert quantizer.get_encodings() == before
