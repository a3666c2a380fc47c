"""Record what aimet-torch computes, for tests that run without it. Run in the oracle's environment:

    .oracle/bin/python tests/interop/record_vectors.py

Writes ``vectors/affine.npz`` (quantizers: range, scale, offset, outputs, gradients) and ``vectors/analyzers.npz``
(ranges that each encoding analyzer chooses); record_model.py writes a calibrated network beside them.

aimet-torch has two forwards. With a range gradient it divides by the scale; without one it calls
``torch.fake_quantize_*``, which multiplies by the inverse and so may round a tie the other way. The dividing
output is recorded, which quantsim must equal, and in how many elements the other one differs.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from vector_file import VectorFile

HERE = Path(__file__).resolve().parent
ROWS, COLUMNS, BLOCK = 16, 64, 32


@dataclass(frozen=True, kw_only=True)
class AffineCase:
    """One quantizer's settings and the tensors it is given (names of recorded inputs)."""

    quantizer: str
    values: str
    dtype: str = "float32"
    shape: tuple[int, ...] = ()
    block_size: tuple[int, ...] | None = None
    qmin: int
    qmax: int
    symmetric: bool
    decompressed_bits: int | None = None
    block_grouping: tuple[int, ...] | None = None
    zero_point_shift: float | None = None
    shrink: float = 1.0
    """The calibrated range times this: below 1, values clip, so that the gradient's outer branch is exercised."""

    @property
    def name(self) -> str:
        """A readable, unique key."""
        granularity = "x".join(map(str, self.shape)) or "tensor"
        block = "" if self.block_size is None else "-block" + "x".join(map(str, self.block_size))
        mode = "symmetric" if self.symmetric else "asymmetric"
        shift = "" if not self.zero_point_shift else f"-shift{self.zero_point_shift}"
        grouped = "" if self.decompressed_bits is None else f"-to{self.decompressed_bits}-grouped{self.block_grouping}"
        grid = f"{mode}-{self.qmin}..{self.qmax}{grouped}{shift}"
        return f"{self.quantizer}-{granularity}{block}-{grid}-{self.values}-{self.dtype}-x{self.shrink}"


def integer_grids() -> Iterator[tuple[int, int, bool]]:
    """(qmin, qmax, symmetric) of 2, 4, 8 and 16 bits, symmetric, asymmetric and strict symmetric; and two mixed
    ones."""
    for bits in (2, 4, 8, 16):
        yield -(2 ** (bits - 1)), 2 ** (bits - 1) - 1, True
        yield 0, 2**bits - 1, False
        yield -(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1, True
    yield -128, 127, False
    yield 0, 255, True


def affine_cases() -> Iterator[AffineCase]:
    """Every quantizer that is recorded."""
    granularities: tuple[tuple[tuple[int, ...], tuple[int, ...] | None], ...] = (
        ((), None),
        ((ROWS, 1), None),
        ((ROWS, COLUMNS // BLOCK), (1, BLOCK)),
    )
    for (shape, block_size), (qmin, qmax, symmetric) in itertools.product(granularities, integer_grids()):
        case = AffineCase(
            quantizer="QuantizeDequantize",
            values="normal",
            shape=shape,
            block_size=block_size,
            qmin=qmin,
            qmax=qmax,
            symmetric=symmetric,
        )
        yield case
        yield replace(case, values="skewed", shrink=0.7)
        if qmax - qmin in (15, 255):
            yield replace(case, dtype="bfloat16")
            yield replace(case, dtype="float16", values="skewed", shrink=0.7)
            yield replace(case, quantizer="Quantize", shrink=0.7)
    one_channel_axis_last = AffineCase(
        quantizer="QuantizeDequantize",
        values="normal",
        shape=(COLUMNS,),
        qmin=-128,
        qmax=127,
        symmetric=True,
        shrink=0.7,
    )
    yield one_channel_axis_last
    yield replace(one_channel_axis_last, shape=(1,), qmin=0, qmax=255, symmetric=False)
    yield replace(one_channel_axis_last, values="positive", shape=(), qmin=0, qmax=255, symmetric=False)
    yield replace(one_channel_axis_last, values="zero", shape=(ROWS, 1), shrink=1.0)
    yield replace(one_channel_axis_last, values="zero", shape=(), qmin=0, qmax=255, symmetric=False, shrink=1.0)
    yield replace(one_channel_axis_last, values="normal", shape=(2, 4), block_size=(-1, -1))
    yield replace(one_channel_axis_last, shape=(ROWS, 1), qmin=-2, qmax=1, zero_point_shift=0.5)
    yield replace(one_channel_axis_last, shape=(ROWS, 1), qmin=-8, qmax=7, zero_point_shift=0.5)
    for bits, decompressed, grouping, values in itertools.product(
        (2, 4), (4, 8), ((1, -1), (1, 2), (-1, 1)), ("normal", "skewed")
    ):
        if bits < decompressed:
            yield AffineCase(
                quantizer="GroupedBlockQuantizeDequantize",
                values=values,
                shape=(ROWS, 4),
                block_size=(1, COLUMNS // 4),
                block_grouping=grouping,
                qmin=-(2 ** (bits - 1)),
                qmax=2 ** (bits - 1) - 1,
                symmetric=True,
                decompressed_bits=decompressed,
                shrink=0.7 if values == "skewed" else 1.0,
            )


def inputs() -> dict[str, torch.Tensor]:
    """The tensors that quantizers are given, (16, 64) float32, and the incoming gradient."""
    generator = torch.Generator().manual_seed(20240817)

    def normal() -> torch.Tensor:
        return torch.randn(ROWS, COLUMNS, generator=generator)

    channel_sizes = torch.logspace(-3, 2, ROWS)[:, None]
    return {
        "normal": normal(),
        "skewed": (normal().exp() - 0.7) * channel_sizes,
        "positive": normal().abs() + 0.25,
        "zero": torch.zeros(ROWS, COLUMNS),
        "gradient": normal(),
    }


def make_quantizer(case: AffineCase) -> Any:
    """The oracle's quantizer for a case."""
    from aimet_torch.quantization import affine

    if case.quantizer == "GroupedBlockQuantizeDequantize":
        bits = (case.qmax - case.qmin).bit_length()
        return affine.GroupedBlockQuantizeDequantize(
            case.shape,
            bits,
            case.symmetric,
            case.decompressed_bits,
            block_size=case.block_size,
            block_grouping=case.block_grouping,
        )
    return getattr(affine, case.quantizer)(
        case.shape,
        case.qmin,
        case.qmax,
        case.symmetric,
        block_size=case.block_size,
        zero_point_shift=case.zero_point_shift,
    )


def record_affine(case: AffineCase, tensors: dict[str, torch.Tensor]) -> tuple[dict[str, np.ndarray], int]:
    """Calibrate, run both forwards and the backward; also count where the two forwards differ."""
    dtype = getattr(torch, case.dtype)
    x = tensors[case.values].to(dtype)
    gradient = tensors["gradient"].to(dtype)
    quantizer = make_quantizer(case)
    with quantizer.compute_encodings():
        quantizer(x)
    if case.shrink != 1.0:
        quantizer.set_range(quantizer.min.detach() * case.shrink, quantizer.max.detach() * case.shrink)

    leaf = x.clone().requires_grad_()
    output = quantizer(leaf)
    output.backward(gradient)
    with torch.no_grad():
        fused = quantizer(x)

    # The oracle's input gradient is the incoming one, or zero (Quantize: divided by the scale); only where it passes
    # is recorded.
    passed = leaf.grad != 0
    record = {
        "min": quantizer.min.detach(),
        "max": quantizer.max.detach(),
        "scale": quantizer.get_scale().detach(),
        "offset": quantizer.get_offset().detach(),
        "output": output.detach().as_subclass(torch.Tensor).float(),
        "min_gradient": quantizer.min.grad,
        "max_gradient": quantizer.max.grad,
    }
    if case.quantizer == "Quantize":
        record["input_gradient"] = leaf.grad.float()
    elif not torch.equal(leaf.grad, torch.where(passed, gradient, 0)):
        raise RuntimeError(f"{case.name}: the input gradient is not the incoming one under a mask")
    arrays = {key: value.numpy() for key, value in record.items()}
    arrays["passed"] = np.packbits(passed.numpy())
    different = int((fused.as_subclass(torch.Tensor).float() != record["output"]).sum())
    return arrays, different


@dataclass(frozen=True, kw_only=True)
class AnalyzerCase:
    """One encoding analyzer, its input batches, and the grid that it chooses a range for."""

    analyzer: str
    arguments: dict[str, float]
    batches: tuple[str, ...]
    shape: tuple[int, ...]
    block_size: tuple[int, ...] | None
    steps: int
    symmetric: bool

    @property
    def name(self) -> str:
        """A readable, unique key."""
        arguments = "".join(f"-{key}{value}" for key, value in self.arguments.items())
        granularity = "x".join(map(str, self.shape)) or "tensor"
        block = "" if self.block_size is None else "-block" + "x".join(map(str, self.block_size))
        mode = "symmetric" if self.symmetric else "asymmetric"
        return f"{self.analyzer}{arguments}-{granularity}{block}-{mode}-{self.steps}-{'+'.join(self.batches)}"


def analyzer_cases() -> Iterator[AnalyzerCase]:
    """Every analyzer on every granularity; one batch each, and two batches per tensor."""
    analyzers: tuple[tuple[str, dict[str, float]], ...] = (
        ("MinMaxEncodingAnalyzer", {}),
        ("PercentileEncodingAnalyzer", {"percentile": 100}),
        ("PercentileEncodingAnalyzer", {"percentile": 99.9}),
        ("PercentileEncodingAnalyzer", {"percentile": 95.0, "num_bins": 512}),
        ("SqnrEncodingAnalyzer", {}),
        ("SqnrEncodingAnalyzer", {"gamma": 1.0, "num_bins": 256}),
    )
    granularities: tuple[tuple[tuple[int, ...], tuple[int, ...] | None], ...] = (
        ((), None),
        ((1,), None),
        ((8, 1), None),
        ((128,), None),
        ((8, 4), (1, 32)),
    )
    for (analyzer, arguments), (shape, block_size), symmetric in itertools.product(
        analyzers, granularities, (True, False)
    ):
        case = AnalyzerCase(
            analyzer=analyzer,
            arguments=arguments,
            batches=("bell",),
            shape=shape,
            block_size=block_size,
            steps=255,
            symmetric=symmetric,
        )
        for steps in (3, 14, 15, 255, 65535):
            yield replace(case, steps=steps)
        yield replace(case, batches=("tailed",))
        yield replace(case, batches=("tailed",), steps=15)
        if shape == ():
            yield replace(case, batches=("positive",))
            yield replace(case, batches=("constant",))
            yield replace(case, batches=("bell", "tailed"))
            yield replace(case, batches=("tailed", "bell"))


def analyzer_inputs() -> dict[str, torch.Tensor]:
    """The observed batches, (8, 128) float32."""
    generator = torch.Generator().manual_seed(20240818)

    def normal() -> torch.Tensor:
        return torch.randn(8, 128, generator=generator)

    sizes = torch.tensor([0.01, 0.1, 0.5, 1.0, 2.0, 5.0, 20.0, 0.25])[:, None]
    return {
        "bell": normal() * 0.7,
        "tailed": normal() * normal().abs().exp() * sizes + 0.1,
        "positive": normal().abs() + 0.25,
        "constant": torch.full((8, 128), 0.75),
    }


def record_analyzer(case: AnalyzerCase, tensors: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Feed the batches and ask for the range."""
    from aimet_torch.quantization import encoding_analyzer

    arguments: dict[str, Any] = dict(case.arguments)
    if case.block_size is not None:
        arguments["block_size"] = case.block_size
    analyzer = getattr(encoding_analyzer, case.analyzer)(case.shape, **arguments)
    for batch in case.batches:
        analyzer.update_stats(tensors[batch])
    minimum, maximum = analyzer.compute_encodings(case.steps, case.symmetric)
    return {"min": minimum.numpy(), "max": maximum.numpy()}


def record_ranges(arrays: dict[str, np.ndarray]) -> None:
    """Scale and offset of 64 given ranges on every grid: the quantizer's own arithmetic without an analyzer."""
    from aimet_torch.quantization import affine

    generator = torch.Generator().manual_seed(20240819)
    size = torch.logspace(-9, 6, 64)
    minimum = -torch.rand(64, generator=generator) * size
    maximum = torch.rand(64, generator=generator) * size
    arrays["ranges/min"], arrays["ranges/max"] = minimum.numpy(), maximum.numpy()
    for qmin, qmax, symmetric in (*integer_grids(), (-(2**31), 2**31 - 1, True)):
        quantizer = affine.QuantizeDequantize((64,), qmin, qmax, symmetric)
        quantizer.set_range(minimum, maximum)
        key = f"ranges/{qmin}/{qmax}/{symmetric}"
        arrays[f"{key}/scale"] = quantizer.get_scale().detach().numpy()
        arrays[f"{key}/offset"] = quantizer.get_offset().detach().numpy()
        arrays[f"{key}/min"] = quantizer.get_min().detach().numpy()
        arrays[f"{key}/max"] = quantizer.get_max().detach().numpy()


def save(path: Path, cases: dict[str, dict[str, Any]], arrays: dict[str, np.ndarray]) -> None:
    """Write one file of vectors and say how large it is."""
    VectorFile(cases, arrays).save(path)
    print(f"{path}: {len(cases)} cases, {path.stat().st_size:,} bytes")


def main() -> int:
    """Record everything; the folder may be given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=HERE / "vectors")
    output = parser.parse_args().output.resolve()
    torch.set_num_threads(1)
    torch.manual_seed(0)

    tensors = inputs()
    arrays = {f"inputs/{name}": tensor.numpy() for name, tensor in tensors.items()}
    cases: dict[str, dict[str, Any]] = {}
    fused_elements = fused_cases = 0
    for case in affine_cases():
        record, different = record_affine(case, tensors)
        if case.name in cases:
            raise RuntimeError(f"two cases are called {case.name}")
        cases[case.name] = {**asdict(case), "fused_differs": different}
        arrays |= {f"{case.name}/{key}": value for key, value in record.items()}
        fused_elements += different
        fused_cases += different > 0
        if different:
            print(f"  torch.fake_quantize differs in {different} elements: {case.name}")
    print(
        f"torch.fake_quantize differs from division in {fused_elements} elements of {fused_cases} of {len(cases)} cases"
    )
    record_ranges(arrays)
    save(output / "affine.npz", cases, arrays)

    tensors = analyzer_inputs()
    arrays = {f"inputs/{name}": tensor.numpy() for name, tensor in tensors.items()}
    cases = {}
    for case in analyzer_cases():
        try:
            record = record_analyzer(case, tensors)
        except Exception as error:
            print(f"left out, the oracle fails: {case.name}: {error}")
            continue
        cases[case.name] = asdict(case)
        arrays |= {f"{case.name}/{key}": value for key, value in record.items()}
    save(output / "analyzers.npz", cases, arrays)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
