"""Traces a calibrated simulation into a graph of ATen operations in which every quantizer is one node."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram
from torch.export.graph_signature import InputKind, OutputKind
from torch.utils import _pytree as pytree

from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.nn import compute_param_encodings
from quantsim.quantization.base import QuantizerBase
from quantsim.sim.calibration import evaluation_mode
from quantsim.sim.example_inputs import ModelInputs
from quantsim.sim.slots import shown
from quantsim.sim.stand_ins import replaced_quantizers

__all__ = ["QUANTIZER", "CapturedModel", "capture", "module_path"]


@torch.library.custom_op("quantsim::quantizer_node", mutates_args=())
def _quantizer_node(x: Tensor, key: int) -> Tensor:
    return x.clone()


@_quantizer_node.register_fake
def _quantizer_node_shape(x: Tensor, key: int) -> Tensor:
    return torch.empty_like(x)


QUANTIZER: Final = torch.ops.quantsim.quantizer_node.default
"""Target of the nodes that stand for quantizers; their second argument is a key of `CapturedModel.quantizers`."""


@dataclass(frozen=True)
class CapturedModel:
    """A model as a functional graph of ATen operations.

    Attributes:
        graph_module: The graph; placeholders are the model's tensors, then its inputs.
        constants: The model's tensors by placeholder: parameters, buffers, constants of its code.
        inputs: Placeholders of the inputs, in the order of the flattened arguments.
        outputs: Nodes, or constants, of the flattened result.
        quantizers: By key.
        places: Where each quantizer sits in the model, by key.
        example: The flattened example inputs.
        call: How arguments and results are flattened: the structures of inputs and of outputs.
        batch_symbols: Names of the size of the batch in shapes; none where it is fixed. (Inputs that never meet in an
            operation have a name each.)
        batch: The size of the batch of the example inputs.
    """

    graph_module: fx.GraphModule
    constants: Mapping[str, Tensor]
    inputs: tuple[fx.Node, ...]
    outputs: tuple[fx.Node | Any, ...]
    quantizers: Mapping[int, QuantizerBase]
    places: Mapping[int, str]
    example: tuple[Any, ...]
    call: tuple[pytree.TreeSpec, pytree.TreeSpec]
    batch_symbols: frozenset[str]
    batch: int


def capture(model: nn.Module, example_inputs: object, *, dynamic_batch: bool) -> CapturedModel:
    """Traces a calibrated model, in evaluation mode and without gradients; the model is unchanged.

    Args:
        model: Holds quantizers, all of them calibrated.
        example_inputs: As for a simulation.
        dynamic_batch: Whether the first dimension of the inputs may have any length.

    Raises:
        NotCalibratedError: A quantizer has no range.
        ConfigurationError: The model cannot be traced; says torch's reason.
    """
    inputs = ModelInputs.of(example_inputs)
    compute_param_encodings(model, overwrite=False)
    quantizers = [module for module in model.modules() if isinstance(module, QuantizerBase)]
    names = {module: path for path, module in model.named_modules() if isinstance(module, QuantizerBase)}
    _require_calibrated(names)
    keys = {quantizer: key for key, quantizer in enumerate(quantizers)}

    def forward_of(quantizer: QuantizerBase) -> Callable[[Tensor], Tensor]:
        return partial(_stand_in, keys[quantizer])

    args, kwargs = copy.deepcopy((inputs.args, dict(inputs.kwargs or {})))
    leaves = pytree.tree_leaves((args, kwargs))
    batch = _batch(leaves)
    if dynamic_batch and batch == 1:  # a traced length of 1 counts as fixed
        args, kwargs = pytree.tree_map_only(
            Tensor, lambda leaf: torch.cat([leaf, leaf]) if leaf.dim() and leaf.shape[0] == 1 else leaf, (args, kwargs)
        )
    sizes = _dynamic_sizes(model, args, kwargs, 2 if batch == 1 else batch) if dynamic_batch else None
    with (
        evaluation_mode(model),
        torch.no_grad(),
        replaced_quantizers(model, forward_of),
        warnings.catch_warnings(),
    ):
        warnings.filterwarnings("ignore", message=".*treespec, LeafSpec.*", category=FutureWarning)  # torch's own
        try:
            program = torch.export.export(model, args, kwargs, dynamic_shapes=sizes, strict=False)
            program = program.run_decompositions({})
        except Exception as error:  # whatever of the model's code does not trace, torch has many words for it
            lines = str(error).strip().splitlines() or [repr(error)]
            raise ConfigurationError(
                "torch.export cannot trace the model",
                where="to_integer",
                got=f"{type(error).__name__}: {lines[0]}",
                expected="a model without decisions on values",
                fix="does torch.export.export(model, args, kwargs) work on the float model? If not, see torch's advice",
            ) from error
    return _captured(program, dict(enumerate(quantizers)), {keys[q]: name for q, name in names.items()}, leaves, batch)


def module_path(node: fx.Node) -> str:
    """Path of the module whose code made a node; empty for the model's own."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if not path.startswith("_empty_nn_module_stack")]
    return paths[-1] if paths else ""


def _stand_in(key: int, x: Tensor) -> Tensor:
    return torch.ops.quantsim.quantizer_node(x, key) if x.is_floating_point() else x


def _require_calibrated(names: Mapping[QuantizerBase, str]) -> None:
    missing = [
        name for quantizer, name in names.items() if quantizer.needs_calibration and not quantizer.is_initialized()
    ]
    if missing:
        raise NotCalibratedError(
            "the model is not calibrated",
            where="to_integer",
            got=f"{len(missing)} quantizers without a range: {shown(missing)}",
            expected="a range for every quantizer",
            fix="run sim.compute_encodings(data), or load_encodings(path)",
        )


def _batch(leaves: list[Any]) -> int:
    return next((leaf.shape[0] for leaf in leaves if isinstance(leaf, Tensor) and leaf.dim()), 1)


def _dynamic_sizes(model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], batch: int) -> dict[str, Any]:
    """The first dimension of every tensor that is as long as the batch, by the names of the model's arguments."""
    bound = inspect.signature(model.forward).bind(*args, **kwargs)

    def of(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            return {0: Dim.AUTO} if leaf.dim() and leaf.shape[0] == batch else {}
        return None

    return {name: pytree.tree_map(of, value) for name, value in _flat_arguments(model, bound).items()}


def _flat_arguments(model: nn.Module, bound: inspect.BoundArguments) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            found.update(value)
        else:
            found[name] = value
    return found


def _captured(
    program: ExportedProgram,
    quantizers: Mapping[int, QuantizerBase],
    places: Mapping[int, str],
    leaves: list[Any],
    batch: int,
) -> CapturedModel:
    graph = program.graph_module.graph
    placeholders = {node.name: node for node in graph.nodes if node.op == "placeholder"}
    constants: dict[str, Tensor] = {}
    inputs: list[fx.Node] = []
    for spec in program.graph_signature.input_specs:
        name = spec.arg.name
        if spec.kind is InputKind.USER_INPUT:
            inputs.append(placeholders[name])
        elif spec.target is not None:
            tensors = program.state_dict if spec.target in program.state_dict else program.constants
            tensor = tensors[spec.target]
            if isinstance(tensor, Tensor):
                constants[name] = tensor.detach()
    _simplify(graph, inputs)
    output = next(node for node in graph.nodes if node.op == "output")
    user = [
        value
        for spec, value in zip(program.graph_signature.output_specs, output.args[0], strict=True)
        if spec.kind is OutputKind.USER_OUTPUT
    ]
    symbols = {symbol for symbol in map(_batch_symbol, inputs) if symbol is not None}
    structures = (program.call_spec.in_spec, program.call_spec.out_spec)
    assert structures[0] is not None
    assert structures[1] is not None
    return CapturedModel(
        graph_module=program.graph_module,
        constants=constants,
        inputs=tuple(inputs),
        outputs=tuple(user),
        quantizers=quantizers,
        places=places,
        example=tuple(leaves),
        call=(structures[0], structures[1]),
        batch_symbols=frozenset(symbols),
        batch=batch,
    )


def _batch_symbol(node: fx.Node) -> str | None:
    """Name of the first length of an input, if it may vary."""
    value = node.meta.get("val")
    if not isinstance(value, Tensor) or not value.dim():
        return None
    length: Any = value.shape[0]
    return None if isinstance(length, int) else str(length.node.expr)


def _simplify(graph: fx.Graph, inputs: list[fx.Node]) -> None:
    """Sizes of the batch are read from an input, equal operations are one, assertions are gone."""
    sizes: dict[str, fx.Node] = {}
    for node in inputs:
        symbol = _batch_symbol(node)
        if symbol is not None and symbol not in sizes:
            with graph.inserting_after(inputs[-1]):
                sizes[symbol] = graph.call_function(torch.ops.aten.sym_size.int, (node, 0))
            sizes[symbol].meta["val"] = node.meta["val"].shape[0]
    known: dict[Any, fx.Node] = {}
    for node in list(graph.nodes):
        if node.op != "call_function":
            continue
        if node.target is torch.ops.aten.sym_size.int:
            size = sizes.get(str(getattr(getattr(node.meta.get("val"), "node", None), "expr", None)))
            if size is not None and size is not node:
                node.replace_all_uses_with(size)
            continue
        if "assert" in str(node.target):
            graph.erase_node(node)
            continue
        key = (node.target, str(node.args), str(sorted(node.kwargs.items())))
        earlier = known.setdefault(key, node)
        if earlier is not node:
            node.replace_all_uses_with(earlier)
    graph.eliminate_dead_code()
