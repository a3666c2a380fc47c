"""Scales, offsets, outputs and gradients equal those recorded from aimet-torch 2.42.0."""

from __future__ import annotations

import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from quantsim.quantization import affine
from quantsim.quantization.analyzers import (
    EncodingAnalyzer,
    MinMaxEncodingAnalyzer,
    MseEncodingAnalyzer,
    PercentileEncodingAnalyzer,
    SqnrEncodingAnalyzer,
)

HERE = Path(__file__).parent
_specification = importlib.util.spec_from_file_location("aimet_cases", HERE / "aimet_cases.py")
cases = importlib.util.module_from_spec(_specification)
sys.modules["aimet_cases"] = cases  # dataclasses look their module up
_specification.loader.exec_module(cases)


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(HERE / "aimet_vectors.npz") as arrays:
        found = dict(arrays)
    start = 0
    for case in cases.range_cases():
        shape, _ = cases.LAYOUTS[case.layout]
        stop = start + math.prod(shape)
        found[f"{case.name}/scale"] = found["scales"][start:stop].reshape(shape)
        found[f"{case.name}/offset"] = found["offsets"][start:stop].reshape(shape)
        start = stop
    assert start == len(found["scales"])
    return found


def make_analyzer(name: str, shape, block_size) -> EncodingAnalyzer:
    if name == "minmax":
        return MinMaxEncodingAnalyzer(shape, block_size)
    if name.startswith("percentile"):
        percentile = float(name.removeprefix("percentile"))
        return PercentileEncodingAnalyzer(shape, percentile=percentile, block_size=block_size)
    return (MseEncodingAnalyzer if name == "mse" else SqnrEncodingAnalyzer)(shape, block_size=block_size)


def ulps_apart(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.view(np.int32).astype(np.int64) - b.view(np.int32).astype(np.int64)).max())


@pytest.mark.parametrize("distribution", cases.DISTRIBUTIONS)
@pytest.mark.parametrize("analyzer", cases.ANALYZERS)
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_scale_and_offset_to_one_ulp(recorded, distribution, analyzer, symmetric):
    checked = 0
    for case in cases.range_cases():
        if (case.distribution, case.analyzer, case.symmetric) != (distribution, analyzer, symmetric):
            continue
        shape, block_size = cases.LAYOUTS[case.layout]
        analyzer_object = make_analyzer(case.analyzer, shape, block_size)
        quantizer = affine.QuantizeDequantize(shape, case.bits, symmetric, analyzer_object, block_size)
        with quantizer.compute_encodings():
            quantizer(torch.tensor(cases.tensor(distribution)))
        scale, offset = quantizer.get_scale().detach().numpy(), quantizer.get_offset().detach().numpy()
        expected = recorded[f"{case.name}/scale"]
        assert scale.shape == shape, case.name
        assert ulps_apart(scale, expected) <= 1, case.name
        assert np.array_equal(offset, recorded[f"{case.name}/offset"]), case.name
        checked += 1
    assert checked == len(cases.LAYOUTS) * len(cases.BITS)


@pytest.mark.parametrize("layout", cases.GRADIENT_LAYOUTS)
@pytest.mark.parametrize("symmetric", [True, False], ids=["symmetric", "asymmetric"])
def test_output_and_gradients(recorded, layout, symmetric):
    shape, block_size = cases.LAYOUTS[layout]
    quantizer = affine.QuantizeDequantize(shape, 4, symmetric, block_size=block_size)
    quantizer.set_range(torch.full(shape, -1.3), torch.full(shape, 1.1))
    check_gradients(recorded, f"gradient-{layout}-{symmetric}", quantizer)


@pytest.mark.parametrize("name", cases.GROUPED)
def test_grouped_blocks(recorded, name):
    quantizer = affine.GroupedBlockQuantizeDequantize(
        (8, 4), 4, True, 8, block_size=(1, 16), block_grouping=cases.GROUPED[name]
    )
    with quantizer.compute_encodings():
        quantizer(torch.tensor(cases.tensor("skewed")))
    check_gradients(recorded, f"grouped-{name}", quantizer)
    assert np.array_equal(quantizer.get_scale().detach().numpy(), recorded[f"grouped-{name}/scale"])
    assert np.array_equal(quantizer.get_per_channel_scale().detach().numpy(), recorded[f"grouped-{name}/per_channel"])


def check_gradients(recorded, name, quantizer):
    x = torch.tensor(cases.tensor("skewed"), requires_grad=True)
    output = quantizer(x)
    output.backward(torch.tensor(cases.upstream_gradient()))
    assert np.array_equal(output.detach().numpy(), recorded[f"{name}/output"])
    assert np.array_equal(x.grad.numpy(), recorded[f"{name}/dx"])
    for actual, key in ((quantizer.min.grad, "dmin"), (quantizer.max.grad, "dmax")):
        expected = recorded[f"{name}/{key}"]
        assert np.allclose(actual.numpy(), expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())
