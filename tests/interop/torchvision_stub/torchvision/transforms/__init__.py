"""Every name is an empty module class, but for the enum that transformers reads at import."""

from .._placeholder import placeholder_class as __getattr__  # noqa: F401
from .interpolation import InterpolationMode

__all__ = ["InterpolationMode"]
