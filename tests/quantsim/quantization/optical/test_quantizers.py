"""The optical quantizer: ranges, noise, seeds, persistence and exchange."""

from __future__ import annotations

import copy
import io
import math
import pickle
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError, NonFiniteError, NotCalibratedError, ShapeError
from quantsim.quantization.optical import OpticalQuantizeDequantize
from quantsim_encodings.encoding import FloatEncoding, OpticalEncoding
from quantsim_encodings.formats import FloatFormat, OpticalFormat, OpticalNoise
from quantsim_encodings.granularity import PerChannel


def expected_levels(x: Tensor, lo: float, hi: float, levels: int) -> np.ndarray:
    """The law of the levels, in float32 and in its order."""
    one = np.float32
    span = one(hi) - one(lo)
    values = np.clip(x.numpy().astype(np.float32), one(lo), one(hi))
    codes = np.rint((values - one(lo)) / (span + one(1e-8)) * one(levels - 1))
    return codes / one(levels - 1) * span + one(lo)


def calibrated(**settings: Any) -> OpticalQuantizeDequantize:
    quantizer = OpticalQuantizeDequantize(**settings)
    quantizer.set_range(-1.0, 2.0)
    return quantizer.eval()


def test_values_are_those_of_the_law() -> None:
    x = torch.randn(1001)
    quantizer = calibrated(levels=17)
    np.testing.assert_allclose(quantizer(x).numpy(), expected_levels(x, -1.0, 2.0, 17), rtol=1e-6, atol=1e-6)
    assert len(quantizer(x).unique()) == 17


def test_range_moves_in_training_before_the_batch_is_quantized() -> None:
    quantizer = OpticalQuantizeDequantize(levels=256, smooth_factor=0.9)
    batches = [torch.tensor([-1.0, 1.0]), torch.tensor([-11.0, 1.0]), torch.tensor([0.0, 6.0])]
    expected: np.ndarray | None = None
    for batch in batches:
        result = quantizer(batch)
        ends = batch.numpy()
        expected = ends if expected is None else 0.9 * expected + 0.1 * ends
        np.testing.assert_allclose(quantizer.range.numpy(), expected, rtol=1e-5)
        assert float(result.max()) <= float(expected[1]) + 1e-5
    before = quantizer.range.clone()
    quantizer.eval()(torch.tensor([-100.0, 100.0]))
    assert torch.equal(quantizer.range, before)


def test_quantiles_are_the_range() -> None:
    quantizer = OpticalQuantizeDequantize(quantiles=(0.1, 0.9))
    x = torch.linspace(0, 100, 101)
    quantizer(x)
    np.testing.assert_allclose(quantizer.range.numpy(), [10.0, 90.0], rtol=1e-6)


def test_frozen_range_stays_in_training_and_in_calibration() -> None:
    quantizer = calibrated().train()
    quantizer.freeze()
    quantizer(torch.tensor([-9.0, 9.0]))
    with quantizer.compute_encodings():
        assert float(quantizer(torch.tensor([9.0]))) == 2.0
    assert torch.equal(quantizer.range, torch.tensor([-1.0, 2.0]))


def test_calibration_averages_batches_without_noise_and_without_training() -> None:
    quantizer = OpticalQuantizeDequantize(noise="dither", smooth_factor=0.5).eval()
    seed = quantizer.seed.clone()
    with quantizer.compute_encodings():
        for _ in range(2):
            torch.testing.assert_close(quantizer(torch.tensor([0.0, 4.0])), torch.tensor([0.0, 4.0]))
        quantizer(torch.tensor([-2.0, 0.0]))
    assert torch.equal(quantizer.range, torch.tensor([-1.0, 2.0]))
    assert torch.equal(quantizer.seed, seed)
    with quantizer.compute_encodings():  # starts anew
        quantizer(torch.tensor([5.0, 6.0]))
    assert torch.equal(quantizer.range, torch.tensor([5.0, 6.0]))


def test_failed_calibration_changes_nothing() -> None:
    quantizer = calibrated()
    with pytest.raises(NonFiniteError), quantizer.compute_encodings():
        quantizer(torch.tensor([1.0, math.nan]))
    assert torch.equal(quantizer.range, torch.tensor([-1.0, 2.0]))
    with pytest.warns(UserWarning, match="no data"), quantizer.compute_encodings():
        quantizer(torch.empty(0))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_batch_in_training_does_not_spoil_the_range(bad: float) -> None:
    quantizer = calibrated().train()
    quantizer(torch.tensor([bad, 1.0]))
    assert torch.equal(quantizer.range, torch.tensor([-1.0, 2.0]))
    quantizer = OpticalQuantizeDequantize()
    quantizer(torch.tensor([bad, 1.0]))
    with pytest.raises(NotCalibratedError):
        quantizer.eval()(torch.ones(2))


def test_use_before_calibration_is_an_error_in_evaluation() -> None:
    quantizer = OpticalQuantizeDequantize().eval()
    with pytest.raises(NotCalibratedError, match="OpticalQuantizeDequantize"):
        quantizer(torch.ones(3))
    assert quantizer(torch.empty(0)).shape == (0,)
    assert quantizer(torch.tensor([1, 2])).dtype == torch.int64


def test_noise_is_of_each_element_and_of_each_call() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    quantizer = calibrated(levels=4, noise="dither", seed=5)
    x = torch.full((4096,), 0.5)  # halfway between two levels
    first, second = quantizer(x), quantizer(x)
    assert len(first.unique()) == 2
    assert 0.45 < float((first == first.max()).float().mean()) < 0.55
    assert not torch.equal(first, second)
    again = calibrated(levels=4, noise="dither", seed=5)
    assert torch.equal(again(x), first)
    assert torch.equal(again(x), second)
    assert torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(calibrated(levels=4, noise="dither", seed=6)(x), first)


def test_noise_stays_inside_the_range() -> None:
    quantizer = calibrated(levels=4, noise="dither")
    result = quantizer(torch.tensor([-1.0, 2.0] * 1000))
    assert set(result.tolist()) == {-1.0, 2.0}


def test_shot_noise_needs_photons() -> None:
    quantizer = calibrated(levels=2**16, noise="shot", photons=100.0)
    assert quantizer(torch.full((10000,), 1.0)).std() > 0
    for settings in ({"noise": "shot"}, {"photons": 5.0}, {"noise": "shot", "photons": -1.0}):
        with pytest.raises(ConfigurationError, match="photons"):
            OpticalQuantizeDequantize(**settings)  # pyright: ignore[reportArgumentType]


def test_gradient_is_identity_or_clipped() -> None:
    for ste, expected in (("identity", [1.0, 1.0, 1.0]), ("clipped", [0.0, 1.0, 0.0])):
        x = torch.tensor([-3.0, 0.3, 9.0], requires_grad=True)
        calibrated(ste=ste)(x).sum().backward()
        assert x.grad is not None
        assert x.grad.tolist() == expected


def test_two_forwards_before_a_backward() -> None:
    quantizer = OpticalQuantizeDequantize(ste="clipped")
    x = torch.tensor([-1.0, 0.5, 1.0], requires_grad=True)
    (quantizer(x).sum() + quantizer(2 * x).sum()).backward()
    assert x.grad is not None


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"levels": 1}, "levels"),
        ({"lut": 1.0}, "lut"),
        ({"lut": -0.5}, "lut"),
        ({"noise": "loud"}, "loud"),
        ({"quantiles": (0.9, 0.1)}, "two rising numbers"),
        ({"quantiles": 0.5}, "two rising numbers"),
        ({"smooth_factor": 2.0}, "smooth_factor"),
        ({"seed": 1.5}, "seed"),
        ({"ste": "none"}, "ste"),
    ],
)
def test_wrong_arguments(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        OpticalQuantizeDequantize(**settings)


def test_wrong_ranges_change_nothing() -> None:
    quantizer = calibrated()
    for ends in ((1.0, 0.0), (math.nan, 1.0), (0.0, math.inf)):
        with pytest.raises(ConfigurationError):
            quantizer.set_range(*ends)
    assert torch.equal(quantizer.range, torch.tensor([-1.0, 2.0]))


@pytest.mark.parametrize("way", ["state_dict", "file", "deepcopy", "pickle"])
def test_copies_continue_where_the_original_stands(way: str) -> None:
    quantizer = calibrated(levels=8, lut=0.1, noise="dither", quantiles=(0.1, 0.9), smooth_factor=0.5, seed=-3)
    x = torch.linspace(-1, 2, 100)
    quantizer(x)
    if way == "deepcopy":
        other = copy.deepcopy(quantizer)
    elif way == "pickle":
        other = pickle.loads(pickle.dumps(quantizer))
    else:
        state = quantizer.state_dict()
        if way == "file":
            file = io.BytesIO()
            torch.save(state, file)
            file.seek(0)
            state = torch.load(file, weights_only=True)
        other = OpticalQuantizeDequantize()
        other.load_state_dict(state)
        other.eval()
    assert other.persistent_settings() == quantizer.persistent_settings()
    assert torch.equal(other.range, quantizer.range)
    assert torch.equal(other(x), quantizer(x))


def test_encodings_bring_range_and_state() -> None:
    quantizer = calibrated(levels=8, lut=0.1, noise="dither", quantiles=(0.1, 0.9), smooth_factor=0.5, seed=7)
    x = torch.linspace(-1, 2, 100)
    encoding = quantizer.get_encodings()
    assert isinstance(encoding, OpticalEncoding)
    assert (encoding.format.levels, encoding.format.lut) == (8, 0.1)
    assert (float(encoding.minimum), float(encoding.maximum), encoding.seed) == (-1.0, 2.0, 7)
    made, changed = OpticalQuantizeDequantize.from_encodings(encoding).eval(), calibrated()
    changed.set_encodings(encoding)
    expected = quantizer(x)
    for other in (made, changed):
        assert torch.equal(other(x), expected)
        assert (other.quantiles, other.smooth_factor) == ((0.1, 0.9), 0.5)
    assert OpticalQuantizeDequantize().get_encodings() is None


def test_encodings_that_do_not_fit_change_nothing() -> None:
    quantizer = calibrated()
    before = quantizer.persistent_settings()
    with pytest.raises(TypeError, match="OpticalEncoding"):
        quantizer.set_encodings(FloatEncoding(FloatFormat(5, 2)))
    per_channel = OpticalEncoding(OpticalFormat(), np.zeros((2, 1)), np.ones((2, 1)), granularity=PerChannel(0))
    with pytest.raises(ShapeError):
        quantizer.set_encodings(per_channel)
    shot = OpticalEncoding(OpticalFormat(noise=OpticalNoise.SHOT), np.zeros(()), np.ones(()))
    with pytest.raises(ConfigurationError, match="photons"):
        quantizer.set_encodings(shot)
    assert quantizer.persistent_settings() == before
    assert OpticalQuantizeDequantize.from_encodings(shot, photons=9.0).photons == 9.0


def test_range_and_seed_keep_their_dtype_and_start_anew_from_meta() -> None:
    quantizer = calibrated(noise="dither", seed=4)
    quantizer.to(torch.float16)
    assert (quantizer.range.dtype, quantizer.seed.dtype) == (torch.float32, torch.int64)
    quantizer.to("meta")
    assert quantizer.range.is_meta
    quantizer.to_empty(device="cpu")
    assert torch.isnan(quantizer.range).all()
    assert int(quantizer.seed) == 4
    with pytest.raises(NotCalibratedError):
        quantizer(torch.ones(2))


def test_meta_tensors_train() -> None:
    quantizer = OpticalQuantizeDequantize(noise="dither").to("meta")
    assert quantizer(torch.empty(3, 4, device="meta")).shape == (3, 4)


def test_compiles_whole_in_training_and_in_evaluation() -> None:
    quantizer = OpticalQuantizeDequantize(levels=16)
    compiled = torch.compile(quantizer, fullgraph=True, backend="aot_eager")
    x = torch.randn(64)
    compiled(x)
    assert torch.equal(quantizer.range, torch.stack(torch.aminmax(x)))
    quantizer.eval()
    assert torch.equal(compiled(2 * x), quantizer(2 * x))


def test_is_a_module_quantizer() -> None:
    model = nn.Sequential(calibrated(levels=4))
    assert "levels=4" in repr(model)
    assert model[0].bitwidth == 2
    assert not list(model.parameters())
