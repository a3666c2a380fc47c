"""One run of a model on example inputs: where tensors come from, and what computes outside quantizable modules.

Tensors are followed by identity. Two tensors are the same value if one is a view of the other and neither was written
since; so the input of a module is known to be the output of another one without tracing the model's Python code,
whatever that code is. Functional operations are seen through a :class:`torch.overrides.TorchFunctionMode`; they are
recorded, not quantized.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree
from torch.utils.weak import WeakTensorKeyDictionary

from quantsim.errors import ConfigurationError
from quantsim.sim.calibration import evaluation_mode
from quantsim.sim.example_inputs import ModelInputs
from quantsim.sim.leaf import Leaf
from quantsim.sim.module_kinds import ModuleKind
from quantsim.sim.operations import COPYING_OPERATIONS, GEMM_OPERATIONS, IGNORED_OPERATIONS, OPERATION_NAMES

__all__ = ["ExampleRun", "InputReference", "ModuleCall", "OutputReference", "UnquantizedOperation", "run_example"]


@dataclass(frozen=True)
class OutputReference:
    """One output of one module: where a tensor came from."""

    module: str
    index: int


@dataclass(frozen=True)
class InputReference:
    """One input of the model.

    Attributes:
        position: Place among the tensors of the arguments, positional ones first; -1 for keyword arguments.
        keyword: Name of a keyword argument, else empty.
    """

    position: int
    keyword: str = ""


@dataclass(frozen=True)
class UnquantizedOperation:
    """Floating-point arithmetic that no quantizable module does, so that no quantizer can sit there.

    Attributes:
        module: Path of the module in whose ``forward`` it happens; ``""`` is the whole model.
        module_type: Class name of that module.
        operation: Name of the torch function, such as ``scaled_dot_product_attention``.
        count: How often in the example run.
        multiplies: Matrix multiplications that one call stands for (2 for attention).
    """

    module: str
    module_type: str
    operation: str
    count: int
    multiplies: int = 0


@dataclass(frozen=True)
class ModuleInput:
    """What one module saw at one input position, over all its calls."""

    is_floating: bool
    producers: frozenset[OutputReference | InputReference | None]
    """Where it came from: a module's output, an input of the model, or None (a functional operation)."""


@dataclass
class ModuleCall:
    """What one leaf module saw and gave in the example run."""

    calls: int = 0
    inputs: dict[int, ModuleInput] = field(default_factory=dict)
    """By position among the tensors of the arguments, positional first, then keyword, in the order of the call."""
    outputs: dict[int, bool] = field(default_factory=dict)
    """Is the output at this position floating-point?"""
    input_dims: dict[int, int] = field(default_factory=dict)
    """Number of dimensions of the input at this position, in the last call."""
    output_dims: dict[int, int] = field(default_factory=dict)
    """Number of dimensions of the output at this position, in the last call."""
    consumers: set[str | None] = field(default_factory=set)
    """Modules that read an output; None is a functional operation, or the caller of the model."""

    def see_input(self, position: int, is_floating: bool, producer: OutputReference | InputReference | None) -> None:
        """Add what one call saw at one position."""
        before = self.inputs.get(position)
        producers = frozenset({producer}) if before is None else before.producers | {producer}
        self.inputs[position] = ModuleInput(is_floating or (before is not None and before.is_floating), producers)


@dataclass(frozen=True)
class ExampleRun:
    """The record of one run.

    Attributes:
        calls: By module path, for every leaf that was asked about.
        unquantized: Functional arithmetic outside those leaves.
        model_inputs: The tensors given to the model, in order.
        model_outputs: Where the tensors that it returned came from, in order.
    """

    calls: Mapping[str, ModuleCall]
    unquantized: tuple[UnquantizedOperation, ...]
    model_inputs: tuple[InputReference, ...] = ()
    model_outputs: tuple[OutputReference | InputReference | None, ...] = ()


def _tensors(value: object) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]


def _identity(tensor: Tensor) -> Tensor:
    base = tensor._base
    return tensor if base is None else base


def _writes(name: str) -> bool:
    """Whether an operation of that name writes into its first tensor, so that its value is no longer the producer's."""
    return name == "__setitem__" or (name.endswith("_") and not name.endswith("__"))


class _Recorder(TorchFunctionMode):
    """Follows tensors by identity and notes functional operations while no leaf module runs."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, ModuleCall] = {}
        self.operations: Counter[tuple[str, str]] = Counter()
        self.path: list[str] = []
        self.leaf_depth = 0
        self.model_inputs: tuple[InputReference, ...] = ()
        self._origin: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def origin_of(self, tensor: Tensor) -> OutputReference | InputReference | None:
        found = self._origin.get(_identity(tensor))
        if found is None or found[1] != tensor._version:
            return None
        return found[0]

    def set_origin(self, tensor: Tensor, reference: OutputReference | InputReference) -> None:
        self._origin[_identity(tensor)] = (reference, tensor._version)

    def mark_model_inputs(self, inputs: ModelInputs) -> None:
        named = [(InputReference(position), tensor) for position, tensor in enumerate(_tensors(inputs.args))]
        keywords = (inputs.kwargs or {}).items()
        named += [(InputReference(-1, keyword), value) for keyword, value in keywords if isinstance(value, Tensor)]
        for reference, tensor in named:
            self.set_origin(tensor, reference)
        self.model_inputs = tuple(reference for reference, _ in named)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if self.leaf_depth:
            return func(*args, **(kwargs or {}))
        name = getattr(func, "__name__", "")
        name = OPERATION_NAMES.get(name, name)
        if name in IGNORED_OPERATIONS:
            if _writes(name) and args and isinstance(args[0], Tensor):
                self.consume([self.origin_of(args[0])])
            return func(*args, **(kwargs or {}))
        inputs = [tensor for tensor in _tensors((args, kwargs or {})) if tensor.is_floating_point()]
        origins = [self.origin_of(tensor) for tensor in inputs]  # before, because the operation may write
        result = func(*args, **(kwargs or {}))
        outputs = [tensor for tensor in _tensors(result) if tensor.is_floating_point()] if inputs else []
        if outputs:
            self._note(name, inputs, origins, outputs)
        return result

    def consume(self, origins: Sequence[OutputReference | InputReference | None]) -> None:
        """Notes that something that is no module reads values."""
        for origin in origins:
            if isinstance(origin, OutputReference):
                self.calls[origin.module].consumers.add(None)

    def _note(
        self,
        name: str,
        inputs: Sequence[Tensor],
        origins: Sequence[OutputReference | InputReference | None],
        outputs: Sequence[Tensor],
    ) -> None:
        bases = {id(_identity(tensor)) for tensor in inputs}
        is_written = _writes(name)
        if not is_written and all(id(_identity(tensor)) in bases for tensor in outputs):
            return  # a view
        if name in COPYING_OPERATIONS:
            if origins[0] is not None and len(outputs) == 1:
                self.set_origin(outputs[0], origins[0])
            return
        self.consume(origins)
        self.operations[self.path[-1] if self.path else "", name.rstrip("_") if is_written else name] += 1


def _entering(recorder: _Recorder, path: str, leaf: Leaf | None) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        recorder.path.append(path)
        if leaf is None:
            return
        if recorder.leaf_depth == 0:
            call = recorder.calls.setdefault(path, ModuleCall())
            call.calls += 1
            for position, tensor in leaf.bind_inputs(args, kwargs):
                origin = recorder.origin_of(tensor)
                call.see_input(position, tensor.is_floating_point(), origin)
                call.input_dims[position] = tensor.dim()
                if isinstance(origin, OutputReference):
                    recorder.calls[origin.module].consumers.add(path)
        recorder.leaf_depth += 1

    return hook


def _leaving(recorder: _Recorder, path: str, leaf: Leaf | None) -> Callable[..., None]:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        recorder.path.pop()
        if leaf is None:
            return
        recorder.leaf_depth -= 1
        if recorder.leaf_depth:
            return
        call = recorder.calls[path]
        inputs = leaf.bind_inputs(args, kwargs) if leaf.kind is ModuleKind.GRID_KEEPING else []
        kept = recorder.origin_of(inputs[0][1]) if inputs else None
        for position, tensor in enumerate(_tensors(output)):
            call.outputs[position] = tensor.is_floating_point()
            call.output_dims[position] = tensor.dim()
            if tensor.is_floating_point():
                recorder.set_origin(tensor, kept or OutputReference(path, position))

    return hook


def run_example(
    model: nn.Module,
    inputs: ModelInputs,
    leaves: Sequence[Leaf],
) -> ExampleRun:
    """Run the model once, without gradients, in evaluation mode, and record.

    Training flags and hooks are as before afterwards, also when the model fails.

    Args:
        model: Model to run.
        inputs: What to run it on; moved to the model's device.
        leaves: Modules that are looked at from outside only (those that can be quantized).

    Raises:
        ConfigurationError: The model fails on these inputs.
    """
    paths = dict(model.named_modules())
    recorder = _Recorder()
    tensor = next(model.parameters(), next(model.buffers(), None))
    if tensor is not None:
        inputs = inputs.to(tensor.device)
    handles = []
    try:
        by_path = {leaf.path: leaf for leaf in leaves if leaf.kind is not ModuleKind.COMPOSITE}
        for path, module in paths.items():
            leaf = by_path.get(path)
            handles.append(
                module.register_forward_pre_hook(_entering(recorder, path, leaf), with_kwargs=True, prepend=True)
            )
            handles.append(module.register_forward_hook(_leaving(recorder, path, leaf), with_kwargs=True))
        recorder.mark_model_inputs(inputs)
        with evaluation_mode(model), torch.no_grad(), recorder:
            output = inputs.call(model)
        returned = tuple(recorder.origin_of(result) for result in _tensors(output))
        recorder.consume(returned)
    except Exception as error:
        where = f"module '{recorder.path[-1]}'" if recorder.path and recorder.path[-1] else "the model"
        raise ConfigurationError(
            "the model does not run on them",
            where="example_inputs",
            got=f"{type(error).__name__} in {where}: {error}",
            expected=f"inputs that {type(model).__name__} runs on",
            fix="give (args, kwargs) such that model(*args, **kwargs) works",
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    operations = tuple(
        UnquantizedOperation(path, type(paths[path]).__name__, name, count, GEMM_OPERATIONS.get(name, 0))
        for (path, name), count in recorder.operations.items()
    )
    return ExampleRun(recorder.calls, operations, recorder.model_inputs, returned)
