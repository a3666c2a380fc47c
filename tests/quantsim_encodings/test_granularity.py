from __future__ import annotations

import pytest

from quantsim_encodings import Flattened, PerBlock, PerBlocks, PerChannel, PerTensor, PerToken


def test_granularities_are_values() -> None:
    assert PerChannel(0) == PerChannel(0) != PerChannel(1)
    assert PerTensor() != PerToken()
    assert len({PerTensor(), PerTensor(), PerBlock(1, 32), PerBlock(1, 32)}) == 2
    assert PerBlocks([1, 32]).block_size == (1, 32)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "build",
    [
        lambda: PerChannel("0"),  # type: ignore[arg-type]
        lambda: PerChannel(True),
        lambda: PerChannel(2**40),
        lambda: PerBlock(0, 0),
        lambda: PerBlock(0, -2),
        lambda: PerBlock(0.5, 2),  # type: ignore[arg-type]
        lambda: PerBlocks((1, 0)),
        lambda: PerBlocks((1, "2")),  # type: ignore[arg-type]
        lambda: Flattened(block_size=0),
        lambda: Flattened(block_size=4, per_channel=True),
    ],
)
def test_impossible_granularities_are_refused(build) -> None:
    with pytest.raises(ValueError, match="got"):
        build()
