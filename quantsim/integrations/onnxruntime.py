"""ONNX Runtime: options under which it computes what the graph says, and comparison with a simulation.

ONNX Runtime fuses QuantizeLinear and DequantizeLinear with what stands between them into integer operators. On x86
processors without VNNI their product of unsigned and signed bytes adds pairs in 16 bits, which saturates: results are
then wrong by many steps of the grid. `session_options` leaves the graph as it is written; the other ways out are
``export_onnx(..., unsigned_weights=True)``, and weights that use half of their range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quantsim.errors import ConfigurationError
from quantsim.export.onnx import read_name_map
from quantsim.export.onnx_names import QUANTIZER_PLACE
from quantsim.quantization.affine.base import AffineQuantizerBase
from quantsim.quantization.base import QuantizerBase
from quantsim.sim.calibration import evaluation_mode
from quantsim.sim.example_inputs import ModelInputs
from quantsim.sim.simulation import QuantizationSimModel
from quantsim_encodings.formats import FloatFormat, IntFormat

if TYPE_CHECKING:
    import onnx
    import onnxruntime

__all__ = ["QuantizerComparison", "compare_quantizers", "run_onnx", "session_options"]


def session_options(*, fuse: bool = False, threads: int | None = None) -> onnxruntime.SessionOptions:
    """Options of an ONNX Runtime session for an exported simulation.

    Args:
        fuse: Let ONNX Runtime compute in integers where it can; with its slower products that do not saturate, where
            the processor needs them. False: Q and DQ are computed as written, everything between them in floating
            point, which is what the simulation does.
        threads: Threads of one operator; ONNX Runtime's default if not given.

    Example:
        >>> options = session_options()  # doctest: +SKIP
        >>> session = onnxruntime.InferenceSession("model.onnx", options)  # doctest: +SKIP
    """
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.add_session_config_entry(
        *(("session.x64quantprecision", "1") if fuse else ("session.disable_quant_qdq", "1"))
    )
    if threads is not None:
        options.intra_op_num_threads = threads
    return options


def run_onnx(
    path: str | Path, inputs: object, options: onnxruntime.SessionOptions | None = None
) -> dict[str, np.ndarray]:
    """Runs an exported graph once on the CPU.

    Args:
        path: The ONNX file.
        inputs: As the simulation's example inputs: tensors are given to the graph's inputs in their order, those of a
            mapping by name.
        options: Of the session; `session_options` by default.

    Returns:
        The outputs by name.

    Raises:
        ConfigurationError: There are not as many tensors as the graph has inputs.
    """
    runtime = _onnxruntime()
    session = runtime.InferenceSession(
        str(path), session_options() if options is None else options, providers=["CPUExecutionProvider"]
    )
    names = [each.name for each in session.get_inputs()]
    feed = _feed(names, ModelInputs.of(inputs))
    outputs = [each.name for each in session.get_outputs()]
    return dict(zip(outputs, session.run(outputs, feed), strict=True))


def _feed(names: Sequence[str], inputs: ModelInputs) -> dict[str, np.ndarray]:
    keywords = dict(inputs.kwargs or {})
    by_name = {name: value for name, value in keywords.items() if name in names and isinstance(value, Tensor)}
    rest = {name: value for name, value in keywords.items() if name not in by_name}
    others = [value for value in pytree.tree_leaves((inputs.args, rest)) if isinstance(value, Tensor)]
    free = [name for name in names if name not in by_name]
    if len(others) != len(free):
        raise ConfigurationError(
            "the inputs do not fit the graph",
            where="run_onnx(inputs)",
            got=f"{len(others) + len(by_name)} tensors",
            expected=f"{len(names)}: {', '.join(names)}",
        )
    return {name: value.detach().cpu().numpy() for name, value in (*by_name.items(), *zip(free, others, strict=True))}


# ---------------------------------------------------------------- comparison


@dataclass(frozen=True)
class QuantizerComparison:
    """One quantizer, in ONNX Runtime and in the simulation, with the same input.

    Attributes:
        place: Where it sits.
        elements: How many numbers were compared.
        differing: How many differ by more than the rounding of one multiplication.
        steps: Largest difference, in steps of the grid.
    """

    place: str
    elements: int
    differing: int
    steps: float


def compare_quantizers(sim: QuantizationSimModel, path: str | Path, inputs: object) -> tuple[QuantizerComparison, ...]:
    """Compares every quantizer of an exported graph with that of the simulation, each given the simulation's tensor.

    End to end, small differences of sums (which every program adds in another order) grow into other codes further
    down; quantizer by quantizer they cannot.

    Args:
        sim: The simulation that was exported.
        path: The ONNX file.
        inputs: As the simulation's example inputs.

    Returns:
        One comparison for each quantizer that the inputs reach, at its first call.

    Example:
        >>> worst = max(
        ...     compare_quantizers(sim, "model.onnx", batch), key=lambda each: each.steps
        ... )  # doctest: +SKIP
    """
    import onnx

    seen = _observed(sim, ModelInputs.of(inputs))
    model = onnx.load(str(path))
    pieces, places = _pieces(model, read_name_map(path))
    runtime = _onnxruntime()
    options = runtime.SessionOptions()
    options.graph_optimization_level = runtime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = runtime.InferenceSession(pieces.SerializeToString(), options, providers=["CPUExecutionProvider"])
    feed: dict[str, np.ndarray] = {}
    wanted: dict[str, str] = {}
    for place, (source, result) in places.items():
        if place in seen:
            if source is not None:
                feed[source] = seen[place][0].numpy()
            wanted[place] = result
    for each in session.get_inputs():  # of quantizers that the inputs do not reach
        feed.setdefault(each.name, np.zeros((1,) * max(len(each.shape or ()), 1), np.float32))
    results = session.run(list(wanted.values()), {each.name: feed[each.name] for each in session.get_inputs()})
    quantizers = dict(sim.quantizers())
    return tuple(
        _compared(place, quantizers[place], seen[place][0], seen[place][1], torch.from_numpy(np.asarray(result)))
        for place, result in zip(wanted, results, strict=True)
    )


def _observed(sim: QuantizationSimModel, inputs: ModelInputs) -> dict[str, tuple[Tensor, Tensor]]:
    """What each quantizer reads and gives at its first call."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def hook(place: str) -> Any:
        def note(_: Any, args: tuple[Tensor, ...], result: Tensor) -> None:
            seen.setdefault(place, (args[0].detach().clone(), result.detach().clone()))

        return note

    handles = [quantizer.register_forward_hook(hook(place)) for place, quantizer in sim.quantizers()]
    try:
        with evaluation_mode(sim.model), torch.no_grad():
            inputs.call(sim)
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _pieces(
    model: onnx.ModelProto, name_map: Mapping[str, Sequence[str]]
) -> tuple[onnx.ModelProto, dict[str, tuple[str | None, str]]]:
    """A graph of the quantizers only, and name of input (None for constants) and result of each place."""
    from onnx import TensorProto, helper

    groups: dict[str, list[Any]] = {}
    for node in model.graph.node:
        place = next((item.value for item in node.metadata_props if item.key == QUANTIZER_PLACE), None)
        if place is not None:
            groups.setdefault(place, []).append(node)
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes: list[Any] = []
    needed: dict[str, Any] = {}
    ends: dict[str, tuple[str | None, str]] = {}
    inputs: dict[str, str] = {}
    for number, (place, group) in enumerate(groups.items()):
        produced: set[str] = set()
        source: str | None = None
        used: list[Any] = []
        for node in group:
            outside = [name for name in node.input if name and name not in produced and name not in constants]
            if outside and source is None:
                source = outside[0]
            if any(name != source for name in outside) or (used and not outside and not produced & set(node.input)):
                continue  # of a later call
            used.append(node)
            produced.update(node.output)
        for node in used:
            copy = type(node)()
            copy.CopyFrom(node)
            for index, name in enumerate(copy.input):
                if name in constants:
                    needed[name] = constants[name]
                elif name:
                    copy.input[index] = f"q{number}/{name}"
            for index, name in enumerate(copy.output):
                copy.output[index] = f"q{number}/{name}"
            nodes.append(copy)
        if source is not None:
            inputs[place] = f"q{number}/{source}"
        ends[place] = (inputs.get(place), f"q{number}/{used[-1].output[0]}")
    for places in name_map.values():  # quantizers of one tensor with equal encodings are one in the graph
        end = next((ends[place] for place in places if place in ends), None)
        if end is not None:
            for place in places:
                ends.setdefault(place, end)
    graph = helper.make_graph(
        nodes,
        "quantizers",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs.values()],
        [
            helper.make_tensor_value_info(result, TensorProto.FLOAT, None)
            for result in dict.fromkeys(result for _, result in ends.values())
        ],
        initializer=list(needed.values()),
    )
    return (
        helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version),
        ends,
    )


def _compared(place: str, quantizer: QuantizerBase, x: Tensor, expected: Tensor, result: Tensor) -> QuantizerComparison:
    difference = (expected.double() - result.double()).abs()
    magnitude = torch.maximum(expected.abs(), result.abs()).double()
    steps = difference / _step(quantizer, x, magnitude)
    differing = int((difference > 4 * torch.finfo(torch.float32).eps * magnitude).sum())
    return QuantizerComparison(place, expected.numel(), differing, float(steps.max()) if steps.numel() else 0.0)


def _step(quantizer: QuantizerBase, x: Tensor, magnitude: Tensor) -> Tensor:
    """How far neighbouring numbers of the grid lie apart, in the shape of ``x`` or one that broadcasts to it."""
    if isinstance(quantizer, AffineQuantizerBase):
        scale = quantizer.get_scale()
        assert scale is not None
        scale = scale.detach().double()
        # Finest step where blocks do not broadcast; differences then count for more, not less.
        return scale if quantizer.block_size is None else scale.min()
    if isinstance(quantizer.format, IntFormat):
        rows = x.double()
        span = rows.amax(-1, keepdim=True).clamp(min=0) - rows.amin(-1, keepdim=True).clamp(max=0)
        return (span / (quantizer.format.qmax - quantizer.format.qmin)).clamp(min=torch.finfo(torch.float32).tiny)
    bits = quantizer.format.mantissa_bits if isinstance(quantizer.format, FloatFormat) else 0
    return torch.exp2(torch.floor(torch.log2(magnitude.clamp(min=torch.finfo(torch.float32).tiny))) - bits)


def _onnxruntime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigurationError(
            "onnxruntime is not installed",
            where="quantsim.integrations.onnxruntime",
            got=str(error),
            expected="onnxruntime",
            fix="pip install 'quantsim[onnx]'",
        ) from error
    return onnxruntime
