"""Lets calls of torch functions inside a model's ``forward`` go through quantized modules, without editing the model.

Every module that is no quantized module itself gets a class of its own, whose ``forward`` is the old one inside a
:class:`torch.overrides.TorchFunctionMode`. The mode counts the calls of each function; the n-th call of a function in
a module's forward belongs to the operation module that one run on example inputs assigned to it. Calls inside of a
child module are the child's, calls inside of a quantized module are nobody's.

Calls from the same place in the code (in a loop over time steps or experts) share one operation module: the example run
knows places by the chain of code positions from the forward down to the call. Later runs go by the number of the call
alone, which compilers can follow; past the calls of the example run, the last repeating pattern of places goes on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial, wraps
from types import CodeType, FrameType
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from quantsim.nn import BaseQuantizationMixin, QuantizationMixin
from quantsim.nn.quantized_operations import OPERATIONS, make_operation, takes_part
from quantsim.sim.operations import OPERATION_NAMES

__all__ = [
    "HOLDER",
    "FunctionalOperations",
    "every_operation_called",
    "is_routed",
    "route_functions",
    "unroute_functions",
]

HOLDER: Final = "functional_operations"
"""Name of the submodule that holds the operation modules of a module."""

_REVERSED: Final = frozenset(
    {"__radd__", "__rsub__", "__rmul__", "__rtruediv__", "__rdiv__", "__rpow__", "__rmatmul__", "rsub"}
)


@dataclass(frozen=True)
class TorchFunction:
    """What a torch function is.

    Attributes:
        op: Its canonical name.
        in_place: Whether its result is written into its first argument.
        reverses: Whether its first two arguments are the other way round.
    """

    op: str
    in_place: bool = False
    reverses: bool = False


def _functions() -> dict[str, TorchFunction]:
    found: dict[str, TorchFunction] = {}
    for op in OPERATIONS:
        found[op], found[f"{op}_"] = TorchFunction(op), TorchFunction(op, in_place=True)
    for name, canonical in OPERATION_NAMES.items():
        op = canonical.rstrip("_")
        if op in found:
            found[name] = TorchFunction(op, canonical.endswith("_"), name in _REVERSED)
    return found


_FUNCTIONS: Final = _functions()
"""By name, since compilers have objects of their own for some functions."""


LARGEST_ACTIVATION: Final = 1e30
"""Results beyond this hold a mask: no range of a quantizer covers that."""


class _Activations:
    """Tensors that were computed from floating-point inputs or by modules; not from positions or masks alone."""

    def __init__(self) -> None:
        self._known: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def add(self, value: object) -> None:
        for tensor in _tensors(value):
            if tensor.is_floating_point():
                self._known[_base(tensor)] = True

    def has(self, value: object) -> bool:
        return any(_base(tensor) in self._known for tensor in _tensors(value))


def _base(tensor: Tensor) -> Tensor:
    return tensor if tensor._base is None else tensor._base


@dataclass
class _Place:
    """One place in the code where a function is called, as the example run saw it."""

    number: int
    is_quantizable: bool = False
    is_masked: bool = False
    tensors: int = 0


@dataclass
class _Record:
    """The calls of one module's forward during the example run."""

    activations: _Activations
    places: dict[str, dict[tuple[Any, ...], _Place]] = field(default_factory=dict)
    order: dict[str, list[int]] = field(default_factory=dict)
    """Numbers of places by op, of the longest run so far."""

    def note(self, op: str, key: tuple[Any, ...], inputs: list[Tensor], result: object) -> int:
        places = self.places.setdefault(op, {})
        place = places.setdefault(key, _Place(len(places)))
        place.tensors = max(place.tensors, len(inputs))
        if self.activations.has(inputs):
            self.activations.add(result)
            if not key:
                return place.number
            outputs = [tensor for tensor in _tensors(result) if tensor.is_floating_point() and not tensor.is_meta]
            place.is_quantizable |= any(tensor.is_floating_point() for tensor in _tensors(result))
            place.is_masked |= any(bool((tensor.abs() > LARGEST_ACTIVATION).any()) for tensor in outputs)
        return place.number

    def follow(self, result: object, inputs: object) -> None:
        """Notes what a function that is nobody's operation (a reshape, say) made of activations."""
        if self.activations.has(inputs):
            self.activations.add(result)


class FunctionalOperations(nn.Module):
    """The operation modules of one module, by name (``matmul_0``), and which call belongs to which.

    Attributes:
        sequences: For each op the names of the operation modules in the order of the calls; None for calls without one.
        call_all: Call operation modules even if they do nothing, so that hooks on them see every call.
    """

    sequences: dict[str, tuple[str | None, ...]]

    def __init__(self) -> None:
        super().__init__()
        self.sequences = {}
        self.call_all = False
        self.record: _Record | None = None

    def fill(self) -> None:
        """Makes the operation modules that the record asks for, and ends recording."""
        record, self.record = self.record, None
        assert record is not None
        for op, places in record.places.items():
            names = {
                place.number: f"{op}_{place.number}" if place.is_quantizable and not place.is_masked else None
                for place in places.values()
            }
            for place in places.values():
                name = names[place.number]
                if name is not None:
                    self.add_module(name, make_operation(op, place.tensors))
            if any(names.values()):
                self.sequences[op] = tuple(names[number] for number in record.order[op])

    def at(self, op: str, number: int) -> nn.Module | None:
        """The operation module of a call, None if there is none.

        Args:
            op: The function.
            number: How many calls of it there were before in this forward.
        """
        sequence = self.sequences.get(op)
        if sequence is None:
            return None
        if number >= len(sequence):
            period = _period(sequence)
            if period == 0:
                return None
            number = len(sequence) - period + (number - len(sequence)) % period
        name = sequence[number]
        return None if name is None else self._modules[name]


@cache
def _period(sequence: tuple[str | None, ...]) -> int:
    """Length of the shortest pattern that the sequence ends with twice; 0 if there is none."""
    length = len(sequence)
    for period in range(1, length // 2 + 1):
        if sequence[length - period :] == sequence[length - 2 * period : length - period]:
            return period
    return 0


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, (list, tuple)):
        return [each for item in value for each in _tensors(item)]
    if isinstance(value, dict):
        return [each for item in value.values() for each in _tensors(item)]
    return []


def _with_tensors(value: Any, source: Iterator[Tensor]) -> Any:
    """``value`` with its tensors, in the order of `_tensors`, replaced."""
    if isinstance(value, Tensor):
        return next(source)
    if isinstance(value, (list, tuple)):
        return type(value)([_with_tensors(each, source) for each in value])
    if isinstance(value, dict):
        return {key: _with_tensors(each, source) for key, each in value.items()}
    return value


class _Router(TorchFunctionMode):
    """Sends the calls of one forward to operation modules, or records them."""

    def __init__(self, operations: FunctionalOperations | None) -> None:
        super().__init__()
        self.operations = operations
        self.counts: dict[str, int] = {}
        self.order: dict[str, list[int]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        function = _FUNCTIONS.get(getattr(func, "__name__", ""))
        operations = self.operations
        if function is None:
            result = func(*args, **kwargs)
            if operations is not None and operations.record is not None:
                with torch._C.DisableTorchFunction():  # the modes further out would follow the following
                    operations.record.follow(result, args)
            return result
        op = function.op
        number = self.counts.get(op, 0)
        self.counts[op] = number + 1
        # What a function calls itself is part of it; and modes further out have nothing to do with this module.
        with torch._C.DisableTorchFunction():
            if operations is None:
                return func(*args, **kwargs)
            if operations.record is not None:
                return self._recorded(operations.record, func, op, args, kwargs)
            module = operations.at(op, number)
            if module is None or "out" in kwargs or not (operations.call_all or takes_part(module)):
                return func(*args, **kwargs)
            return _run(module, function, func, args, kwargs)

    def _recorded(
        self, record: _Record, func: Callable[..., Any], op: str, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        result = func(*args, **kwargs)
        key = _code_positions(sys._getframe(2))
        number = record.note(op, key, _tensors((args, kwargs)), result)
        order = self.order.setdefault(op, [])
        order.append(number)
        if len(order) > len(record.order.get(op, ())):
            record.order[op] = order
        return result


def _run(
    module: nn.Module, function: TorchFunction, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Any:
    """Calls an operation module instead of the function."""
    if module._spec.variadic_inputs:  # pyright: ignore[reportAttributeAccessIssue]
        result = module(*_tensors((args, kwargs)), call=partial(_call_with, func, args, kwargs))
    elif function.reverses:
        result = module(args[1], args[0], *args[2:], **kwargs)
    else:
        result = module(*args, **kwargs)
    return args[0].copy_(result) if function.in_place else result


def _call_with(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], tensors: tuple[Tensor, ...]
) -> Any:
    """The function with other tensors among its arguments."""
    new_args, new_kwargs = _with_tensors((args, kwargs), iter(tensors))
    return func(*new_args, **new_kwargs)


def _code_positions(frame: FrameType | None) -> tuple[tuple[CodeType, int], ...]:
    """Where a call comes from: code and position of each frame up to the module's own forward, torch's left out.

    Empty if a module in between makes the call, one that is excluded.
    """
    found: list[tuple[CodeType, int]] = []
    while frame is not None and frame.f_code is not _FORWARD_CODE:
        if frame.f_code is _CALL_CODE:
            return ()
        name = frame.f_globals.get("__name__", "")
        if name != "torch" and not name.startswith("torch.") and name != __name__:
            found.append((frame.f_code, frame.f_lasti))
        frame = frame.f_back
    return tuple(found)


_STRICT: Final = (
    "a strict export would lose quantized functional operations; got torch.export.export(..., strict=True), expected "
    "strict=False, which is torch's default; fix: leave strict out"
)
_CALL_CODE: Final = nn.Module._call_impl.__code__


@cache
def _routed(cls: type[nn.Module]) -> type[nn.Module]:
    """The class of the same name whose forward is routed."""

    def reduce(self: nn.Module, protocol: Any) -> Any:
        return _empty, (cls,), self.__getstate__()

    namespace = {
        "__module__": cls.__module__,
        "__qualname__": cls.__qualname__,
        "__doc__": cls.__doc__,
        "__reduce_ex__": reduce,
        "_routed_class": cls,
        "forward": _forward_like(cls),
    }
    metaclass: Any = type(cls)
    return metaclass(cls.__name__, (cls,), namespace)


def _forward_like(cls: type[nn.Module]) -> Callable[..., Any]:
    """The class's own forward inside of a router; with the same signature, which tools read."""
    own_forward: Callable[..., Any] = cls.forward

    @wraps(own_forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        operations: Any = self._modules.get(HOLDER)
        if operations is not None and torch.compiler.is_exporting() and torch.compiler.is_dynamo_compiling():
            raise RuntimeError(_STRICT)  # a compiler can follow no richer class
        with _Router(operations):
            return own_forward(self, *args, **kwargs)

    return forward


_FORWARD_CODE: Final = _forward_like(nn.Identity).__code__  # pyright: ignore[reportFunctionMemberAccess]


def _empty(cls: type[nn.Module]) -> nn.Module:
    routed = _routed(cls)
    return routed.__new__(routed)


def is_routed(module: nn.Module) -> bool:
    """Whether calls of torch functions in the module's forward are routed."""
    return hasattr(type(module), "_routed_class")


def route_functions(
    model: nn.Module, excluded: frozenset[str], example: object, run: Callable[[], object]
) -> Mapping[str, FunctionalOperations]:
    """Gives all modules that are not quantized themselves operation modules for the functions that they call.

    Args:
        model: The model; quantized modules in it are left as they are.
        excluded: Paths of modules whose own calls stay as they are.
        example: The example inputs.
        run: Runs the model on them.

    Returns:
        What was added, by path of the module that calls.
    """
    paths = dict(_outside_of_quantized(model))
    activations = _Activations()
    activations.add(example)
    hooks = []
    try:
        for path, module in paths.items():
            if isinstance(module, BaseQuantizationMixin):
                module.__dict__["_is_shielded"] = True
            elif _can_be_routed(module):
                module.__class__ = _routed(type(module))
                # What iterates over its children would run the operations.
                if path not in excluded and not isinstance(module, _CONTAINERS):
                    operations = FunctionalOperations()
                    operations.record = _Record(activations)
                    module.add_module(HOLDER, operations)
                    continue
            hooks.append(module.register_forward_hook(lambda module, args, output: activations.add(output)))
        run()
        found: dict[str, FunctionalOperations] = {}
        for path, module in paths.items():
            operations = module._modules.get(HOLDER)
            if isinstance(operations, FunctionalOperations) and operations.record is not None:
                operations.fill()
                operations.train(module.training)
                if operations.sequences:
                    found[path] = operations
                else:
                    del module._modules[HOLDER]
        return found
    except BaseException:
        unroute_functions(model)
        raise
    finally:
        for hook in hooks:
            hook.remove()


@contextmanager
def every_operation_called(model: nn.Module) -> Iterator[None]:
    """Inside, operation modules are called even if they do nothing, so that hooks see them."""
    holders = [module for module in model.modules() if isinstance(module, FunctionalOperations)]
    for holder in holders:
        holder.call_all = True
    try:
        yield
    finally:
        for holder in holders:
            holder.call_all = False


def unroute_functions(model: nn.Module) -> None:
    """Undoes `route_functions`: classes are as before, operation modules are gone."""
    for module in list(model.modules()):
        module.__dict__.pop("_is_shielded", None)
        if is_routed(module):
            module.__class__ = type(module)._routed_class  # pyright: ignore[reportAttributeAccessIssue]
            module._modules.pop(HOLDER, None)


_CONTAINERS: Final = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_OWN_FORWARDS: Final = (nn.Sequential.forward, nn.Module.forward)


def _can_be_routed(module: nn.Module) -> bool:
    """Whether the class has a forward that may call functions, and nothing stands before it.

    Not what could be quantized as a whole: it is not, because it is excluded.
    """
    return (
        "forward" not in module.__dict__
        and type(module).forward not in _OWN_FORWARDS
        and not is_routed(module)
        and not any(base in QuantizationMixin.cls_to_qcls for base in type(module).__mro__)
    )


def _outside_of_quantized(model: nn.Module) -> Iterable[tuple[str, nn.Module]]:
    """Modules by path, quantized ones included, but not what is inside of these."""
    inside: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if inside and path.startswith(inside):
            continue
        yield path, module
        if isinstance(module, BaseQuantizationMixin):
            inside = (*inside, f"{path}.")
