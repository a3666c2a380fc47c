"""`BaseQuantizationMixin`: what every quantized module has, whatever computes its forward."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Self, TypeVar

import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError, QuantsimError
from quantsim.nn._parameter_cache import SMALLEST_CACHED, ParameterCache
from quantsim.nn.calibration import calibrate_parameters
from quantsim.nn.calibration import compute_encodings as compute_model_encodings
from quantsim.nn.containers import CONTAINERS, check_later_entries, empty_dict, empty_list, quantizers_of
from quantsim.nn.encodings_interface import EncodingsInterface
from quantsim.nn.observation import CalibrationReport
from quantsim.nn.quantizer_removal import QuantizerRemoval, RestoreOnExit
from quantsim.nn.registration import IgnoredModules, require_module_class
from quantsim.nn.unknown_module import unknown_module_error
from quantsim.quantization.base import QuantizerBase

__all__ = ["BaseQuantizationMixin"]

_OWN_ATTRIBUTES = (
    "_quantized_parameter_cache",
    "_folded_parameters",
    "_kernel",
    "_accumulation",
    "_is_shielded",
    "module_path",
)
"""Instance attributes that are not the float module's."""

QuantizedClass = TypeVar("QuantizedClass", bound=type)


class BaseQuantizationMixin(EncodingsInterface, QuantizerRemoval):
    """Adds input, parameter and output quantizers to a torch module class.

    A concrete class is a mixin and the module class: ``class QuantizedLinear(QuantizationMixin, nn.Linear)``. With all
    quantizers ``None`` it computes exactly what the module class computes.

    Attributes:
        input_quantizers: Quantizers of the input tensors, by position.
        param_quantizers: Quantizers of the module's own parameters, by name.
        output_quantizers: Quantizers of the output tensors, by position.
        module_path: Name of the module in its model, for error texts; a simulation sets it.
    """

    cls_to_qcls: ClassVar[dict[type[nn.Module], type[BaseQuantizationMixin]]]
    qcls_to_cls: ClassVar[dict[type[BaseQuantizationMixin], type[nn.Module]]]

    input_quantizers: nn.ModuleList
    param_quantizers: nn.ModuleDict
    output_quantizers: nn.ModuleList
    module_path: str | None = None
    _is_shielded: bool = False
    """Whether calls of torch functions in here are nobody's business: a model routes its own past this module."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.__quant_init__()
        check_later_entries(self)

    def __quant_init__(self) -> None:
        """Makes the containers: one input, one output, one entry for each own parameter, all ``None``.

        Runs after ``__init__`` and in `from_module`. A subclass with other counts calls ``super().__quant_init__()``
        and then sets ``input_quantizers`` and ``output_quantizers``.
        """
        names = [name for name, parameter in self._parameters.items() if parameter is not None]
        self.param_quantizers = empty_dict(names)
        self.input_quantizers = empty_list(1)
        self.output_quantizers = empty_list(1)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calibrates parameter quantizers that have no range yet, then runs the module."""
        for quantizer in quantizers_of(self, "param_quantizers").values():
            if quantizer is not None and not quantizer.is_initialized():
                self._calibrate_parameters(overwrite=False)
                break
        if self._is_shielded:
            with torch._C.DisableTorchFunction():
                return super().__call__(*args, **kwargs)
        return super().__call__(*args, **kwargs)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Runs the float module's forward; a custom quantized class calls this between its quantizers."""
        return super().forward(*args, **kwargs)

    # ---------------------------------------------------------------- classes

    @classmethod
    def implements(cls, module_cls: type[nn.Module]) -> Callable[[QuantizedClass], QuantizedClass]:
        """Decorator that registers a quantized class for ``module_cls``; `from_module` then uses it.

        Raises:
            ValueError: If ``module_cls`` is no module class, or the decorated class does not derive from both this
                mixin and ``module_cls``, or has ``module_cls`` before the mixin.

        Example:
            >>> from quantsim.nn import QuantizationMixin
            >>> class Scale(nn.Module):
            ...     def forward(self, x):
            ...         return 2 * x
            >>> @QuantizationMixin.implements(Scale)
            ... class QuantizedScale(QuantizationMixin, Scale):
            ...     def forward(self, x):
            ...         y = super().forward(x)
            ...         return self.output_quantizers[0](y) if self.output_quantizers[0] else y
            >>> type(QuantizationMixin.from_module(Scale())).__name__
            'QuantizedScale'
        """
        require_module_class(module_cls, f"{cls.__name__}.implements")

        def register(quantized_class: QuantizedClass) -> QuantizedClass:
            mro = getattr(quantized_class, "__mro__", ())
            if cls not in mro or module_cls not in mro or mro.index(cls) > mro.index(module_cls):
                raise ValueError(
                    f"{cls.__name__}.implements({module_cls.__name__}): got {quantized_class!r}, expected a class "
                    f"whose bases are {cls.__name__} and {module_cls.__name__}, in this order; write "
                    f"`class Quantized{module_cls.__name__}({cls.__name__}, {module_cls.__name__})`"
                )
            cls.cls_to_qcls[module_cls] = quantized_class  # pyright: ignore[reportArgumentType]
            cls.qcls_to_cls[quantized_class] = module_cls  # pyright: ignore[reportArgumentType]
            return quantized_class

        return register

    @classmethod
    def wrap(cls, module_cls: type[nn.Module]) -> type[BaseQuantizationMixin]:
        """Returns a quantized class for any module class, made on the spot if there is none.

        The new class quantizes the first argument of ``forward``, the parameters and the first output; it is not
        registered (see `implements`).

        Raises:
            ValueError: If ``module_cls`` is not a subclass of torch.nn.Module.
        """
        raise NotImplementedError(f"{cls.__name__} must define wrap")

    @classmethod
    def ignore(cls, *module_cls: type[nn.Module]) -> IgnoredModules:
        """Leaves module classes in floating point, in the simulations built inside the ``with`` block.

        Example:
            >>> from quantsim.nn import QuantizationMixin, ignored_module_classes
            >>> with QuantizationMixin.ignore(nn.Dropout):
            ...     nn.Dropout in ignored_module_classes()
            True
        """
        return IgnoredModules(*module_cls)

    @classmethod
    def from_module(cls, module: nn.Module) -> Self:
        """Makes a quantized module that shares parameters, buffers, submodules and hooks with ``module``.

        Args:
            module: Module of a registered type (the exact type; subclasses are types of their own). A quantized
                module is returned as it is.

        Raises:
            UnknownModuleError: If there is no quantized class for the type; the text holds code that defines one.

        Example:
            >>> from quantsim.nn import QuantizationMixin
            >>> linear = nn.Linear(2, 3)
            >>> quantized = QuantizationMixin.from_module(linear)
            >>> type(quantized).__name__, quantized.weight is linear.weight
            ('QuantizedLinear', True)
        """
        if isinstance(module, cls):
            return module
        mixin = cls._family()
        quantized_class: Any = mixin.cls_to_qcls.get(type(module))
        if quantized_class is None and cls.__dict__.get("_wrapped_class") is type(module):
            quantized_class = cls  # a class made by wrap()
        if quantized_class is None:
            raise unknown_module_error(type(module), mixin)
        if cls is not mixin and not issubclass(quantized_class, cls):
            raise ConfigurationError(
                where=f"{cls.__name__}.from_module",
                got=f"a module of type {type(module).__name__}",
                expected=f"one that {cls.__name__} implements",
                fix=f"call {mixin.__name__}.from_module",
            )
        if "_hf_hook" in module.__dict__:  # its forward is an attribute that holds the float module
            raise ConfigurationError(
                "a module with a hook of accelerate cannot be quantized: the hook would go on calling the float module",
                where=f"{cls.__name__}.from_module",
                got=f"{type(module).__name__} with {type(module.__dict__['_hf_hook']).__name__}",
                expected="modules without hooks",
                fix="call accelerate.hooks.remove_hook_from_module(model, recurse=True), make the simulation, and use "
                "quantsim.integrations.accelerate.offload_simulation then",
            )
        quantized: Any = object.__new__(quantized_class)
        quantized.__dict__.update(_shared_attributes(module))
        quantized.__quant_init__()
        check_later_entries(quantized)
        return quantized

    def get_original_module(self) -> nn.Module:
        """Returns the float module, which shares parameters, buffers, submodules and hooks with this one.

        Parameters that `fold_param_quantizers` replaced are the original ones in it.
        """
        float_class = self._float_class()
        original = object.__new__(float_class)  # not its own: a deprecated class warns there
        original.__dict__.update(_shared_attributes(self))
        for name in _OWN_ATTRIBUTES:
            original.__dict__.pop(name, None)
        for name in CONTAINERS:
            original._modules.pop(name, None)
        for name, (parameter, _) in self._folded().items():
            original._parameters[name] = parameter
        return original

    @classmethod
    def _family(cls) -> type[BaseQuantizationMixin]:
        """The mixin that holds the registration: `QuantizationMixin` or `FakeQuantizationMixin`."""
        for base in cls.__mro__:
            if "cls_to_qcls" in base.__dict__:
                return base
        raise TypeError(f"{cls.__name__}: call this on QuantizationMixin or FakeQuantizationMixin")

    @classmethod
    def _float_class(cls) -> type[nn.Module]:
        for base in cls.__mro__:
            if "_wrapped_class" in base.__dict__:
                return base.__dict__["_wrapped_class"]
            if issubclass(base, BaseQuantizationMixin) and base in cls._family().qcls_to_cls:
                return cls._family().qcls_to_cls[base]
        # Not registered: the first base that is no quantized class is the float module.
        own = BaseQuantizationMixin.__mro__
        return next(base for base in cls.__mro__ if not issubclass(base, BaseQuantizationMixin) and base not in own)

    # ---------------------------------------------------------------- calibration

    @contextmanager
    def compute_encodings(self) -> Iterator[CalibrationReport]:
        """Calibrates parameters, observes inputs and outputs inside the block, and sets their ranges at its end.

        Inside, input and output quantizers pass tensors through unchanged (frozen ones keep quantizing), parameters
        are quantized. Quantized submodules take part. An exception leaves every quantizer as it was.

        Yields:
            A report that is filled in at the end; quantizers that saw no data are listed in it and warned of.

        Example:
            >>> from quantsim.nn import QuantizedLinear
            >>> from quantsim.quantization import affine
            >>> linear = QuantizedLinear(4, 2)
            >>> linear.output_quantizers[0] = affine.QuantizeDequantize((), bitwidth=8, symmetric=False)
            >>> with linear.compute_encodings():
            ...     _ = linear(torch.ones(3, 4))
            >>> linear.output_quantizers[0].is_initialized()
            True
        """
        with compute_model_encodings(self) as report:
            yield report

    def compute_param_encodings(self) -> None:
        """Calibrates the parameter quantizers, those that have a range as well, from the parameters' values.

        A parameter that lies on an integer grid of the quantizer is recovered without loss; otherwise the quantizer's
        encoding analyzer decides. Quantizers that must not be overwritten are left alone.
        """
        self._calibrate_parameters(overwrite=True)

    def _calibrate_parameters(self, *, overwrite: bool) -> None:
        calibrate_parameters([(self.module_path or type(self).__name__, self)], overwrite=overwrite)

    # ---------------------------------------------------------------- parameters

    def quantizable_parameters(self) -> dict[str, Tensor]:
        """Returns what each parameter quantizer quantizes, by name: own parameters, in attention rows of packed ones.

        Example:
            >>> from quantsim.nn import QuantizationMixin
            >>> attention = QuantizationMixin.from_module(nn.MultiheadAttention(4, 2))
            >>> attention.q_proj.quantizable_parameters()["weight"].shape
            torch.Size([4, 4])
        """
        values = {name: self._own_parameter(name) for name in self.param_quantizers}
        return {name: value for name, value in values.items() if value is not None}

    def _own_parameter(self, name: str) -> Tensor | None:
        """Returns what the parameter quantizer of that name quantizes."""
        return self._parameters[name]

    def _quantized_parameter(self, name: str, quantizer: QuantizerBase) -> Tensor | None:
        """Returns the quantized value of a parameter, from the cache where that is safe."""
        parameter = self._own_parameter(name)
        if parameter is None:
            return None
        try:
            # The attribute first, as in the quantizer's own forward: this line runs for each weight in each forward.
            if not (quantizer._initialized or quantizer.is_initialized() or torch.compiler.is_compiling()):
                self._calibrate_parameters(overwrite=False)
            if parameter.numel() < SMALLEST_CACHED or (parameter.requires_grad and torch.is_grad_enabled()):
                return quantizer(parameter)  # small, or in training: what the cache would say, decided cheaply
            cache = self.__dict__.get("_quantized_parameter_cache")
            if cache is None:
                if torch.compiler.is_compiling():
                    return quantizer(parameter)
                cache = self.__dict__["_quantized_parameter_cache"] = ParameterCache()
            return cache.quantize(name, parameter, quantizer)
        except QuantsimError as error:
            raise error.with_location(self._location(f"param_quantizers[{name!r}]"))  # noqa: B904 (the same error)

    @contextmanager
    def _patch_quantized_parameters(self, param_names: Iterable[str] | None = None) -> Iterator[None]:
        """Makes ``self.<parameter>`` the quantized value inside the block, for use in a custom ``forward``.

        The substitution is seen by all threads: one module must not run in several threads at once.

        Args:
            param_names: Parameters to replace; all that have a quantizer by default.
        """
        quantizers = quantizers_of(self, "param_quantizers")
        names = [
            name
            for name, quantizer in quantizers.items()
            if quantizer is not None and (param_names is None or name in param_names)
        ]
        # The instance dictionary is looked at before _parameters, so this hides the parameter without replacing it.
        attributes = self.__dict__
        try:
            for name in names:
                quantized = self._quantized_parameter(name, quantizers[name])  # pyright: ignore[reportArgumentType]
                if quantized is not None:
                    attributes[name] = quantized
            yield
        finally:
            for name in names:
                attributes.pop(name, None)

    def fold_param_quantizers(self) -> RestoreOnExit:
        """Replaces parameters by their quantized values and switches their quantizers off, for fast inference.

        Returns:
            A handle whose ``restore()``, or end as a context manager, puts parameters and quantizers back. The
            method `unfold_param_quantizers` does so as well.

        Example:
            >>> from quantsim.nn import QuantizedLinear
            >>> from quantsim.quantization import affine
            >>> linear = QuantizedLinear(4, 2)
            >>> linear.param_quantizers["weight"] = affine.QuantizeDequantize((2, 1), bitwidth=4, symmetric=True)
            >>> with linear.fold_param_quantizers():
            ...     linear.param_quantizers["weight"], len(linear.weight[0].unique()) <= 16
            (None, True)
            >>> linear.param_quantizers["weight"].bitwidth
            4
        """
        self._calibrate_parameters(overwrite=False)
        folded: dict[str, Tensor] = {}
        for name, quantizer in self.param_quantizers.items():
            if isinstance(quantizer, QuantizerBase):
                with torch.no_grad():
                    value = self._quantized_parameter(name, quantizer)
                    if value is not None:
                        folded[name] = value.clone() if value is self._own_parameter(name) else value
        records = self.__dict__.setdefault("_folded_parameters", {})
        for name, value in folded.items():
            records[name] = (self._parameters[name], self.param_quantizers[name])
            self._parameters[name] = nn.Parameter(value, requires_grad=False)
            self.param_quantizers[name] = None  # pyright: ignore[reportArgumentType]
        self.__dict__.pop("_quantized_parameter_cache", None)
        return RestoreOnExit(self.unfold_param_quantizers)

    def unfold_param_quantizers(self) -> None:
        """Undoes `fold_param_quantizers`; a folded parameter's device and dtype are kept."""
        for name, (parameter, quantizer) in self._folded().items():
            folded = self._parameters[name]
            if parameter is not None and folded is not None and _home(parameter) != _home(folded):
                with torch.no_grad():
                    parameter.data = parameter.data.to(folded.device, folded.dtype)
                quantizer.to(folded.device)
            self._parameters[name] = parameter
            self.param_quantizers[name] = quantizer
        self.__dict__.pop("_folded_parameters", None)

    def _folded(self) -> dict[str, tuple[nn.Parameter | None, QuantizerBase]]:
        return self.__dict__.get("_folded_parameters", {})

    # ---------------------------------------------------------------- errors and copies

    def _location(self, part: str) -> str:
        return f"{self.module_path or type(self).__name__}.{part}"

    def __getstate__(self) -> dict[str, Any]:
        # Copies start with no kept values, and with parameters in place even if copied inside a forward.
        hidden = {"_quantized_parameter_cache", *self._parameters}
        state: dict[str, Any] = dict(super().__getstate__())  # pyright: ignore[reportCallIssue, reportArgumentType]
        return {name: value for name, value in state.items() if name not in hidden}


def _shared_attributes(module: nn.Module) -> dict[str, Any]:
    """The attributes of a module for another object: parameters and submodules shared, their dictionaries not."""
    attributes = dict(module.__dict__)
    for registry in ("_parameters", "_buffers", "_modules"):
        attributes[registry] = dict(attributes[registry])
    attributes.pop("_quantized_parameter_cache", None)
    return attributes


def _home(tensor: Tensor) -> tuple[torch.device, torch.dtype]:
    return tensor.device, tensor.dtype
