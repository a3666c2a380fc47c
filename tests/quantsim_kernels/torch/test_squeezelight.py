"""Pieces of the fast SqueezeLight kernel; its numbers are tested with those of all backends."""

from __future__ import annotations

import pytest
import torch

from quantsim_kernels.torch import squeezelight as fast


@pytest.mark.parametrize("piece", [1, 30, 10_000])
def test_pieces_do_not_change_the_noise_or_the_result(piece: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(9, 10, generator=generator, dtype=torch.float64)
    weight = torch.rand(2, 3, 4, generator=generator, dtype=torch.float64)
    scale = torch.randn(2, generator=generator, dtype=torch.float64)
    arguments = {"out_features": 7, "phase_noise": 0.1, "seed": torch.tensor(3)}
    whole = fast.squeezelight_linear(x, weight, scale, **arguments)
    monkeypatch.setattr(fast, "CPU_PIECE", piece)
    torch.testing.assert_close(fast.squeezelight_linear(x, weight, scale, **arguments), whole, rtol=1e-12, atol=0)


def test_objects_to_tensors_without_data() -> None:
    assert fast.objection(torch.zeros(2, 4), torch.zeros(1, 1, 4)) is None
    assert "meta" in str(fast.objection(torch.zeros(2, 4, device="meta"), torch.zeros(1, 1, 4)))
