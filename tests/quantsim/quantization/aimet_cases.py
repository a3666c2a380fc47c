"""The cases on which quantsim must give the numbers of aimet-torch 2.42.0, and the data they run on.

Imported by the test and by ``record_aimet_vectors.py``, which runs in an environment with AIMET and without quantsim,
so it needs numpy alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

LAYOUTS = {
    "tensor": ((), None),
    "tensor1": ((1,), None),
    "rows": ((8, 1), None),
    "columns": ((1, 64), None),
    "block": ((8, 2), (1, 32)),
    "tiles": ((4, 2), (2, -1)),
}
DISTRIBUTIONS = ("normal", "skewed", "positive", "relu")
ANALYZERS = ("minmax", "percentile100", "percentile99", "sqnr", "mse")
BITS = (2, 4, 8, 16)


@dataclass(frozen=True)
class RangeCase:
    distribution: str
    layout: str
    bits: int
    symmetric: bool
    analyzer: str

    @property
    def name(self) -> str:
        kind = "symmetric" if self.symmetric else "asymmetric"
        return f"{self.analyzer}-{self.distribution}-{self.layout}-{self.bits}-{kind}"


def range_cases() -> Iterator[RangeCase]:
    for distribution in DISTRIBUTIONS:
        for layout in LAYOUTS:
            for bits in BITS:
                for symmetric in (True, False):
                    for analyzer in ANALYZERS:
                        yield RangeCase(distribution, layout, bits, symmetric, analyzer)


GRADIENT_LAYOUTS = ("tensor", "rows", "block")
GROUPED = {"one": (1, 1), "all": (1, -1), "pairs": (1, 2)}
"""Block groupings of the LPBQ cases: blocks of (1, 16) on an (8, 64) tensor, 4 bits decompressed to 8."""


def uniform(count: int, seed: int) -> np.ndarray:
    """Uniform numbers from a linear congruential generator: the same on every machine and numpy version."""
    values = np.empty(count)
    state = seed
    for index in range(count):
        state = (6364136223846793005 * state + 1442695040888963407) % 2**64
        values[index] = (state >> 11) / 2.0**53
    return values


def tensor(distribution: str, seed: int = 1) -> np.ndarray:
    """An (8, 64) float32 array."""
    normal = uniform(8 * 64 * 12, seed).reshape(8, 64, 12).sum(2) - 6
    made = {
        "normal": normal,
        "skewed": normal * normal * normal * 0.3 + 0.7,
        "positive": np.abs(normal) + 0.5,
        "relu": np.maximum(normal, 0) * 4,
    }
    return made[distribution].astype(np.float32)


def upstream_gradient() -> np.ndarray:
    return (uniform(8 * 64, 7).reshape(8, 64) - 0.5).astype(np.float32)
