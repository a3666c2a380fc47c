"""Record what torchao's block formats give, for tests that run without it. Run where torchao is installed:

    python tests/quantsim_kernels/record_torchao_blocks.py            # writes vectors/torchao_blocks.npz
    python tests/quantsim_kernels/record_torchao_blocks.py --compare  # 10**5 blocks of each format against quantsim

Recorded with torchao 0.18.0. Blocks are random at many scales, in float32 and bfloat16, with zero blocks, NaN, and
infinities; see quantsim_kernels.reference.mx for where the two differ on purpose.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

TARGET = Path(__file__).resolve().parent / "vectors" / "torchao_blocks.npz"
ELEMENTS = {
    "mxfp8_e4m3": torch.float8_e4m3fn,
    "mxfp8_e5m2": torch.float8_e5m2,
    "mxfp6_e3m2": "fp6_e3m2",
    "mxfp6_e2m3": "fp6_e2m3",
    "mxfp4": torch.float4_e2m1fn_x2,
}


def inputs(blocks: int, size: int, dtype: torch.dtype, special: bool) -> torch.Tensor:
    """Blocks of normal numbers whose sizes span 2**-60..2**60; the first few special."""
    generator = torch.Generator().manual_seed(blocks + size)
    x = torch.randn(blocks, size, generator=generator)
    x *= torch.exp2(torch.randint(-60, 61, (blocks, 1), generator=generator).float())
    if special:
        x[0] = 0.0
        x[1] = -0.0
        x[2, 3] = float("nan")
        x[3, 5] = float("inf")
        x[4, 7] = -float("inf")
        x[5, 1:] = 0.0
    return x.to(dtype)


def torchao_mx(x: torch.Tensor, name: str, rule: str) -> torch.Tensor:
    """What torchao reads back."""
    from torchao.prototype.mx_formats.config import ScaleCalculationMode  # pyright: ignore[reportMissingImports]
    from torchao.prototype.mx_formats.mx_tensor import MXTensor  # pyright: ignore[reportMissingImports]

    tensor = MXTensor.to_mx(x, ELEMENTS[name], x.shape[-1], ScaleCalculationMode(rule))
    return tensor.dequantize(torch.float32)


def torchao_nvfp4(x: torch.Tensor, two_level: bool) -> torch.Tensor:
    """The same of NVFP4."""
    from torchao.prototype.mx_formats import nvfp4_tensor  # pyright: ignore[reportMissingImports]

    scale = nvfp4_tensor.per_tensor_amax_to_scale(x.float().abs().amax()) if two_level else None
    return nvfp4_tensor.NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale).dequantize(torch.float32)


def moderate(x: torch.Tensor) -> torch.Tensor:
    """Blocks of sizes that torchao's NVFP4 has normal block scales for."""
    finite = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    return (finite * torch.linspace(0.5, 20, x.shape[0])[:, None]).to(x.dtype)


def record() -> None:
    """Writes the vectors."""
    arrays: dict[str, np.ndarray] = {}
    for dtype in (torch.float32, torch.bfloat16):
        x = inputs(48, 32, dtype, True)
        label = str(dtype).removeprefix("torch.")
        arrays[f"input/mx/{label}"] = x.float().numpy()
        for name in ELEMENTS:
            for rule in ("floor", "ceil", "even", "rceil"):
                arrays[f"output/{name}/{rule}/{label}"] = torchao_mx(x, name, rule).numpy()
    small = moderate(torch.empty(48, 16))
    arrays["input/nvfp4/float32"] = small.numpy()
    arrays["output/nvfp4_one_level"] = torchao_nvfp4(small, False).numpy()
    arrays["output/nvfp4"] = torchao_nvfp4(small, True).numpy()
    TARGET.parent.mkdir(exist_ok=True)
    np.savez_compressed(TARGET, **arrays)  # pyright: ignore[reportArgumentType] - no key is allow_pickle
    print(f"wrote {TARGET}, {TARGET.stat().st_size} bytes")


def compare() -> None:
    """Counts elements and blocks that differ on 10**5 blocks."""
    import dataclasses

    from quantsim_encodings.formats import MXScaleRule, block_format
    from quantsim_kernels.mx import mx_quantize_dequantize

    def report(name: str, ours: torch.Tensor, theirs: torch.Tensor) -> None:
        different = (ours.view(torch.int32) != theirs.view(torch.int32)) & ~(ours.isnan() & theirs.isnan())
        print(f"{name:45} {int(different.sum())} elements in {int(different.any(-1).sum())} of {len(ours)} blocks")

    for dtype in (torch.float32, torch.bfloat16):
        x = inputs(100_000, 32, dtype, True)
        for name in ELEMENTS:
            for rule in ("floor", "ceil", "even", "rceil"):
                format = dataclasses.replace(block_format(name), scale_rule=MXScaleRule(rule))
                ours = mx_quantize_dequantize(x, format).float()
                theirs = torchao_mx(x, name, rule).to(dtype).float()
                report(f"{name} {rule} {dtype}", ours, theirs)
        small = moderate(torch.empty(100_000, 16, dtype=dtype))
        for two_level in (False, True):
            name = "nvfp4" if two_level else "nvfp4_one_level"
            ours = mx_quantize_dequantize(small, name).float()
            report(f"{name} {dtype}", ours, torchao_nvfp4(small, two_level).to(dtype).float())


if __name__ == "__main__":
    compare() if "--compare" in sys.argv else record()
