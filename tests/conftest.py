"""What holds for every test: few threads, no network, repeatable random numbers."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import settings

# Read by OpenMP when torch is first imported, which is later than this file: two test workers share two cores.
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("MPLBACKEND", "agg")
# gloo looks up the host's name otherwise, which a machine without a network cannot answer.
os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")

# The same examples in every run: a failure in CI is the failure at home. Deadlines measure the machine, not the code.
settings.register_profile("deterministic", derandomize=True, deadline=None, database=None, print_blob=True)
settings.load_profile("deterministic")


@pytest.fixture(autouse=True)
def _same_random_numbers() -> None:
    """A test that draws without a generator of its own draws the same numbers, whatever ran before it."""
    torch = sys.modules.get("torch")
    if torch is not None:
        torch.manual_seed(0)
    numpy = sys.modules.get("numpy")
    if numpy is not None:
        numpy.random.seed(0)
