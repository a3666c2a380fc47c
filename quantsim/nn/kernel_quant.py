"""`QuantizationMixin`: quantized modules that compute with a kernel where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.nn import dispatch
from quantsim.nn.base import BaseQuantizationMixin
from quantsim.nn.containers import quantizers_of
from quantsim.nn.generation import generate_wrapper
from quantsim.nn.quantized_forward import SpecifiedModule
from quantsim.nn.registration import require_module_class
from quantsim_kernels import float_matmul
from quantsim_kernels.accumulation import Accumulation

__all__ = ["QuantizationMixin", "SpecifiedQuantizedModule"]

PREFIX = "Quantized"


class QuantizationMixin(BaseQuantizationMixin):
    """A quantized module that computes with a kernel if one applies, and by fake-quantization if none does.

    The kernel is the instance's (`set_kernel`), else the class's (`set_default_kernel`), else the one that the kernel
    registry selects for the op. It is called as

        ``kernel(*inputs, *parameters, output_encodings=..., **attributes)``

    where inputs and parameters are in the order of the row of the table (which is that of torch's functional form,
    such as ``input, weight, bias``). Those that have a quantizer arrive as `quantsim_kernels.QuantizedOperand`
    (integer codes, scale, offset, format, block size), the others as they are, a missing bias as ``None``.
    ``attributes`` are those of the row (such as ``stride``). ``output_encodings`` is an
    `quantsim.nn.OutputGrid` or ``None`` (a tuple for several outputs). A kernel returns a `QuantizedOperand` on that
    grid, which is dequantized, or real numbers, which the output quantizer then quantizes. Arguments of ``forward``
    that are no inputs (such as the stride of `QuantizedDynamicConv2d`) are passed by name where they are given.

    A kernel needs all floating-point inputs and the first parameter to have calibrated quantizers, and
    ``output_encodings`` if that argument of it has no default; otherwise, and during calibration, the module
    fake-quantizes. `explain_dispatch` says what happens and why.

    Example:
        >>> from quantsim.nn import QuantizedMultiply
        >>> def integer_multiply(a, b, output_encodings=None):
        ...     codes = (a.values + a.offset) * (b.values + b.offset)
        ...     return codes * (a.scale * b.scale)
        >>> multiply = QuantizedMultiply()
        >>> multiply.set_kernel(integer_multiply)
        >>> print(multiply.explain_dispatch())
        multiply: fake-quantization, because input 0 ('input') has no quantizer
    """

    cls_to_qcls: ClassVar[dict[type[nn.Module], type[BaseQuantizationMixin]]] = {}
    qcls_to_cls: ClassVar[dict[type[BaseQuantizationMixin], type[nn.Module]]] = {}
    _wrappers: ClassVar[dict[type[nn.Module], type[BaseQuantizationMixin]]] = {}
    _default_kernel: ClassVar[Callable[..., Any] | None] = None
    _kernel: Callable[..., Any] | None = None
    _accumulation: Accumulation | None = None

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
            >>> QuantizationMixin.wrap(Scale).__name__
            'QuantizedScale'
        """
        require_module_class(module_cls, f"{cls.__name__}.wrap")
        registered = cls.cls_to_qcls.get(module_cls)
        if registered is not None:
            return registered
        if module_cls not in cls._wrappers:
            cls._wrappers[module_cls] = generate_wrapper(module_cls, SpecifiedQuantizedModule, PREFIX)
        return cls._wrappers[module_cls]

    def set_kernel(self, kernel: Callable[..., Any] | None) -> None:
        """Sets the kernel of this instance; ``None`` removes it. Wins over class and registry.

        Raises:
            TypeError: If ``kernel`` cannot be called.
        """
        self.__dict__["_kernel"] = _require_callable(kernel, "set_kernel")

    def get_kernel(self) -> Callable[..., Any] | None:
        """Returns the kernel set for this instance, else that of its class, else ``None``."""
        return self._kernel or type(self)._default_kernel

    @classmethod
    def set_default_kernel(cls, kernel: Callable[..., Any] | None) -> None:
        """Sets the kernel of all instances of the class; ``None`` removes it. Wins over the registry.

        Raises:
            TypeError: If ``kernel`` cannot be called, or the class is the mixin itself.
        """
        if cls in (QuantizationMixin, SpecifiedQuantizedModule):
            raise TypeError("set_default_kernel: call it on a concrete class such as QuantizedLinear, not on the mixin")
        cls._default_kernel = _require_callable(kernel, "set_default_kernel")

    @classmethod
    def get_default_kernel(cls) -> Callable[..., Any] | None:
        """Returns the kernel of the class, ``None`` if there is none."""
        return cls._default_kernel

    def set_accumulation(self, accumulation: Accumulation | None) -> None:
        """Keeps the partial sums of the module's matrix product in a format; ``None`` goes back to torch's own sums.

        The module then computes ``cast(acc + products)`` step by step from its quantized inputs and parameters, with
        or without quantizers, on any device; gradients are those of the exact product. It is slow: an element of the
        result costs one rounding for each chunk. A module made of such products, such as attention, sets it on all of
        them. A kernel set by `set_kernel` or `set_default_kernel` wins, and gets it as the keyword argument
        ``accumulation``.

        Args:
            accumulation: Format, rounding and chunk length of the partial sums.

        Raises:
            TypeError: If it is no `quantsim_kernels.accumulation.Accumulation`.
            ConfigurationError: If the module is neither a linear layer, convolution (not transposed), matrix product
                or scaled-dot-product attention, nor made of these.

        Example:
            >>> import torch
            >>> from quantsim.nn import QuantizedLinear
            >>> from quantsim_kernels.accumulation import Accumulation
            >>> linear = QuantizedLinear(4096, 1, bias=False)
            >>> _ = torch.nn.init.ones_(linear.weight)
            >>> linear.set_accumulation(Accumulation("fp16", chunk=1))
            >>> linear(torch.ones(1, 4096)).item()
            2048.0
        """
        if accumulation is not None and not isinstance(accumulation, Accumulation):
            raise TypeError(f"set_accumulation: got {accumulation!r}, expected a quantsim_kernels Accumulation or None")
        modules = [
            module
            for module in self.modules()
            if isinstance(module, QuantizationMixin) and dispatch.accumulates(module)
        ]
        if not modules:
            raise ConfigurationError(
                "the module has no partial sums that can be kept in a format",
                where=self._location("set_accumulation"),
                got=type(self).__name__,
                expected=f"a module of one of the ops {', '.join(float_matmul.ACCUMULATING_OPS)}, or made of these",
            )
        for module in modules:
            if accumulation is None:
                module.__dict__.pop("_accumulation", None)
            else:
                module.__dict__["_accumulation"] = accumulation

    def get_accumulation(self) -> Accumulation | None:
        """Returns how partial sums are kept, ``None`` for torch's own way."""
        return self._accumulation

    def extra_repr(self) -> str:
        """What the float module says, and the accumulation if one is set."""
        text = super().extra_repr()
        if self._accumulation is None:
            return text
        return f"{text}{', ' if text else ''}accumulation={self._accumulation!r}"

    def explain_dispatch(self, *args: Any, **kwargs: Any) -> dispatch.DispatchReport:
        """Says which kernel computes this module and why, or why it fake-quantizes.

        Args:
            args: Inputs as for a call; without them the predicates of the registry's kernels are not asked.
            kwargs: Keyword inputs.
        """
        return dispatch.explain(self, args, kwargs)


class SpecifiedQuantizedModule(SpecifiedModule, QuantizationMixin):
    """Base of the classes ``Quantized<Name>`` that are made from rows of the table."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the kernel that applies; without one, torch's forward on quantized inputs and parameters."""
        named = self._kernel is not None or self._default_kernel is not None
        if self._accumulation is not None and not named:
            return self._quantize_outputs(dispatch.run_accumulated(self, args, kwargs))
        if named or dispatch.may_choose_kernel(self, args):
            choice = dispatch.choose(self, args, kwargs)
            if choice.kernel is not None:
                return self._quantize_kernel_output(dispatch.run(self, choice))
        return self._fake_quantized_forward(*args, **kwargs)

    def _quantize_kernel_output(self, result: Any) -> Any:
        """Real numbers of a kernel's results; those that are not on the output grid yet are put there."""
        from quantsim_kernels.operands import QuantizedOperand

        if isinstance(result, QuantizedOperand):
            return result.dequantize()
        if isinstance(result, Tensor):
            return self._quantize_outputs(result)
        if isinstance(result, tuple) and any(isinstance(item, QuantizedOperand) for item in result):
            return tuple(self._to_output(index, item) for index, item in enumerate(result))
        return self._quantize_outputs(result)

    def _to_output(self, index: int, item: Any) -> Any:
        from quantsim_kernels.operands import QuantizedOperand

        if isinstance(item, QuantizedOperand):
            return item.dequantize()
        quantizer = quantizers_of(self, "output_quantizers").get(str(index))
        return item if quantizer is None else self._quantize_tensor("output_quantizers", index, quantizer, item)


def _require_callable(kernel: Any, where: str) -> Any:
    if kernel is not None and not callable(kernel):
        raise TypeError(f"{where}: got {kernel!r}, expected a function or None")
    return kernel
