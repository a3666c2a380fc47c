"""quantsim's encoding analyzers against the ranges that aimet-torch 2.42.0 chooses on the same batches (see
record_vectors.py)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from vector_file import VectorFile

from quantsim.quantization import analyzers

FILE = VectorFile.load(Path(__file__).parent / "vectors" / "analyzers.npz")
ONE_BATCH = [name for name, case in FILE.cases.items() if len(case["batches"]) == 1]
TWO_BATCHES = [name for name, case in FILE.cases.items() if len(case["batches"]) == 2]


def chosen_range(case: dict[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """The range that quantsim's analyzer chooses."""
    arguments = dict(case["arguments"])
    if case["block_size"] is not None:
        arguments["block_size"] = tuple(case["block_size"])
    analyzer = getattr(analyzers, case["analyzer"])(tuple(case["shape"]), **arguments)
    for batch in case["batches"]:
        analyzer.update_stats(torch.from_numpy(FILE.arrays[f"inputs/{batch}"]))
    minimum, maximum = analyzer.compute_encodings(case["steps"], case["symmetric"])
    return minimum.numpy(), maximum.numpy()


def test_the_vectors_cover_what_was_agreed() -> None:
    cases = list(FILE.cases.values())
    assert {case["analyzer"] for case in cases} == {
        "MinMaxEncodingAnalyzer",
        "PercentileEncodingAnalyzer",
        "SqnrEncodingAnalyzer",
    }
    assert {99.9, 100} <= {case["arguments"].get("percentile") for case in cases}
    assert {3, 14, 15, 255, 65535} == {case["steps"] for case in cases}
    assert {(), (1,), (8, 1), (128,), (8, 4)} == {tuple(case["shape"]) for case in cases}


@pytest.mark.parametrize("name", ONE_BATCH)
def test_one_batch_gives_the_oracles_range(name: str) -> None:
    case = FILE.cases[name]
    for ours, theirs in zip(chosen_range(case), (FILE.arrays[f"{name}/min"], FILE.arrays[f"{name}/max"]), strict=True):
        assert ours.shape == theirs.shape
        different = np.abs(ours - theirs) > np.spacing(np.abs(theirs))
        assert not different.any(), (
            f"{int(different.sum())} of {ours.size} differ: {ours[different][:4]} for {theirs[different][:4]}"
        )


@pytest.mark.parametrize("name", TWO_BATCHES)
def test_two_batches_give_the_oracles_range(name: str) -> None:
    """The second batch may be refolded into the histogram otherwise than the oracle does: the same range to a few
    bins."""
    case = FILE.cases[name]
    batches = [FILE.arrays[f"inputs/{batch}"] for batch in case["batches"]]
    bins = case["arguments"].get("num_bins", 2048)
    width = (max(batch.max() for batch in batches) - min(batch.min() for batch in batches)) / bins
    tolerance = 0.0 if case["analyzer"] == "MinMaxEncodingAnalyzer" else 4 * width
    for ours, theirs in zip(chosen_range(case), (FILE.arrays[f"{name}/min"], FILE.arrays[f"{name}/max"]), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2e-7, atol=float(tolerance))
