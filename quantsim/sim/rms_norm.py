"""Root-mean-square norms that models bring along: one op on hardware, many torch functions in their ``forward``."""

from __future__ import annotations

import re
from typing import Final

from torch import nn

from quantsim.nn.specification import forward_arguments

__all__ = ["is_rms_norm", "is_rms_norm_name"]

_NAME: Final = re.compile(r"rms_?norm|T5LayerNorm", re.IGNORECASE)


def is_rms_norm_name(name: str) -> bool:
    """Whether a class of that name computes a root-mean-square norm, as models name them.

    Example:
        >>> [is_rms_norm_name(name) for name in ("LlamaRMSNorm", "rms_norm", "T5LayerNorm", "LayerNorm")]
        [True, True, True, False]
    """
    return _NAME.search(name) is not None


def is_rms_norm(module: nn.Module) -> bool:
    """Whether a module is such a norm and nothing else: of one tensor, with at most one vector of parameters.

    Norms that also take a gate are not: they multiply by what comes from elsewhere.

    Args:
        module: Any module; known by the name of its class, since each model has a class of its own.

    Example:
        >>> class LlamaRMSNorm(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = nn.Parameter(torch.ones(4))
        ...
        ...     def forward(self, x):
        ...         return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
        >>> import torch
        >>> is_rms_norm(LlamaRMSNorm()), is_rms_norm(nn.LayerNorm(4))
        (True, False)
    """
    return (
        is_rms_norm_name(type(module).__name__)
        and len(module._modules) == 0
        and set(module._parameters) <= {"weight"}
        and all(values is None or values.dim() == 1 for values in module._parameters.values())
        and len(forward_arguments(type(module))) == 1
    )
