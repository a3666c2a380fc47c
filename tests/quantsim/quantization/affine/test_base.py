from __future__ import annotations

import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.quantization import affine
from quantsim.quantization.granularity import PerBlock, PerChannel, PerTensor


def test_set_range_gives_the_grid_of_the_specification():
    quantizer = affine.QuantizeDequantize((), 8, True)
    quantizer.set_range(-1, 1)
    assert quantizer.get_min().item() == pytest.approx(-1.0039216, rel=1e-6)
    assert quantizer.get_max().item() == pytest.approx(0.9960784, rel=1e-6)
    assert quantizer.get_scale().item() == pytest.approx(2 / 255)
    assert quantizer.get_offset().item() == 0
    assert quantizer.get_scale(torch.float64).dtype is torch.float64


def test_shift_moves_the_ends():
    quantizer = affine.QuantizeDequantize((), 4, True, zero_point_shift=0.5)
    with quantizer.compute_encodings():
        quantizer(torch.tensor([-1.0, 2.0]))
    # 15 codes are left without the one beyond the range: min = -7 delta, max = 7 delta, delta = 2/7
    assert quantizer.get_min().item() == pytest.approx(-7.5 * 4 / 15)
    assert quantizer.get_max().item() == pytest.approx(7.5 * 4 / 15)


def test_uninitialised_has_no_numbers():
    quantizer = affine.QuantizeDequantize((2, 1), 8, True)
    for value in (
        quantizer.get_min(),
        quantizer.get_max(),
        quantizer.get_scale(),
        quantizer.get_offset(),
        quantizer.get_encodings(),
        quantizer.get_legacy_encodings(),
    ):
        assert value is None


def test_one_end_at_a_time():
    quantizer = affine.QuantizeDequantize((2, 1), 8, False)
    quantizer.set_range(None, None)
    quantizer.set_range(-1, None)
    assert not quantizer.is_initialized()
    quantizer.set_range(None, torch.tensor([[1.0], [2.0]]))
    assert quantizer.is_initialized()
    assert quantizer.max.flatten().tolist() == [1.0, 2.0]


def test_bad_ranges_change_nothing():
    quantizer = affine.QuantizeDequantize((2, 1), 8, False)
    quantizer.set_range(-1, 1)
    for low, high in ((2, None), (None, -2), (3, 2), (float("nan"), 1), (0, float("inf")), (0, torch.ones(3))):
        with pytest.raises(ConfigurationError):
            quantizer.set_range(low, high)
        assert quantizer.min.flatten().tolist() == [-1, -1]
        assert quantizer.max.flatten().tolist() == [1, 1]


def test_range_that_excludes_zero_is_widened():
    quantizer = affine.QuantizeDequantize((), 8, False)
    quantizer.set_range(2.0, 4.0)
    x = torch.tensor([0.0, 2.0, 4.0])
    assert torch.allclose(quantizer(x), x, atol=4 / 255)


def test_granularity():
    assert affine.QuantizeDequantize((), 8, True).granularity == PerTensor()
    assert affine.QuantizeDequantize((1, 8, 1), 8, True).granularity == PerChannel(1)
    assert affine.QuantizeDequantize((8, 2), 8, True, block_size=(1, 32)).granularity == PerBlock(1, 32)


def test_repr_shows_what_defines_the_quantizer():
    text = repr(affine.QuantizeDequantize((8, 2), 4, True, block_size=(1, 32), zero_point_shift=0.5))
    assert text == (
        "QuantizeDequantize(shape=(8, 2), block_size=(1, 32), qmin=-8, qmax=7, symmetric=True, zero_point_shift=0.5)"
    )


def test_training_the_range_lowers_the_error():
    quantizer = affine.QuantizeDequantize((), 4, False)
    x = torch.cat([torch.randn(4000), torch.tensor([30.0])])
    with quantizer.compute_encodings():
        quantizer(x)
    optimizer = torch.optim.Adam(quantizer.parameters(), lr=0.2)
    losses = []
    for _ in range(60):
        loss = (quantizer(x) - x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
