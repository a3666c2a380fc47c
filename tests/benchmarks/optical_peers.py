"""The published simulator of optical layers, where it is installed (it is no dependency)."""

from __future__ import annotations

import torch
from peers import installed, quiet
from torch import nn


def mase_linear(linear: nn.Linear, x: torch.Tensor) -> nn.Module | None:
    """mase-triton's optical layer in training mode, its ranges from smallest and largest values, as ours by default.

    None where it is missing or does not run.
    """
    if not installed("mase_triton"):
        return None
    try:
        with quiet():
            from mase_triton.optical_compute.layers import (  # pyright: ignore[reportMissingImports]
                OpticalTransformerLinear,
            )

            layer = OpticalTransformerLinear(linear.in_features, linear.out_features, linear.bias is not None)
            layer.load_state_dict(linear.state_dict(), strict=False)
            layer.train()(x)
    except Exception as error:
        print(f"left out: mase-triton does not run here ({type(error).__name__}: {error})")
        return None
    return layer
