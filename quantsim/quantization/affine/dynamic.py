"""Affine quantization with ranges taken from the data at run time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError
from quantsim.quantization.affine.arguments import bitwidth_grid, check_grid
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.granularity import Granularity, PerTensor, PerToken
from quantsim_encodings.encoding import DynamicEncoding, Encoding
from quantsim_encodings.formats import IntFormat
from quantsim_kernels.affine import affine_dynamic_quantize_dequantize

__all__ = ["DynamicQuantizeDequantize"]


class DynamicQuantizeDequantize(QuantizerBase):
    """Quantizes each token (row of the last dimension), or each tensor, with a range of its own.

    Nothing is calibrated and nothing is learned: the range is the smallest and the largest value of the row.

    Args:
        bitwidth: Bits of an integer; symmetric means signed, asymmetric unsigned. Or give ``qmin`` and ``qmax``.
        symmetric: Whether zero lies in the middle of the grid.
        granularity: `PerToken` (the default) or `PerTensor`.
        qmin: Smallest integer, instead of ``bitwidth``.
        qmax: Largest integer.

    Raises:
        ConfigurationError: If the grid or the granularity is not usable.

    Example:
        >>> import torch
        >>> quantizer = DynamicQuantizeDequantize(bitwidth=2, symmetric=False)
        >>> quantizer(torch.tensor([[0.0, 1.0, 3.0], [0.0, 10.0, 30.0]]))
        tensor([[ 0.,  1.,  3.],
                [ 0., 10., 30.]])
    """

    needs_calibration = False

    def __init__(
        self,
        bitwidth: int | None = None,
        symmetric: bool = False,
        granularity: Granularity | None = None,
        *,
        qmin: int | None = None,
        qmax: int | None = None,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        if bitwidth is not None:
            if qmin is not None or qmax is not None:
                raise ConfigurationError("give either bitwidth or qmin and qmax", where=owner, got="both")
            qmin, qmax = bitwidth_grid(bitwidth, signed=bool(symmetric))
        check_grid(owner, qmin, qmax)
        assert qmin is not None
        assert qmax is not None
        self.qmin, self.qmax, self.symmetric = int(qmin), int(qmax), bool(symmetric)
        self._granularity = PerToken() if granularity is None else granularity
        if not isinstance(self._granularity, (PerToken, PerTensor)):
            raise ConfigurationError(
                "not a granularity for run-time ranges",
                where=f"{owner}(granularity)",
                got=repr(granularity),
                expected="PerToken() or PerTensor()",
            )

    @override
    def map_to_grid(self, x: Tensor, *, owned: bool = False) -> Tensor:
        if isinstance(self._granularity, PerTensor):
            rows = x.reshape(1, -1)  # a view of contiguous tensors, which is what owned tensors are
            return affine_dynamic_quantize_dequantize(rows, self.qmin, self.qmax, self.symmetric).reshape(x.shape)
        return affine_dynamic_quantize_dequantize(x, self.qmin, self.qmax, self.symmetric, inplace=owned)

    @property
    @override
    def format(self) -> IntFormat:
        return IntFormat(self.qmin, self.qmax)

    @property
    @override
    def granularity(self) -> Granularity:
        return self._granularity

    @property
    @override
    def bitwidth(self) -> int:
        return self.format.bits

    def get_encodings(self) -> DynamicEncoding:
        """Returns format, granularity and symmetry; there are no scales to export."""
        return DynamicEncoding(self.format, self._granularity, self.symmetric)

    def set_encodings(self, encoding: Encoding) -> None:
        """Takes over format, granularity and symmetry of a `DynamicEncoding` of integers.

        Raises:
            TypeError: If ``encoding`` is anything else.
        """
        made = type(self).from_encodings(encoding)
        self.qmin, self.qmax, self.symmetric = made.qmin, made.qmax, made.symmetric
        self._granularity = made._granularity

    @classmethod
    def from_encodings(cls, encoding: Encoding) -> Self:
        """Makes a quantizer with the format, granularity and symmetry of ``encoding``."""
        if not isinstance(encoding, DynamicEncoding) or not isinstance(encoding.format, IntFormat):
            raise TypeError(f"{cls.__name__}: got {encoding!r}, expected a DynamicEncoding with an IntFormat")
        return cls(
            symmetric=encoding.symmetric,
            granularity=encoding.granularity,
            qmin=encoding.format.qmin,
            qmax=encoding.format.qmax,
        )

    @override
    def persistent_settings(self) -> dict[str, Any]:
        return {**super().persistent_settings(), "qmin": self.qmin, "qmax": self.qmax, "symmetric": self.symmetric}

    @override
    def restore_settings(self, settings: Mapping[str, Any]) -> None:
        super().restore_settings(settings)
        self.qmin = int(settings.get("qmin", self.qmin))
        self.qmax = int(settings.get("qmax", self.qmax))
        self.symmetric = bool(settings.get("symmetric", self.symmetric))

    @override
    def extra_repr(self) -> str:
        return f"qmin={self.qmin}, qmax={self.qmax}, symmetric={self.symmetric}, granularity={self._granularity}"
