"""The stream of seeds: apart from torch's, repeatable, and alive in compiled code."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch

from quantsim_kernels import float_cast, manual_seed, next_seed, rounding_noise
from quantsim_kernels.random_seeds import seed_tensor
from quantsim_kernels.reference.noise import element_noise


def test_stream_starts_again() -> None:
    manual_seed(7)
    first = [int(next_seed()) for _ in range(5)]
    manual_seed(7)
    assert [int(next_seed()) for _ in range(5)] == first
    assert len(set(first)) == 5
    manual_seed(8)
    assert int(next_seed()) not in first


def test_torchs_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    manual_seed(3)
    x = torch.full((100,), 2.6)
    first, second = float_cast(x, "e2m1", "stochastic"), float_cast(x, "e2m1", "stochastic")
    assert not torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    manual_seed(3)
    assert torch.equal(float_cast(x, "e2m1", "stochastic"), first)


def test_seeds_given_as_anything_are_the_same() -> None:
    x = torch.full((50,), 2.6)
    expected = float_cast(x, "e2m1", "stochastic", seed=5)
    for seed in (torch.tensor(5), torch.tensor([5], dtype=torch.int32), 5 + 2**64):
        assert torch.equal(float_cast(x, "e2m1", "stochastic", seed=seed), expected)
    assert torch.equal(rounding_noise((50,), 5), element_noise((50,), 5))
    assert torch.equal(rounding_noise((50,), torch.tensor(5)), element_noise((50,), 5))


@pytest.mark.parametrize("seed", [1.5, "1", True, torch.ones(2, dtype=torch.int64), torch.tensor(1.0)])
def test_seeds_that_are_none(seed: Any) -> None:
    with pytest.raises(TypeError, match=r"expected (an integer|a 0-d int64)"):
        float_cast(torch.ones(2), "e2m1", "stochastic", seed=seed)
    with pytest.raises(TypeError, match="expected an integer"):
        manual_seed(seed)


def test_seeds_beyond_64_bits_wrap_around() -> None:
    assert int(seed_tensor(-1, "cpu")) == -1
    assert int(seed_tensor(2**64 - 1, "cpu")) == -1


def test_compiled_code_takes_the_next_seed_each_time() -> None:
    def cast(x: torch.Tensor) -> torch.Tensor:
        return float_cast(x, "e2m1", "stochastic")

    x = torch.full((200,), 2.6)
    manual_seed(11)
    expected = [cast(x) for _ in range(3)]
    torch.compiler.reset()
    compiled = torch.compile(cast, fullgraph=True, backend="aot_eager")
    for _ in range(2):
        # The graph must obey a restart that comes after its compilation.
        manual_seed(11)
        assert all(torch.equal(compiled(x), wanted) for wanted in expected)


def test_exported_programs_draw_anew() -> None:
    class Cast(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return float_cast(x, "e2m1", "stochastic")

    x = torch.full((200,), 2.6)
    program = torch.export.export(Cast(), (x,), strict=True).module()
    assert not torch.equal(program(x), program(x))


def test_inference_mode_leaves_a_usable_counter() -> None:
    from quantsim_kernels import random_seeds

    random_seeds._counters.clear()
    with torch.inference_mode():
        first = int(next_seed())
    assert int(next_seed()) != first


def test_threads_draw_different_seeds() -> None:
    drawn: list[int] = []
    threads = [threading.Thread(target=lambda: drawn.extend(int(next_seed()) for _ in range(200))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(drawn)) == 800


def test_meta_tensors_have_seeds() -> None:
    assert next_seed("meta").is_meta
    assert float_cast(torch.ones(3, device="meta"), "e2m1", "stochastic").is_meta
