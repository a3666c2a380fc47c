"""Every name is an empty module class, but for the interpolation modes."""

from ..._placeholder import placeholder_class as __getattr__  # noqa: F401
from ..interpolation import InterpolationMode

__all__ = ["InterpolationMode"]
