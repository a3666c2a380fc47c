"""The fast quantizer against the definition, bit for bit, across the pieces it works in."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quantsim_encodings.formats import OpticalNoise
from quantsim_kernels.reference import optical as reference
from quantsim_kernels.torch import optical as fast


@pytest.mark.parametrize("noise", [OpticalNoise.NONE, OpticalNoise.DITHER])
@pytest.mark.parametrize("count", [1, fast.PIECE - 1, fast.PIECE, fast.PIECE + 1, 2 * fast.PIECE + 12_345])
def test_pieces_have_the_noise_of_the_whole(count: int, noise: OpticalNoise, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast, "piece_elements", lambda: fast.PIECE)
    x = torch.linspace(-2.0, 2.0, count)
    ends, seed = torch.tensor([-1.5, 1.25]), torch.tensor(-(2**40) + 3)
    y = fast.quantize(x, ends, 256, lut=0.02, noise=noise, seed=seed)
    assert torch.equal(y, reference.quantize(x, ends, 256, lut=0.02, noise=noise, seed=seed))


@settings(max_examples=60, deadline=None)
@given(
    ends=st.tuples(*[st.floats(-(2.0**100), 2.0**100, width=32)] * 2),
    levels=st.integers(2, 2**24),
    lut=st.none() | st.floats(0, 1, exclude_max=True),
    seed=st.integers(-(2**63), 2**63 - 1),
    dithered=st.booleans(),
)
def test_every_range_gives_the_bits_of_the_definition(
    ends: tuple[float, float], levels: int, lut: float | None, seed: int, dithered: bool
) -> None:
    range = torch.tensor(ends)
    x = torch.cat([torch.linspace(float(min(ends)) * 1.1, float(max(ends)) * 1.1, 500), torch.tensor([0.0, math.nan])])
    noise = OpticalNoise.DITHER if dithered else OpticalNoise.NONE
    arguments = {"lut": lut, "noise": noise, "seed": torch.tensor(seed)}
    y = fast.quantize(x, range, levels, **arguments)  # type: ignore[arg-type]
    assert torch.allclose(
        y,
        reference.quantize(x, range, levels, **arguments),
        rtol=0,
        atol=0,
        equal_nan=True,  # type: ignore[arg-type]
    )


def test_inputs_are_not_changed() -> None:
    x = torch.linspace(-2, 2, 1000)
    before = x.clone()
    fast.quantize(x, torch.tensor([-1.0, 1.0]), 16, lut=0.1)
    assert torch.equal(x, before)


def test_objections() -> None:
    x = torch.ones(2)
    assert fast.objection(x, None, 3) is None
    assert fast.objection(torch.nn.Parameter(x)) is None
    assert "meta" in str(fast.objection(x, x.to("meta")))


@pytest.mark.parametrize("lut", [None, 0.3])
def test_dense_tensors_keep_their_order_in_memory(lut: float | None) -> None:
    x = torch.randn(3, 4, 5, generator=torch.Generator().manual_seed(0)).permute(2, 0, 1)
    ends = torch.tensor([-1.0, 1.5])
    y = fast.quantize(x, ends, 16, lut=lut)
    assert y.stride() == x.stride() and not y._is_view()
    assert torch.equal(y, reference.quantize(x, ends, 16, lut=lut))
    gaps = torch.randn(6, 8)[:, ::2]
    assert torch.equal(fast.quantize(gaps, ends, 16, lut=lut), reference.quantize(gaps, ends, 16, lut=lut))


def test_noise_follows_the_elements_number_not_memory() -> None:
    x, ends, seed = torch.rand(40, 30).t(), torch.tensor([-1.0, 1.5]), torch.tensor(3)
    y = fast.quantize(x, ends, 16, noise=OpticalNoise.DITHER, seed=seed)
    assert torch.equal(y, reference.quantize(x, ends, 16, noise=OpticalNoise.DITHER, seed=seed))


@pytest.mark.parametrize("lut", [None, 0.3])
def test_parts_with_ranges_of_their_own(lut: float | None) -> None:
    x = torch.randn(3, 4, 7)
    lo = torch.randn(4, 1) - 1.0
    ends = torch.stack([lo, lo + torch.tensor([[0.0], [1.0], [2.0], [3.0]])])
    before = x.clone()
    y = fast.quantize(x, ends, 16, lut=lut)
    assert torch.equal(y, reference.quantize(x, ends, 16, lut=lut)) and torch.equal(x, before)


def test_only_owned_tensors_are_overwritten() -> None:
    x = torch.linspace(-2, 2, 1000)
    ends = torch.tensor([-1.0, 1.0])
    expected = fast.quantize(x, ends, 16)
    assert fast.quantize(x, ends, 16, owned=True) is x
    assert torch.equal(x, expected)


def test_kept_weights_are_used_and_made() -> None:
    x, weight, unit = torch.rand(3, 8), torch.rand(4, 8), torch.tensor([0.0, 1.0])
    kept: dict[str, Any] = {}
    first, _ = fast.linear(x, weight, None, unit, unit, None, levels=16, weight_codes=kept)
    assert list(kept) == ["torch"]
    again, _ = fast.linear(x, torch.full_like(weight, 9.0), None, unit, unit, None, levels=16, weight_codes=kept)
    assert torch.equal(first, again), "the kept ones, whatever the weight is"
    expected, _ = reference.linear(x, weight, None, unit, unit, None, levels=16, weight_codes={})
    torch.testing.assert_close(first, expected)


@pytest.mark.parametrize("threads", [1, 2])
def test_pieces_grow_with_threads(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    assert fast.piece_elements() == (fast.PIECE if threads == 1 else 4 * fast.PIECE)
