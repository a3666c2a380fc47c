"""What a version of encodings file cannot hold, and which of it a caller accepts."""

from __future__ import annotations

from collections.abc import Collection
from enum import StrEnum
from typing import Final

from quantsim_encodings._problems import ProblemCollector

__all__ = ["DEFAULT_ALLOWED", "Loss"]


class Loss(StrEnum):
    """Kinds of information that a conversion may lose although the quantized numbers stay the same."""

    ANNOTATION = "annotation"
    """How the encodings came about: analyzer, samples, frozen, learnable, fingerprint, the other kind of name."""
    LAYOUT = "layout"
    """Axis and shape of the scales, which stay in row-major order: whoever knows the tensor can put them in place."""
    CODE_SIGN = "code_sign"
    """Whether codes are signed; the same real numbers get codes shifted by half the range."""
    SYMMETRY = "symmetry"
    """Whether the range was meant to be symmetric."""
    GROUPING = "grouping"
    """That block scales are integers times a channel's scale (LPBQ); the products stay."""
    FLOAT16 = "float16"
    """Plain float16 entries, which AIMET's 2.x does not count as quantized; they are left out."""


DEFAULT_ALLOWED: Final[frozenset[Loss]] = frozenset({Loss.ANNOTATION, Loss.LAYOUT})
"""Losses that converting and writing accept without being told: those that AIMET's versions always imply."""


class LossReport:
    """Collects what the version being written cannot hold."""

    def __init__(self, allowed: Collection[Loss]) -> None:
        self.refused = ProblemCollector()
        self.accepted = ProblemCollector()
        named = frozenset(Loss(loss) for loss in allowed)
        # Whoever names a loss means it besides those that are always implied; an empty collection means none at all.
        self._allowed = named | DEFAULT_ALLOWED if named else named
        self._subjects: dict[str, str] = {}

    def name(self, path: str, subject: str) -> None:
        """Says which tensor a path means; messages about it then start with that."""
        self._subjects[path] = subject

    def _sentence(self, path: str, message: str) -> str:
        return f"{self._subjects[path]} {message}" if path in self._subjects else message

    def refuse(self, path: str, message: str) -> None:
        """Notes something whose loss would change numbers or names."""
        self.refused.add(path, self._sentence(path, message))

    def lose(self, loss: Loss, path: str, message: str) -> None:
        """Notes a loss; a problem unless its kind is allowed."""
        if loss in self._allowed:
            self.accepted.add(path, self._sentence(path, message))
        else:
            self.refused.add(path, f"{self._sentence(path, message)} (accept this with allow={{{loss.value!r}}})")
