"""The float-precision layers, made from their table when this module is imported."""

from __future__ import annotations

from quantsim.layers.generation import generate_layers
from quantsim.layers.table import ALIASES, LAYERS

_layers = generate_layers(LAYERS)
_layers.update({alias: _layers[name] for alias, name in ALIASES.items()})
globals().update(_layers)

__all__ = sorted(_layers)  # pyright: ignore[reportUnsupportedDunderAll]
