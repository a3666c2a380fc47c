"""`FakeQuantizationMixin`: quantized modules that always compute in floating point on quantized values."""

from __future__ import annotations

from typing import ClassVar

from torch import nn

from quantsim.nn.base import BaseQuantizationMixin
from quantsim.nn.generation import generate_wrapper
from quantsim.nn.quantized_forward import SpecifiedModule
from quantsim.nn.registration import require_module_class

__all__ = ["FakeQuantizationMixin", "SpecifiedFakeQuantizedModule"]

PREFIX = "FakeQuantized"


class FakeQuantizationMixin(BaseQuantizationMixin):
    """A quantized module that maps its tensors onto their grids and runs torch's own forward on them.

    Example:
        >>> from quantsim.nn import FakeQuantizedLinear
        >>> FakeQuantizedLinear(10, 10)
        FakeQuantizedLinear(
          in_features=10, out_features=10, bias=True
          (param_quantizers): ModuleDict(
            (weight): None
            (bias): None
          )
          (input_quantizers): ModuleList(
            (0): None
          )
          (output_quantizers): ModuleList(
            (0): None
          )
        )
    """

    cls_to_qcls: ClassVar[dict[type[nn.Module], type[BaseQuantizationMixin]]] = {}
    qcls_to_cls: ClassVar[dict[type[BaseQuantizationMixin], type[nn.Module]]] = {}
    _wrappers: ClassVar[dict[type[nn.Module], type[BaseQuantizationMixin]]] = {}

    @classmethod
    def wrap(cls, module_cls: type[nn.Module]) -> type[BaseQuantizationMixin]:
        """Returns a quantized class for any module class, made on the spot if there is none.

        The new class quantizes the first argument of ``forward``, the parameters and the first output; it is not
        registered (see `implements`).

        Raises:
            ValueError: If ``module_cls`` is not a subclass of torch.nn.Module.

        Example:
            >>> class Scale(nn.Module):
            ...     def forward(self, x):
            ...         return 2 * x
            >>> FakeQuantizationMixin.wrap(Scale).__name__
            'FakeQuantizedScale'
        """
        require_module_class(module_cls, f"{cls.__name__}.wrap")
        registered = cls.cls_to_qcls.get(module_cls)
        if registered is not None:
            return registered
        if module_cls not in cls._wrappers:
            cls._wrappers[module_cls] = generate_wrapper(module_cls, SpecifiedFakeQuantizedModule, PREFIX)
        return cls._wrappers[module_cls]


class SpecifiedFakeQuantizedModule(SpecifiedModule, FakeQuantizationMixin):
    """Base of the classes ``FakeQuantized<Name>`` that are made from rows of the table."""
