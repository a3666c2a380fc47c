"""Block formats (MX, NVFP4) of a 4096 x 4096 float32 tensor against ``clone``: eager, compiled, and torchao's."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import float_peers
import torch
from harness import Comparison, Options

from quantsim_kernels import mx_quantize_dequantize

COMPILED = {"mxfp8_e4m3": 4.0, "mxfp4": 4.0}


def subject(options: Options) -> Iterator[Comparison]:
    """Blocks along the last axis, there and back."""
    size = 512 if options.quick else 4096
    x = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    for name in ("mxfp8_e4m3", "mxfp6_e2m3", "mxfp4", "mxint8", "nvfp4_one_level", "nvfp4"):
        functions: dict[str, Callable[[], object]] = {
            "clone": x.clone,
            "quantsim": lambda name=name: mx_quantize_dequantize(x, name),
        }
        if options.compiled:
            torch.compiler.reset()
            compiled = torch.compile(mx_quantize_dequantize, fullgraph=True)
            functions["quantsim compiled"] = lambda name=name, compiled=compiled: compiled(x, name)
        torchao = float_peers.torchao_blocks(name) if options.peers else None
        if torchao is not None:
            functions["torchao"] = lambda torchao=torchao: torchao(x)
        yield Comparison(
            title=f"{name}, {size}x{size}",
            baseline="clone",
            functions=functions,
            gates={"quantsim compiled": COMPILED[name]} if name in COMPILED else {},
        )
