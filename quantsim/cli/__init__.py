"""The ``quantsim`` command."""

from __future__ import annotations

from quantsim.cli.main import app

__all__ = ["app"]
