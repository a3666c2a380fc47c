"""Makes a module answer every public name with an empty ``nn.Module`` class of that name."""

from __future__ import annotations

import functools

import torch


@functools.cache
def placeholder_class(name: str) -> type[torch.nn.Module]:
    """Return the (one) empty module class called ``name``; private and dunder names do not exist."""
    if name.startswith("_"):
        raise AttributeError(name)
    return type(name, (torch.nn.Module,), {})
