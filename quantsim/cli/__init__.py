"""The ``quantsim`` command."""

from __future__ import annotations

from quantsim.cli.main import app, main

__all__ = ["app", "main"]
