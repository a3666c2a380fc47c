"""The forward that the classes of the table share: quantize inputs, run torch's own forward, quantize outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from quantsim.errors import QuantsimError, ShapeError
from quantsim.nn.base import BaseQuantizationMixin
from quantsim.nn.containers import empty_list, quantizers_of
from quantsim.nn.specification import ModuleSpec
from quantsim.quantization.affine import Quantize
from quantsim.quantization.base import QuantizerBase
from quantsim_kernels.affine import affine_dequantize

__all__ = ["SpecifiedModule"]


class SpecifiedModule(BaseQuantizationMixin):
    """Behaviour of the quantized classes that are made from a row of the table."""

    _spec: ClassVar[ModuleSpec]
    _float_forward: Callable[..., Any]
    _input_slots: ClassVar[Mapping[str, int]]
    """Input quantizer of each argument of ``forward``, by name."""
    _argument_names: ClassVar[tuple[str, ...]]
    """Names of the positional arguments of ``forward``."""
    _first_argument_is_input: ClassVar[bool]
    """Whether input quantizer 0 is for the first argument of ``forward``."""

    def __quant_init__(self) -> None:
        super().__quant_init__()
        spec = type(self)._spec
        self.input_quantizers = empty_list(spec.input_count)
        self.output_quantizers = empty_list(spec.outputs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the module."""
        # Weights are calibrated when they are quantized, so the mixin's loop over quantizers is not needed.
        if self._is_shielded:
            with torch._C.DisableTorchFunction():
                return nn.Module.__call__(self, *args, **kwargs)
        return nn.Module.__call__(self, *args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs torch's forward on quantized inputs and parameters, and quantizes its results."""
        return self._fake_quantized_forward(*args, **kwargs)

    def _fake_quantized_forward(self, *args: Any, **kwargs: Any) -> Any:
        """Quantizes inputs and parameters to real numbers on their grids, and runs torch's forward on these."""
        if len(args) == 1 and not kwargs:  # the hot path: one tensor in
            quantizer = quantizers_of(self, "input_quantizers").get("0")
            if quantizer is not None and self._first_argument_is_input:
                args = (self._quantize_tensor("input_quantizers", 0, quantizer, args[0]),)
        else:
            args, kwargs = self._quantize_inputs(args, kwargs)
        return self._quantize_outputs(self._run_float_forward(args, kwargs))

    def _run_float_forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs torch's forward with each parameter that has a quantizer replaced by its quantized value."""
        # The same as _patch_quantized_parameters, without the cost of a context manager.
        attributes = self.__dict__
        patched: list[str] | None = None
        try:
            for name, quantizer in quantizers_of(self, "param_quantizers").items():
                if quantizer is None:
                    continue
                quantized = self._quantized_parameter(name, quantizer)
                if quantized is None:
                    continue
                attributes[name] = quantized
                if patched is None:
                    patched = [name]
                else:
                    patched.append(name)
            return self._float_forward(*args, **kwargs)
        finally:
            if patched is not None:
                for name in patched:
                    attributes.pop(name, None)

    def _quantize_inputs(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        quantizers = quantizers_of(self, "input_quantizers")
        if not any(quantizers.values()):
            return args, kwargs
        if self._spec.variadic_inputs:
            return tuple(self._quantize_each("input_quantizers", args)), kwargs
        slots, names = self._input_slots, self._argument_names
        quantized = [
            self._quantize_slot(quantizers, slots.get(names[position]) if position < len(names) else None, value)
            for position, value in enumerate(args)
        ]
        by_name = {name: self._quantize_slot(quantizers, slots.get(name), value) for name, value in kwargs.items()}
        return tuple(quantized), by_name

    def _quantize_slot(self, quantizers: Mapping[str, QuantizerBase | None], slot: int | None, value: Any) -> Any:
        quantizer = None if slot is None else quantizers.get(str(slot))
        if quantizer is None:
            return value
        if isinstance(value, (tuple, list)):  # several tensors in one argument, such as the states of a cell
            return type(value)(self._quantize_tensor("input_quantizers", slot, quantizer, item) for item in value)
        return self._quantize_tensor("input_quantizers", slot, quantizer, value)

    def _quantize_each(self, container: str, values: Sequence[Any]) -> list[Any]:
        """Quantizes tensor *i* by quantizer *i* of a container, or all by its only one."""
        quantizers = list(quantizers_of(self, container).values())
        if len(quantizers) == 1:
            quantizers = quantizers * len(values)
        # Compilers cannot follow an assignment inside a comprehension.
        quantized: list[Any] = []
        for index, value in enumerate(values):
            quantizer = quantizers[index] if index < len(quantizers) else None
            quantized.append(value if quantizer is None else self._quantize_tensor(container, index, quantizer, value))
        return quantized

    def _quantize_outputs(self, result: Any) -> Any:
        quantizers = quantizers_of(self, "output_quantizers")
        if isinstance(result, Tensor):
            quantizer = quantizers.get("0")
            if quantizer is None:
                return result
            return self._quantize_tensor("output_quantizers", 0, quantizer, result, fresh=True)
        if not any(quantizers.values()) or not isinstance(result, (tuple, list)):
            return result
        if self._spec.variadic_outputs:
            values = self._quantize_each("output_quantizers", result)
        else:
            values = [
                value
                if (quantizer := quantizers.get(str(index))) is None
                else self._quantize_tensor("output_quantizers", index, quantizer, value)
                for index, value in enumerate(result)
            ]
        return type(result)(*values) if hasattr(result, "_fields") else type(result)(values)

    def _quantize_tensor(
        self, container: str, index: int | None, quantizer: QuantizerBase, value: Any, *, fresh: bool = False
    ) -> Any:
        """Applies one quantizer; values that are no floating-point tensors pass through.

        Args:
            container: Name of the container, for errors.
            index: Index in the container, for errors.
            quantizer: The quantizer.
            value: What to quantize.
            fresh: Whether ``value`` comes straight from torch's forward; it is overwritten if the row of the table
                says that nobody else holds it, and autograd is off.
        """
        if not isinstance(value, Tensor) or not value.is_floating_point():
            return value
        try:
            if isinstance(quantizer, Quantize):
                return _to_real_numbers(quantizer, value)
            if (
                fresh
                and self._spec.fresh_output
                and not torch.is_grad_enabled()
                and not quantizer._forward_hooks
                and not quantizer._forward_pre_hooks
                and not self.__dict__.get("inplace", False)
                and not torch.compiler.is_compiling()
            ):
                return quantizer.quantize_owned(value)
            return quantizer(value)
        except QuantsimError as error:
            raise error.with_location(self._location(f"{container}[{index}]"))  # noqa: B904 (the same error)
        except ValueError as error:
            raise ShapeError(str(error), where=self._location(f"{container}[{index}]")) from error


def _to_real_numbers(quantizer: Quantize, value: Tensor) -> Tensor:
    """Applies a `Quantize`, and maps its codes back: only real numbers travel between modules."""
    codes = quantizer(value)
    if quantizer.is_observing or value.numel() == 0:
        return codes
    scale, offset = quantizer.get_scale(), quantizer.get_offset()
    assert scale is not None
    return affine_dequantize(codes, scale, offset, quantizer.block_size)
