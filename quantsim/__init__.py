"""Quantization simulation for PyTorch: see the accuracy your hardware will give, improve it, hand on the encodings.

    >>> import torch
    >>> from quantsim import QuantizationSimModel
    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)).eval()
    >>> sim = QuantizationSimModel(model, torch.zeros(1, 4), config="w8a8")
    >>> report = sim.compute_encodings([torch.randn(32, 4, generator=torch.Generator().manual_seed(0))])
    >>> sim(torch.ones(1, 4)).shape
    torch.Size([1, 2])

Everything is imported when first used: ``quantsim.quantization`` (quantizers), ``quantsim.nn`` (quantized modules),
``quantsim.sim`` (whole models).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from quantsim.errors import (
        ConfigurationError,
        NonFiniteError,
        NotCalibratedError,
        QuantsimError,
        ShapeError,
        UnknownModuleError,
    )
    from quantsim.sim.simulation import QuantizationSimModel

    __version__: str

__all__ = [
    "ConfigurationError",
    "NonFiniteError",
    "NotCalibratedError",
    "QuantizationSimModel",
    "QuantsimError",
    "ShapeError",
    "UnknownModuleError",
    "__version__",
]

_HOMES = {
    "QuantizationSimModel": "quantsim.sim.simulation",
    **dict.fromkeys((name for name in __all__ if name.endswith("Error")), "quantsim.errors"),
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        value: Any = version("quantsim")
    elif name in _HOMES:
        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'quantsim' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
