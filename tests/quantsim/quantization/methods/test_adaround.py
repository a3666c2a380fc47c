from __future__ import annotations

import copy
import pickle

import pytest
import torch

from quantsim.errors import ConfigurationError, NotCalibratedError, ShapeError
from quantsim.quantization import affine
from quantsim.quantization.methods import AdaRoundQuantizeDequantize
from quantsim.quantization.methods.adaround import rectified_sigmoid

WEIGHT = torch.randn(6, 40, generator=torch.Generator().manual_seed(0))


def made(*, symmetric: bool = True, begin: bool = True) -> AdaRoundQuantizeDequantize:
    quantizer = AdaRoundQuantizeDequantize(shape=(6, 1), bitwidth=4, symmetric=symmetric)
    with quantizer.compute_encodings():
        quantizer(WEIGHT)
    if begin:
        quantizer.begin_rounding(WEIGHT)
    return quantizer


def nearest(symmetric: bool = True) -> affine.QuantizeDequantize:
    return affine.QuantizeDequantize.from_encodings(made(symmetric=symmetric, begin=False).get_encodings())  # pyright: ignore[reportArgumentType]


def scramble(quantizer: AdaRoundQuantizeDequantize) -> None:
    assert quantizer.alpha is not None
    with torch.no_grad():
        quantizer.alpha.copy_(torch.randn(WEIGHT.shape, generator=torch.Generator().manual_seed(7)))


@pytest.mark.parametrize("symmetric", [True, False])
def test_it_starts_at_the_weight_and_hard_it_rounds_to_nearest(symmetric: bool) -> None:
    before, quantizer = made(symmetric=symmetric, begin=False), made(symmetric=symmetric)
    assert torch.equal(before(WEIGHT), nearest(symmetric)(WEIGHT))
    assert before.rounds_to_nearest
    assert not quantizer.rounds_to_nearest
    scale, offset = quantizer.get_scale(), quantizer.get_offset()
    assert scale is not None
    assert offset is not None
    codes = WEIGHT / scale - offset
    inside = (codes > quantizer.qmin) & (codes < quantizer.qmax)
    torch.testing.assert_close(quantizer(WEIGHT)[inside], WEIGHT[inside], rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        assert torch.equal(quantizer(WEIGHT)[inside], nearest(symmetric)(WEIGHT)[inside])


@pytest.mark.parametrize("symmetric", [True, False])
def test_soft_and_hard_are_the_published_formulas(symmetric: bool) -> None:
    quantizer = made(symmetric=symmetric)
    scramble(quantizer)
    assert quantizer.alpha is not None
    scale, offset = quantizer.get_scale(), quantizer.get_offset()
    assert scale is not None
    assert offset is not None

    def on_grid(up: torch.Tensor) -> torch.Tensor:
        codes = ((WEIGHT / scale).floor() - offset + up).clamp(quantizer.qmin, quantizer.qmax)
        return (codes + offset) * scale

    soft = (1.2 * torch.sigmoid(quantizer.alpha.detach()) - 0.1).clamp(0, 1)
    torch.testing.assert_close(quantizer(WEIGHT), on_grid(soft))
    quantizer.freeze()
    torch.testing.assert_close(quantizer(WEIGHT), on_grid((quantizer.alpha >= 0).float()))


def test_hard_everywhere_but_while_it_learns() -> None:
    quantizer = made()
    scramble(quantizer)
    assert quantizer.is_soft
    with torch.no_grad():
        hard = quantizer(WEIGHT)
    assert not torch.equal(quantizer(WEIGHT), hard)
    assert torch.equal(quantizer.eval()(WEIGHT), hard)
    quantizer.train()
    quantizer.freeze()
    assert quantizer.is_frozen
    assert torch.equal(quantizer(WEIGHT), hard)
    assert torch.equal(quantizer.train()(WEIGHT), hard)
    scale = quantizer.get_scale()
    assert scale is not None
    steps = hard / scale
    assert float((steps - steps.round()).abs().max()) < 1e-5


def test_gradients_reach_what_is_learned_alone() -> None:
    quantizer = made()
    weight = torch.nn.Parameter(WEIGHT.clone())
    quantizer(weight).square().sum().backward()
    assert quantizer.alpha is not None
    assert quantizer.alpha.grad is not None
    assert bool((quantizer.alpha.grad != 0).float().mean() > 0.9)
    assert quantizer.min.grad is None
    assert weight.grad is None


def test_the_loss_is_0_only_where_it_is_decided() -> None:
    quantizer = made()
    assert quantizer.alpha is not None
    assert float(quantizer.rounding_loss(2.0).detach()) > 10
    expected = (1 - (2 * rectified_sigmoid(quantizer.alpha.detach()) - 1).abs() ** 3).sum()
    torch.testing.assert_close(quantizer.rounding_loss(3.0).detach(), expected)
    quantizer.alpha.data.sign_().mul_(9)
    assert float(quantizer.rounding_loss(2.0).detach()) == 0.0


def test_zeros_stay_zero() -> None:
    pruned = WEIGHT * (WEIGHT > 0)
    quantizer = AdaRoundQuantizeDequantize(shape=(6, 1), bitwidth=4, symmetric=False)
    with quantizer.compute_encodings():
        quantizer(pruned)
    quantizer.begin_rounding(pruned)
    assert quantizer.alpha is not None
    quantizer.alpha.data.fill_(9.0)
    for _ in ("soft", "hard"):
        assert bool((quantizer(pruned)[pruned == 0] == 0).all())
        quantizer.freeze()


def test_learned_roundings_are_kept_by_copies_and_state_dicts() -> None:
    quantizer = made()
    scramble(quantizer)
    quantizer.freeze()
    fresh = AdaRoundQuantizeDequantize(shape=(6, 1), bitwidth=4, symmetric=True)
    fresh.load_state_dict(quantizer.state_dict())
    for other in (fresh, copy.deepcopy(quantizer), pickle.loads(pickle.dumps(quantizer))):
        assert torch.equal(other(WEIGHT), quantizer(WEIGHT))
        assert not other.is_soft
    never = made(begin=False)
    fresh.load_state_dict(never.state_dict())
    assert torch.equal(fresh(WEIGHT), never(WEIGHT))


def test_calibration_does_not_pull_the_grid_away() -> None:
    quantizer = made()
    before = quantizer.get_scale()
    with quantizer.compute_encodings():
        quantizer(10 * WEIGHT)
    assert torch.equal(quantizer.get_scale(), before)  # pyright: ignore[reportArgumentType]


def test_misuse() -> None:
    quantizer = AdaRoundQuantizeDequantize(shape=(), bitwidth=4, symmetric=True)
    with pytest.raises(NotCalibratedError):
        quantizer.begin_rounding(WEIGHT)
    with pytest.raises(ConfigurationError, match="begin_rounding"):
        quantizer.rounding_loss(2.0)
    with pytest.raises(ShapeError, match=r"\(6, 40\)"):
        made()(WEIGHT[:, :3])


def test_a_grid_without_a_zero_is_refused() -> None:
    quantizer = AdaRoundQuantizeDequantize((), bitwidth=4, symmetric=True, zero_point_shift=0.5)
    quantizer.set_range(-1.0, 1.0)
    with pytest.raises(ConfigurationError, match="zero_point_shift"):
        quantizer.begin_rounding(WEIGHT)
    assert quantizer.alpha is None
