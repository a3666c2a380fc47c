"""Casts of a 4096 x 4096 float32 tensor to floating-point formats against ``clone``: to nearest and stochastic, eager
and compiled, and the casts of other libraries."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import float_peers
import torch
from harness import Comparison, Options

from quantsim_encodings.formats import RoundingMode, float_format
from quantsim_kernels import float_cast

EAGER = {RoundingMode.NEAREST_EVEN: 12.0, RoundingMode.STOCHASTIC: 16.0}
COMPILED = {RoundingMode.NEAREST_EVEN: 2.0, RoundingMode.STOCHASTIC: 2.5}


def subject(options: Options) -> Iterator[Comparison]:
    """Two formats, two roundings; the slower libraries only where they have the format."""
    size = 512 if options.quick else 4096
    x = torch.randn(size, size, generator=torch.Generator().manual_seed(0))
    for name in ("fp16", "e4m3fn"):
        for rounding in (RoundingMode.NEAREST_EVEN, RoundingMode.STOCHASTIC):
            yield comparison(x, name, rounding, options)


def comparison(x: torch.Tensor, name: str, rounding: RoundingMode, options: Options) -> Comparison:
    """One format and rounding."""
    format = float_format(name)
    stochastic = rounding is RoundingMode.STOCHASTIC

    def cast(t: torch.Tensor) -> torch.Tensor:
        return float_cast(t, format, rounding, seed=1 if stochastic else None)

    functions: dict[str, Callable[[], object]] = {"clone": x.clone, "quantsim": lambda: cast(x)}
    if options.compiled:
        torch.compiler.reset()
        compiled = torch.compile(cast, fullgraph=True)
        functions["quantsim compiled"] = lambda: compiled(x)
    if options.peers:
        others = {
            "qtorch": float_peers.qtorch_cast(format, "stochastic" if stochastic else "nearest"),
            "pychop": float_peers.pychop_cast(format, 5 if stochastic else 1),
        }
        if not stochastic:
            others |= {"torch": float_peers.torch_cast(format), "gfloat": float_peers.gfloat_cast(format)}
        for label, other in others.items():
            if other is not None:
                functions[label] = lambda other=other: other(x)
    return Comparison(
        title=f"{name} {rounding.value}, {x.shape[0]}x{x.shape[1]}",
        baseline="clone",
        functions=functions,
        gates={"quantsim": EAGER[rounding], "quantsim compiled": COMPILED[rounding]},
        notes={"pychop": "IEEE-like: other numbers", "torch": "saturates"} if name == "e4m3fn" else {},
    )
