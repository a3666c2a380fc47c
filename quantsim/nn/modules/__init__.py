"""Where code written for AIMET looks for module forms of functional ops."""

from __future__ import annotations

from quantsim.nn.modules import custom

__all__ = ["custom"]
