"""quantsim's affine quantizers against vectors recorded from aimet-torch 2.42.0 (see record_vectors.py).

Scale and offset to one ulp (after calibration on the same tensor), outputs and input gradients bit for bit, gradients
of the range to 1e-6.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from vector_file import VectorFile

from quantsim.quantization import affine
from quantsim.quantization.affine import GroupedBlockQuantizeDequantize, QuantizeDequantize

FILE = VectorFile.load(Path(__file__).parent / "vectors" / "affine.npz")
CASES = list(FILE.cases)
CALIBRATED = [name for name, case in FILE.cases.items() if case["shrink"] == 1.0]
GRIDS = sorted(
    {tuple(name.split("/")[1:4]) for name in FILE.arrays if name.startswith("ranges/") and name.count("/") == 4}
)


def ulps(actual: torch.Tensor, expected: np.ndarray) -> float:
    """The largest difference in units of the expected value's last place."""
    values = actual.detach().numpy()
    assert values.shape == expected.shape
    return float(np.max(np.abs(values - expected) / np.spacing(np.abs(expected)), initial=0.0))


def make_quantizer(case: dict[str, Any]) -> QuantizeDequantize | affine.Quantize:
    """quantsim's quantizer for recorded settings, with the arguments in the oracle's order."""
    shape = tuple(case["shape"])
    block_size = None if case["block_size"] is None else tuple(case["block_size"])
    if case["quantizer"] == "GroupedBlockQuantizeDequantize":
        bits = (case["qmax"] - case["qmin"]).bit_length()
        return GroupedBlockQuantizeDequantize(
            shape,
            bits,
            case["symmetric"],
            case["decompressed_bits"],
            block_size=block_size,
            block_grouping=tuple(case["block_grouping"]),
        )
    return getattr(affine, case["quantizer"])(
        shape,
        case["qmin"],
        case["qmax"],
        case["symmetric"],
        block_size=block_size,
        zero_point_shift=case["zero_point_shift"],
    )


def values_of(case: dict[str, Any]) -> torch.Tensor:
    return torch.from_numpy(FILE.arrays[f"inputs/{case['values']}"]).to(getattr(torch, case["dtype"]))


def range_gradient_tolerance(dtype: torch.dtype, steps: int) -> float:
    """1e-6; where a 16-bit type holds the grid (bfloat16 to 4 bit, float16 to 8 bit) the oracle also adds the gradient
    up in that type, which quantsim does in float32."""
    held = {torch.bfloat16: 15, torch.float16: 255}
    return 2 * torch.finfo(dtype).eps if steps <= held.get(dtype, 0) else 1e-6


def test_the_vectors_cover_what_was_agreed() -> None:
    cases = list(FILE.cases.values())
    assert {"Quantize", "QuantizeDequantize", "GroupedBlockQuantizeDequantize"} == {case["quantizer"] for case in cases}
    assert {3, 15, 255, 65535} <= {case["qmax"] - case["qmin"] for case in cases}
    assert {2, 14, 254, 65534} <= {case["qmax"] - case["qmin"] for case in cases}
    assert {"float32", "bfloat16", "float16"} == {case["dtype"] for case in cases}
    assert {(), (16, 1), (16, 2), (16, 4)} <= {tuple(case["shape"]) for case in cases}
    assert {True, False} == {case["symmetric"] for case in cases}


@pytest.mark.parametrize("name", CALIBRATED)
def test_calibration_gives_the_oracles_scale_and_offset(name: str) -> None:
    case = FILE.cases[name]
    quantizer = make_quantizer(case)
    with quantizer.compute_encodings():
        quantizer(values_of(case))
    # The oracle rounds the range it observed to the tensor's type; quantsim keeps float32, so that it agrees to that
    # type's last place.
    allowed = torch.finfo(getattr(torch, case["dtype"])).eps / torch.finfo(torch.float32).eps
    assert ulps(quantizer.get_scale(), FILE.arrays[f"{name}/scale"]) <= allowed
    assert ulps(quantizer.get_offset(), FILE.arrays[f"{name}/offset"]) == 0
    assert ulps(quantizer.min, FILE.arrays[f"{name}/min"]) <= allowed
    assert ulps(quantizer.max, FILE.arrays[f"{name}/max"]) <= allowed


@pytest.mark.parametrize("name", CASES)
def test_outputs_are_bit_equal(name: str) -> None:
    case = FILE.cases[name]
    quantizer = make_quantizer(case)
    quantizer.set_range(torch.from_numpy(FILE.arrays[f"{name}/min"]), torch.from_numpy(FILE.arrays[f"{name}/max"]))
    assert ulps(quantizer.get_scale(), FILE.arrays[f"{name}/scale"]) <= 1
    assert ulps(quantizer.get_offset(), FILE.arrays[f"{name}/offset"]) <= 1
    x = values_of(case)
    expected = torch.from_numpy(FILE.arrays[f"{name}/output"])
    with torch.no_grad():
        without_gradient = quantizer(x)
    with_gradient = quantizer(x.clone().requires_grad_()).detach()
    for output in (without_gradient, with_gradient):
        assert output.shape == x.shape
        different = (output.float() != expected).nonzero()
        assert len(different) == 0, f"{len(different)} of {x.numel()} differ, first at {different[0].tolist()}"
    if case["quantizer"] != "Quantize":
        assert without_gradient.dtype == x.dtype


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_oracle(name: str) -> None:
    case = FILE.cases[name]
    quantizer = make_quantizer(case)
    quantizer.set_range(torch.from_numpy(FILE.arrays[f"{name}/min"]), torch.from_numpy(FILE.arrays[f"{name}/max"]))
    x = values_of(case).requires_grad_()
    gradient = torch.from_numpy(FILE.arrays["inputs/gradient"]).to(x.dtype)
    quantizer(x).backward(gradient)

    assert x.grad is not None
    passed = torch.from_numpy(np.unpackbits(FILE.arrays[f"{name}/passed"]).astype(bool)).view_as(x)
    if case["quantizer"] == "Quantize":
        assert torch.equal(x.grad.float(), torch.from_numpy(FILE.arrays[f"{name}/input_gradient"]))
    else:
        assert torch.equal(x.grad, torch.where(passed, gradient, torch.zeros_like(gradient)))
    # Sums of up to 1024 terms of both signs, and for `min` the difference of two such sums that may nearly cancel:
    # there the oracle itself is 6e-6 from the exact value. So the tolerance is relative to the largest of the range's
    # gradients.
    theirs = {bound: torch.from_numpy(FILE.arrays[f"{name}/{bound}_gradient"]) for bound in ("min", "max")}
    tolerance = range_gradient_tolerance(x.dtype, case["qmax"] - case["qmin"])
    largest = max(float(expected.abs().max()) for expected in theirs.values())
    for bound, expected in theirs.items():
        ours = getattr(quantizer, bound).grad
        assert ours is not None
        assert ours.shape == expected.shape
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance * largest)


@pytest.mark.parametrize("grid", GRIDS, ids="/".join)
def test_scale_and_offset_of_given_ranges(grid: tuple[str, str, str]) -> None:
    qmin, qmax, symmetric = int(grid[0]), int(grid[1]), grid[2] == "True"
    key = "ranges/" + "/".join(grid)
    quantizer = QuantizeDequantize((64,), qmin, qmax, symmetric)
    quantizer.set_range(torch.from_numpy(FILE.arrays["ranges/min"]), torch.from_numpy(FILE.arrays["ranges/max"]))
    assert ulps(quantizer.get_scale(), FILE.arrays[f"{key}/scale"]) <= 1
    assert ulps(quantizer.get_offset(), FILE.arrays[f"{key}/offset"]) <= 1
    assert ulps(quantizer.get_min(), FILE.arrays[f"{key}/min"]) <= 1
    assert ulps(quantizer.get_max(), FILE.arrays[f"{key}/max"]) <= 1
