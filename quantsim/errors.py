"""Errors of quantsim: each says where it happened, what was got, what was expected and how to fix it."""

from __future__ import annotations

from typing import Self

__all__ = [
    "ConfigurationError",
    "NonFiniteError",
    "NotCalibratedError",
    "QuantsimError",
    "RankError",
    "ShapeError",
    "UnknownModuleError",
]


class QuantsimError(Exception):
    """Base of all errors that quantsim raises on purpose.

    Args:
        message: What is wrong, in one sentence. May be empty when ``got`` and ``expected`` say it.
        where: The argument, quantizer or module at fault; outer layers prefix their own path with `with_location`.
        got: What was found.
        expected: What should have been there.
        fix: What the caller can do about it.

    Example:
        >>> print(
        ...     QuantsimError(
        ...         "bad grid",
        ...         where="affine.Quantize",
        ...         got="qmax=-1",
        ...         expected="qmax > qmin=0",
        ...         fix="swap them",
        ...     )
        ... )
        affine.Quantize: bad grid; got qmax=-1; expected qmax > qmin=0; to fix: swap them
    """

    def __init__(
        self,
        message: str = "",
        *,
        where: str | None = None,
        got: str | None = None,
        expected: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.where = where
        self.got = got
        self.expected = expected
        self.fix = fix

    def __str__(self) -> str:
        clauses = [
            self.message,
            f"got {self.got}" if self.got else "",
            f"expected {self.expected}" if self.expected else "",
            f"to fix: {self.fix}" if self.fix else "",
        ]
        text = "; ".join(clause for clause in clauses if clause)
        return f"{self.where}: {text}" if self.where else text

    def with_location(self, location: str) -> Self:
        """Prefixes the place of the error with the path of an enclosing module and returns the error itself.

        Args:
            location: Path such as ``"encoder.layer.0.output_quantizers[0]"``.

        Example:
            >>> str(
            ...     NotCalibratedError("no range", where="QuantizeDequantize").with_location(
            ...         "fc.output_quantizers[0]"
            ...     )
            ... )
            'fc.output_quantizers[0] (QuantizeDequantize): no range'
        """
        self.where = f"{location} ({self.where})" if self.where else location
        return self


class NotCalibratedError(QuantsimError, RuntimeError):
    """A quantizer was used before its range was calibrated or set."""


class UnknownModuleError(QuantsimError, LookupError):
    """There is no quantized class for a module class, or no module of that name."""


class NonFiniteError(QuantsimError, ValueError):
    """NaN or infinity was observed during calibration.

    Args:
        nan_count: Number of NaN among the observed elements.
        infinity_count: Number of positive and negative infinities among them.
    """

    def __init__(
        self,
        message: str = "",
        *,
        nan_count: int = 0,
        infinity_count: int = 0,
        where: str | None = None,
        got: str | None = None,
        expected: str | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(message, where=where, got=got, expected=expected, fix=fix)
        self.nan_count = nan_count
        self.infinity_count = infinity_count


class ConfigurationError(QuantsimError, ValueError):
    """An argument, a configuration or a preset makes no sense."""


class ShapeError(QuantsimError, ValueError):
    """A tensor's shape does not fit the quantizer's shape or block size."""


class RankError(QuantsimError, RuntimeError):
    """Another process of a distributed run failed, or does something else than this one."""
