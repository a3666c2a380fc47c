from __future__ import annotations

import math

import pytest
import torch

from quantsim.experiments.demo.evaluation import LinearProbe, mean_cosine, retrieval_at_1, sqnr_db


def test_sqnr_counts_energy_over_the_whole_tensor() -> None:
    reference = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    quantized = torch.tensor([[3.0, 4.0], [0.0, 0.5]])
    assert sqnr_db(reference, quantized) == pytest.approx(10 * math.log10(25 / 0.25))


def test_sqnr_of_equal_tensors_is_infinite() -> None:
    assert sqnr_db(torch.ones(3), torch.ones(3)) == math.inf


def test_sqnr_does_not_lose_small_noise_to_float32_sums() -> None:
    reference = torch.ones(2_000_000)
    quantized = reference.clone()
    quantized[0] += 2.0**-20
    assert sqnr_db(reference, quantized) == pytest.approx(10 * math.log10(2e6 * 2.0**40), abs=1e-6)


def test_cosine_is_the_mean_over_rows() -> None:
    reference = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert mean_cosine(reference, torch.tensor([[5.0, 0.0], [0.0, 2.0]])) == pytest.approx(0.5)


def test_retrieval_counts_queries_whose_own_passage_is_nearest() -> None:
    passages = torch.eye(4)
    queries = passages[[0, 1, 3, 2]]
    assert retrieval_at_1(queries, passages) == 0.5


@pytest.mark.parametrize("measure", [sqnr_db, mean_cosine, retrieval_at_1])
def test_shapes_must_agree(measure) -> None:
    with pytest.raises(ValueError, match=r"got \(2, 3\) and \(3, 2\)"):
        measure(torch.ones(2, 3), torch.ones(3, 2))


def test_probe_is_fitted_once_and_applied_to_other_embeddings() -> None:
    generator = torch.Generator().manual_seed(0)
    centres = torch.eye(3).repeat_interleave(20, dim=0)
    labels = [label for label in range(3) for _ in range(20)]
    probe = LinearProbe(centres + 0.1 * torch.randn(60, 3, generator=generator), labels)
    assert probe.accuracy(centres + 0.1 * torch.randn(60, 3, generator=generator), labels) == 1.0
    assert probe.accuracy(centres.roll(1, dims=1), labels) == 0.0
