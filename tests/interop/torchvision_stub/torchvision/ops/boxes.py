"""Every name is an empty module class."""

from .._placeholder import placeholder_class as __getattr__  # noqa: F401
