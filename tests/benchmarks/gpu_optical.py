"""Optical linear layers on a GPU, against torch's own products and against mase-triton.

    python tests/benchmarks/gpu_optical.py                  M = 8192, K = 768, N = 3072
    python tests/benchmarks/gpu_optical.py --json out.json  also as JSON
    python tests/benchmarks/gpu_optical.py --shape 4096 1024 1024

Medians of CUDA events with the L2 cache cleared before each call (``triton.testing.do_bench``), microseconds. Each row
also says how many kernels a call launches and how often it waits for the device, both counted by torch's profiler.
mase-triton is measured when it is installed. Not part of ``run.py``, which compares on the CPU.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LUT = 0.020040
WAITS = ("cudaStreamSynchronize", "cudaDeviceSynchronize", "cudaEventSynchronize", "aten::_local_scalar_dense")


@dataclass(frozen=True)
class Measurement:
    """One row of the table.

    Attributes:
        name: what was measured.
        microseconds: median time of a call on the device.
        kernels: kernels that a call launches.
        waits: times that a call waits for the device.
    """

    name: str
    microseconds: float
    kernels: int
    waits: int


def measure(name: str, call: Callable[[], object]) -> Measurement:
    """Times one call, and counts its launches and waits in a second run."""
    from torch.profiler import ProfilerActivity, profile
    from triton.testing import do_bench

    call()
    milliseconds: Any = do_bench(call, warmup=50, rep=300, return_mode="median")
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA]) as seen:
        call()
    events = seen.events() or []
    kernels = sum(event.device_type.name == "CUDA" for event in events)
    return Measurement(name, 1e3 * milliseconds, kernels, sum(event.name in WAITS for event in events))


def ranges(*tensors: Tensor) -> list[Tensor]:
    return [torch.stack(torch.aminmax(each.float())) for each in tensors]


def quantsim_cases(x: Tensor, weight: Tensor, bias: Tensor) -> Iterator[tuple[str, Callable[[], object]]]:
    """Our kernel: without and with the weight's codes kept, and both halves of a training step."""
    from quantsim_kernels.optical import optical_accumulate, optical_linear, optical_quantize

    x_ends, weight_ends = ranges(x, weight)
    (ends,) = ranges(x[:1024].float() @ weight.float().t())
    seed = torch.tensor(1, device=x.device)
    for lut, name in ((None, "int8"), (LUT, "float16, LUT")):
        kept: dict[str, Any] = {}
        settings: Any = {"lut": lut, "seed": seed}
        operands = (x, weight, bias, x_ends, weight_ends, ends)
        yield f"quantsim {name}", lambda o=operands, s=settings: optical_linear(*o, **s)
        yield (
            f"quantsim {name}, weight kept",
            lambda o=operands, s=settings, k=kept: optical_linear(*o, weight_codes=k, **s),
        )

        def train(lut: float | None = lut) -> Tensor:
            product, extremes = optical_accumulate(x, weight, x_ends, weight_ends, 256, lut)
            ends.mul_(0.9).add_(extremes, alpha=0.1)
            return optical_quantize(product, ends, noise="dither", seed=seed).add_(bias)

        yield f"quantsim {name}, range from this batch", train


def peer_case(x: Tensor, weight: Tensor, bias: Tensor) -> Callable[[], object] | None:
    """mase-triton's layer in training mode, or ``None`` where it cannot be imported.

    Ranges are those of the batch's ends: the quantiles that are its default fail on so many elements.
    """
    try:
        layers: Any = importlib.import_module("mase_triton.optical_compute.layers")
    except Exception as error:
        print(f"mase-triton: not measured ({type(error).__name__}: {error})", file=sys.stderr)
        return None
    linear = torch.nn.Linear(weight.shape[1], weight.shape[0], device=x.device, dtype=x.dtype)
    linear.weight.data.copy_(weight)
    linear.bias.data.copy_(bias)
    layer = layers.OpticalTransformerLinear.from_linear(linear, q_quantiles=None).to(x.device).train()
    return lambda: layer(x)


def cases(shape: tuple[int, int, int], dtype: torch.dtype) -> Iterator[Measurement]:
    """All rows for one shape (M, K, N)."""
    rows, terms, columns = shape
    x = torch.randn(rows, terms, device="cuda", dtype=dtype)
    weight = torch.randn(columns, terms, device="cuda", dtype=dtype) * terms**-0.5
    bias = torch.randn(columns, device="cuda", dtype=dtype)
    half = [each.bfloat16() for each in (x, weight, bias)]
    yield measure("torch bfloat16", lambda: torch.nn.functional.linear(*half))
    full = [each.float() for each in (x, weight, bias)]
    torch.backends.cuda.matmul.allow_tf32 = True
    yield measure("torch TF32", lambda: torch.nn.functional.linear(*full))
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, call in quantsim_cases(x, weight, bias):
        yield measure(name, call)
    peer = peer_case(x, weight, bias)
    if peer is not None:
        yield measure("mase-triton, training", peer)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", nargs=3, type=int, default=(8192, 768, 3072), metavar=("M", "K", "N"))
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        parser.exit(1, "gpu_optical: got no CUDA device, expected one\n")
    results: list[Measurement] = []
    print(f"{torch.cuda.get_device_name()}, M, K, N = {tuple(arguments.shape)}, {arguments.dtype}")
    print(f"{'':48} {'us':>9} {'ratio':>7} {'kernels':>8} {'waits':>6}")
    for each in cases(tuple(arguments.shape), getattr(torch, arguments.dtype)):
        results.append(each)
        ratio = each.microseconds / results[0].microseconds
        print(f"{each.name:48} {each.microseconds:9.1f} {ratio:7.2f} {each.kernels:8} {each.waits:6}", flush=True)
    if arguments.json is not None:
        arguments.json.write_text(
            json.dumps(
                {
                    "device": torch.cuda.get_device_name(),
                    "shape": list(arguments.shape),
                    "dtype": arguments.dtype,
                    "torch": torch.__version__,
                    "rows": [asdict(each) for each in results],
                },
                indent=2,
            )
            + "\n"
        )


if __name__ == "__main__":
    main()
