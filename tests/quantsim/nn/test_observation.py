from __future__ import annotations

import pytest
import torch

from quantsim.nn.observation import CalibrationReport, QuantizerPlace, observe, preserve_on_error
from quantsim.quantization import affine


def test_observe_reports_in_order_and_skips_frozen_quantizers() -> None:
    quantizers = [affine.QuantizeDequantize((), 8, False) for _ in range(3)]
    quantizers[1].set_range(-1.0, 1.0)
    quantizers[1].freeze()
    places = [QuantizerPlace(f"q{index}", str(index), quantizer) for index, quantizer in enumerate(quantizers)]
    report = CalibrationReport()
    with observe(places, report):
        for quantizer in quantizers:
            quantizer(torch.tensor([2.0, -3.0]))
    assert report == CalibrationReport(calibrated=["q0", "q2"], unobserved=[])
    assert float(quantizers[1].max) == 1.0


@pytest.mark.parametrize("initialized", [True, False])
def test_preserve_on_error_restores_everything(initialized: bool) -> None:
    quantizer = affine.QuantizeDequantize((2, 1), 8, True)
    if initialized:
        quantizer.set_range(-torch.ones(2, 1), torch.ones(2, 1))
        quantizer(torch.ones(2, 2))
    parameter, version = quantizer.max, quantizer.max.detach().clone()
    with pytest.raises(KeyError), preserve_on_error([quantizer]):
        quantizer.bitwidth = 4
        quantizer.set_range(-torch.ones(2, 1) * 5, torch.ones(2, 1) * 5)
        quantizer.allow_overwrite(False)
        quantizer.max.data = torch.zeros(7)
        raise KeyError
    assert quantizer.bitwidth == 8
    assert quantizer.is_overwrite_allowed
    assert quantizer.max is parameter
    assert torch.equal(quantizer.max.nan_to_num(7), version.nan_to_num(7))
    assert quantizer.is_initialized() is initialized
    if initialized:
        assert float(quantizer(torch.full((2, 1), 9.0)).max()) == pytest.approx(1.0, abs=0.01)


def test_preserve_keeps_changes_of_a_block_that_ends_normally() -> None:
    quantizer = affine.QuantizeDequantize((), 8, True)
    with preserve_on_error([quantizer]):
        quantizer.set_range(-1.0, 1.0)
    assert quantizer.is_initialized()
