from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from quantsim.errors import ConfigurationError
from quantsim.quantization.methods.weight_statistics import (
    SAWB_COEFFICIENTS,
    SAWBEncodingAnalyzer,
    SAWBQuantizeDequantize,
)


def six_distributions() -> list[np.ndarray]:
    """Evenly spaced quantiles of the distributions that the coefficients are fitted to."""
    x = np.linspace(-20, 20, 400001)
    densities = (
        np.abs(x) <= 1,
        np.exp(-x * x / 2),
        np.exp(-np.abs(x)),
        np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x))) ** 2,
        np.clip(1 - np.abs(x), 0, None),
        np.exp(np.cos(x)) * (np.abs(x) <= np.pi),
    )
    quantiles = (np.arange(4000) + 0.5) / 4000
    cumulative = [np.cumsum(density) / np.sum(density) for density in densities]
    return [np.interp(quantiles, each, x) for each in cumulative]


def best_clip(w: np.ndarray, qmax: int) -> float:
    low, high = 0.02 * np.abs(w).max(), 1.05 * np.abs(w).max()
    best = low
    for _ in range(3):
        clips = np.linspace(low, high, 81)
        step = (clips / qmax)[:, None]
        errors = ((np.clip(np.rint(w / step), -qmax, qmax) * step - w) ** 2).sum(1)
        best = float(clips[np.argmin(errors)])
        width = 2 * (clips[1] - clips[0])
        low, high = max(best - width, 1e-6), best + width
    return best


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_the_coefficients_are_the_fit_that_they_claim_to_be(bits: int) -> None:
    weights = six_distributions()
    means = np.array([np.abs(w).mean() for w in weights])
    ratios = np.array([np.sqrt((w**2).mean()) for w in weights]) / means
    clips = np.array([best_clip(w, 2 ** (bits - 1) - 1) for w in weights]) / means
    fitted = np.linalg.lstsq(np.stack([ratios, -np.ones(6)], 1), clips, rcond=None)[0]
    np.testing.assert_allclose(fitted, SAWB_COEFFICIENTS[bits], rtol=0.01)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_normal_weights_are_clipped_nearly_best(bits: int) -> None:
    weight = torch.randn(4, 20000, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        [[1.0], [2.0], [0.1], [9.0]]
    )
    quantizer: Any = SAWBQuantizeDequantize(shape=(4, 1), bitwidth=bits, symmetric=True)
    with quantizer.compute_encodings():
        quantizer(weight)
    qmax = 2 ** (bits - 1) - 1
    for row, scale, error in zip(
        weight, quantizer.get_scale(), (quantizer(weight) - weight).square().mean(1).tolist(), strict=True
    ):
        best = best_clip(row.double().numpy()[:4000], qmax)
        assert float(scale) * qmax == pytest.approx(best, rel=0.15)
        assert error < 1.1 * float(
            (((row / (best / qmax)).round().clamp(-qmax, qmax) * (best / qmax)) - row).square().mean()
        )


def test_the_range_follows_training_and_nothing_else() -> None:
    quantizer = SAWBQuantizeDequantize(shape=(), bitwidth=4, symmetric=True)
    weight = torch.nn.Parameter(torch.randn(1000, generator=torch.Generator().manual_seed(0)))
    with quantizer.compute_encodings():
        quantizer(weight)
    first = quantizer.get_scale()
    assert first is not None
    doubled = (2 * weight.detach()).requires_grad_()
    quantizer(doubled)
    torch.testing.assert_close(quantizer.get_scale(), 2 * first)
    with torch.no_grad():
        quantizer(weight)
    quantizer.eval()(weight)
    torch.testing.assert_close(quantizer.get_scale(), 2 * first)
    quantizer.train()
    quantizer.freeze()
    quantizer(weight)
    torch.testing.assert_close(quantizer.get_scale(), 2 * first)
    assert not any(values.requires_grad for values in quantizer.parameters())


def test_analyzers_merge() -> None:
    weight = torch.randn(2, 1000, generator=torch.Generator().manual_seed(0))
    whole, first, second = (SAWBEncodingAnalyzer((2, 1)) for _ in range(3))
    whole.update_stats(weight)
    first.update_stats(weight[:, :300])
    second.update_stats(weight[:, 300:])
    first.merge(second)
    torch.testing.assert_close(first.compute_encodings(15, True), whole.compute_encodings(15, True))


def test_zero_weights_and_asymmetric_grids() -> None:
    quantizer = SAWBQuantizeDequantize(shape=(), bitwidth=4, symmetric=True)
    with quantizer.compute_encodings():
        quantizer(torch.zeros(10))
    assert float(quantizer(torch.zeros(3)).abs().sum()) == 0.0
    with pytest.raises(ConfigurationError, match="symmetric"):
        SAWBQuantizeDequantize(shape=(), bitwidth=4, symmetric=False)
    with pytest.raises(ConfigurationError, match="2 to 8"):
        SAWBQuantizeDequantize(shape=(), bitwidth=12, symmetric=True)


def test_an_empty_tensor_moves_nothing() -> None:
    quantizer = SAWBQuantizeDequantize(shape=(), bitwidth=4, symmetric=True)
    with quantizer.compute_encodings():
        quantizer(torch.linspace(-1, 1, 101))
    before = float(quantizer.max.detach())
    assert quantizer(torch.zeros(0, requires_grad=True)).shape == (0,)
    assert float(quantizer.max.detach()) == before
