"""Experiments on real models, built on quantsim's public interface only."""

from __future__ import annotations

__all__: list[str] = []
