"""A stand-in for torchvision in the oracle's environment: names only, no image code.

aimet-torch (and transformers, when it finds torchvision) import torchvision, whose PyPI wheel does not load on a CPU
build of torch. Nothing that the oracle is asked for here calls torchvision, so every name resolves to an empty
``nn.Module`` class.
"""

from __future__ import annotations

from . import datasets, io, ops, transforms

__all__ = ["datasets", "io", "ops", "transforms"]
__version__ = "0.28.0+stub"
