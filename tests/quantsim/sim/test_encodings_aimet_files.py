"""Real files of aimet-torch quantize as the definition says, whatever their version.

Whether aimet-torch computes the same is the business of tests/interop.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from quantsim.quantization.base import QuantizerBase
from quantsim.sim import QuantizationSimModel
from quantsim_encodings import AffineEncoding, EncodingsError, read
from quantsim_encodings.encoding import FloatEncoding

DATA = Path(__file__).parents[2] / "quantsim_encodings" / "data"


class Small(nn.Module):
    """Fits the files m_*: their weights have these shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.pc, self.relu, self.bq = nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2, bias=False)
        self.up, self.lpbq = nn.Linear(2, 4, bias=False), nn.Linear(4, 2, bias=False)
        self.fp = nn.Linear(2, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.fp(self.lpbq(self.up(self.bq(self.relu(self.pc(x))))))


class Wide(nn.Module):
    """Fits the files wide_* and shift_*."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.lin, self.gemm = nn.Conv2d(8, 6, 1), nn.Linear(6, 10, bias=False), nn.Linear(10, 4)
        self.f8, self.f8c = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
        self.tc = nn.ConvTranspose1d(4, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.gemm(self.lin(self.conv(x).flatten(2).transpose(1, 2)))
        return self.tc(self.f8c(self.f8(tokens)).transpose(1, 2))


FILES = {
    **{f"m_{version}.encodings": "m" for version in ("0.6.1", "1.0.0", "2.0.0", "2.1.0")},
    "torch_side.json": "m",
    **{f"wide_{version}.encodings": "wide" for version in ("0.6.1", "1.0.0", "2.0.0", "2.1.0")},
    "wide_torch_side.json": "wide",
    "shift_1.0.0.encodings": "shift",
    "shift_2.0.0.encodings": "shift",
    "shift_torch_side.json": "shift",
}
GRAPH_ONLY = {"/Squeeze_output_0", "/Unsqueeze_1_output_0", "/Transpose_output_0"}
"""Tensors of the exporter's own, that no module gives."""


def bare(family: str) -> QuantizationSimModel:
    torch.manual_seed(7)
    model, x = (Small(), torch.randn(3, 4)) if family == "m" else (Wide(), torch.randn(2, 8, 3, 3))
    return QuantizationSimModel(model.eval(), x, config=None)


def loaded(name: str) -> QuantizationSimModel:
    sim = bare(FILES[name])
    report = sim.load_encodings(DATA / name, strict=False, input_names=["in"], output_names=["out"])
    assert {text.split(":")[0] for text in report.ignored} <= GRAPH_ONLY
    assert set(report.loaded) == set(report.created)
    return sim


def round_trip(values: Tensor, encoding: AffineEncoding) -> np.ndarray:
    """Quantization by the definition, in float32, with one scale a block; blocks are the file's."""
    array = values.numpy()
    scale, offset = (np.asarray(part, np.float32) for part in (encoding.scale, encoding.offset))
    if encoding.block_size is not None or scale.ndim == array.ndim:
        for axis in range(array.ndim):
            repeats = array.shape[axis] // scale.shape[axis]
            scale, offset = np.repeat(scale, repeats, axis), np.repeat(offset, repeats, axis)
    shift = np.float32(encoding.zero_point_shift)
    codes = np.clip(np.rint(array / scale - shift) - offset, encoding.format.qmin, encoding.format.qmax)
    return ((codes + offset + shift) * scale).astype(np.float32)


def expected_of(entry: Any, values: Tensor, is_transposed: bool) -> Iterator[np.ndarray]:
    """What the quantizer must give; nothing for encodings whose layout the file does not say."""
    encoding = entry.encoding
    if not isinstance(encoding, AffineEncoding) or type(encoding.granularity).__name__ == "Flattened":
        return
    oriented = values.T if is_transposed else values
    if encoding.scale.ndim == 1 and encoding.scale.size > 1:
        axis = encoding.granularity.axis % oriented.dim()
        shape = [-1 if index == axis else 1 for index in range(oriented.dim())]
        encoding = replace(encoding, scale=encoding.scale.reshape(shape), offset=encoding.offset.reshape(shape))
    result = round_trip(oriented.contiguous(), encoding)
    yield result.T if is_transposed else result


@pytest.mark.parametrize("name", FILES)
def test_a_real_file_quantizes_as_the_definition_says(name: str) -> None:
    sim = loaded(name)
    quantizers = dict(sim.quantizers())
    checked = 0
    for entry in read(DATA / name):
        label = entry.label
        if label in GRAPH_ONLY:
            continue
        if ".weight" in label or ".bias" in label:
            path, key = label.rsplit(".", 1)
            is_transposed = key.endswith("_0")
            key = key.removesuffix("_0")
            values = sim.module(path)._own_parameter(key)
            assert values is not None
            values = values.detach() * 3
            for expected in expected_of(entry, values, is_transposed):
                with torch.no_grad():
                    actual = quantizers[f"{path}.param_quantizers['{key}']"](values)
                np.testing.assert_array_equal(actual.numpy(), expected, err_msg=label)
                checked += 1
        elif isinstance(entry.encoding, AffineEncoding):
            place = _activation_place(entry, FILES[name])
            values = torch.randn(50, generator=torch.Generator().manual_seed(checked))
            (expected,) = expected_of(entry, values, False)
            with torch.no_grad():
                actual = quantizers[place](values)
            np.testing.assert_array_equal(actual.numpy(), expected, err_msg=label)
            checked += 1
    assert checked >= 6


def _activation_place(entry: Any, family: str) -> str:
    if entry.tensor is not None:
        return f"{entry.tensor.module}.{entry.tensor.role}_quantizers[{entry.tensor.key}]"
    if entry.name == "in":
        return "pc.input_quantizers[0]" if family == "m" else "conv.input_quantizers[0]"
    if entry.name == "out":
        return "tc.output_quantizers[0]"
    return f"{entry.name.split('/')[1]}.output_quantizers[0]"


@pytest.mark.parametrize("family", ["m", "wide", "shift"])
def test_files_of_one_simulation_give_the_same_quantizers(family: str) -> None:
    """LPBQ included, although two of the versions store only the products of its scales; these then belong to plain
    blocks, whose scale is derived from a range of float32 numbers: to one unit in the last place."""
    names = [name for name, of in FILES.items() if of == family]
    reference = dict(loaded(f"{family}_2.0.0.encodings").quantizers())
    compared = 0
    for name in names:
        for place, quantizer in loaded(name).quantizers():
            other: QuantizerBase | None = reference.get(place)
            # Only 2.x holds float8, for which the older files have integers, so that what comes after differs too;
            # only the torch side has float16.
            if other is None or isinstance(other.get_encodings(), FloatEncoding):
                continue
            if family == "wide" and "output" in place and place.split(".")[0] in ("f8", "f8c", "tc"):
                continue
            if "param" in place:
                path, key = place.split(".param_quantizers")[0], place.split("'")[1]
                values = bare(family).module(path)._own_parameter(key)
                assert values is not None
            else:
                values = torch.randn(64)
            with torch.no_grad():
                actual, expected = quantizer(values.detach() * 3), other(values.detach() * 3)
            if type(quantizer) is type(other):
                assert torch.equal(actual, expected), (name, place)
            else:
                torch.testing.assert_close(actual, expected, rtol=2**-22, atol=0)
            compared += 1
    assert compared >= 8 * len(names)


@pytest.mark.parametrize("name", FILES)
def test_a_real_file_runs_and_is_saved_again(name: str, tmp_path: Path) -> None:
    sim = loaded(name)
    x = torch.randn(3, 4) if FILES[name] == "m" else torch.randn(2, 8, 3, 3)
    sim.save_encodings(tmp_path / "own.json")
    other = bare(FILES[name])
    other.load_encodings(tmp_path / "own.json")
    with torch.no_grad():
        expected = sim(x)
        assert torch.isfinite(expected).all()
        assert torch.equal(other(x), expected)


def test_names_that_nothing_explains_need_a_map() -> None:
    sim = bare("m")
    with pytest.raises(EncodingsError, match=r"^.*unchanged: 1 problem\s+in: no tensor of the simulation"):
        sim.load_encodings(DATA / "m_2.0.0.encodings")
    assert list(sim.quantizers()) == []
    for place in ("pc.input_quantizers[0]", "pc.input[0]", ["pc.input[0]"]):
        sim.load_encodings(DATA / "m_2.0.0.encodings", name_map={"in": place})
        assert sim.module("pc").input_quantizers[0] is not None
    with pytest.raises(EncodingsError, match="name_map sends it to 'nowhere'"):
        sim.load_encodings(DATA / "m_2.0.0.encodings", name_map={"in": "nowhere"})
