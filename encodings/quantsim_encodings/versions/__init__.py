"""One module for each version of encodings file: its pydantic models, reading and writing."""

from __future__ import annotations

from quantsim_encodings.versions.registry import VersionCodec, codec_for

__all__ = ["VersionCodec", "codec_for"]
