"""Turns a calibrated simulation into an integer graph."""

from __future__ import annotations

from torch import fx, nn

from quantsim.dualpath import (
    lowering_attention,
    lowering_elementwise,
    lowering_moves,
    lowering_norms,
    lowering_products,
)
from quantsim.dualpath.capture import QUANTIZER, capture
from quantsim.dualpath.coverage import IntegerCoverage, find_coverage
from quantsim.dualpath.host_steps import HostStep, Levels, build_host_step, find_levels, host_nodes
from quantsim.dualpath.integer_graph import IntegerGraph
from quantsim.dualpath.integer_model import IntegerModel, Round
from quantsim.dualpath.lowered_values import Codes
from quantsim.dualpath.lowering import Lowering
from quantsim.errors import ConfigurationError
from quantsim.sim import QuantizationSimModel

__all__ = ["to_integer"]

_PARTS = (lowering_moves, lowering_elementwise, lowering_products, lowering_attention, lowering_norms)
_RULES = {target: rule for part in _PARTS for target, rule in part.RULES.items()}
_EMITTERS = {kind: emitter for part in _PARTS for kind, emitter in part.EMITTERS.items()}


def to_integer(
    sim_or_model: QuantizationSimModel | nn.Module,
    example_inputs: object,
    *,
    strict: bool = False,
    dynamic_batch: bool = True,
) -> IntegerModel:
    """Turns a calibrated model with quantizers into a graph of integer nodes.

    What lies between two quantizers becomes one node: a convolution with the norm, bias and clipping behind it, a sum,
    a softmax with the product by the values. Functions of 8-bit codes become tables, norms and softmax integer
    arithmetic, masks and positions are prepared by the host. What has no integer form stays float, is run by torch on
    real numbers, and is named with its reason in the coverage report.

    Args:
        sim_or_model: A simulation, or any model that holds quantizers; calibrated, and unchanged.
        example_inputs: As for a simulation. Lengths other than that of the batch are those of the examples.
        strict: Refuse a model of which anything stays float.
        dynamic_batch: Let the graph take any size of the batch, where the model can.

    Returns:
        The integer model.

    Raises:
        NotCalibratedError: A quantizer has no range.
        ConfigurationError: The model cannot be traced; a 32-bit sum could overflow; or, with ``strict``, something
            stays float.

    Example:
        >>> import torch
        >>> sim = QuantizationSimModel(
        ...     nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.zeros(1, 4), config="integer_w8a8"
        ... )
        >>> _ = sim.compute_encodings([torch.linspace(-1, 1, 32).reshape(8, 4)])
        >>> integer = to_integer(sim, torch.zeros(2, 4), strict=True)
        >>> [node.op.value for node in integer.graph.nodes], integer.coverage.integer
        (['linear'], 2)
    """
    model = sim_or_model.model if isinstance(sim_or_model, QuantizationSimModel) else sim_or_model
    made = _lowered(model, example_inputs, dynamic_batch) if dynamic_batch else None
    if made is None or not made.coverage.is_complete:
        fixed = _lowered(model, example_inputs, False)
        assert fixed is not None
        if made is None or fixed.coverage.integer > made.coverage.integer:
            made = fixed
    if strict and not made.coverage.is_complete:
        first = made.coverage.floating[0]
        raise ConfigurationError(
            "the model cannot be computed by integers alone",
            where="to_integer(strict=True)",
            got=str(made.coverage),
            expected="an integer form for every operation",
            fix=(
                f"begin with {first.operation} of '{first.module}': {first.reason}; the preset integer_w8a8 puts "
                "quantizers where integers need them; or strict=False, which runs it by torch"
            ),
        )
    return made


def _lowered(model: nn.Module, example_inputs: object, dynamic_batch: bool) -> IntegerModel | None:
    """The integer model; None if its batch cannot be left open."""
    try:
        captured = capture(model, example_inputs, dynamic_batch=dynamic_batch)
    except ConfigurationError:
        if dynamic_batch:
            return None
        raise
    if dynamic_batch and not captured.batch_symbols:
        return None
    lowering = Lowering(captured, _RULES, _EMITTERS, lowering_moves.MOVES, lowering_moves.MAKING)
    lowering.run()
    return _assembled(lowering)


def _assembled(lowering: Lowering) -> IntegerModel:
    captured = lowering.captured
    outputs: list[tuple[str, object]] = []
    roots: dict[str, tuple[fx.Node, None]] = {}
    for leaf in captured.outputs:
        form = lowering.forms.get(leaf) if isinstance(leaf, fx.Node) else None
        if isinstance(form, Codes):
            outputs.append(("value", form.value.name))
        elif isinstance(leaf, fx.Node):
            outputs.append(("result", len(roots)))
            roots[f"result_{len(roots)}"] = (leaf, None)
        else:
            outputs.append(("constant", leaf))
    _drop_unread(lowering, roots)
    levels = find_levels(lowering)
    on_host = host_nodes(
        lowering, [*(entry.node for entry in lowering.inputs.values()), *(node for node, _ in roots.values())]
    )
    results = build_host_step(lowering, roots) if roots else None
    leaving = tuple(dict.fromkeys(str(what) for kind, what in outputs if kind == "value"))
    steps = [_host_step(lowering, levels, number) for number in range(levels.count)]
    read = dict.fromkeys(name for step in (*steps, *((results,) if results else ())) for name in step.reads)
    graph = IntegerGraph(
        nodes=tuple(lowering.nodes),
        values=dict(lowering.values),
        inputs=tuple(lowering.inputs),
        outputs=tuple(dict.fromkeys((*leaving, *read))),
        batch=captured.batch,
    )
    coverage: IntegerCoverage = find_coverage(lowering, on_host)
    return IntegerModel(
        graph=graph,
        coverage=coverage,
        rounds=tuple(Round(step, _part(graph, levels, number)) for number, step in enumerate(steps)),
        results=results,
        outputs=tuple(outputs),
        example=captured.example,
        structure=captured.call,
        traced=captured,
        origins={
            node: form.value.name
            for node, form in lowering.forms.items()
            if node.target is QUANTIZER and isinstance(form, Codes) and form.value.name in lowering.values
        },
    )


def _host_step(lowering: Lowering, levels: Levels, number: int) -> HostStep:
    wanted = {
        name: (entry.node, entry.grid) for name, entry in lowering.inputs.items() if levels.values[name] == number
    }
    return build_host_step(lowering, wanted)


def _part(graph: IntegerGraph, levels: Levels, number: int) -> IntegerGraph:
    """The nodes of one round; the whole graph if there is only one."""
    if levels.count == 1:
        return graph
    nodes = tuple(node for node in graph.nodes if levels.values[node.output] == number)
    made = {node.output for node in nodes}
    inputs = tuple(dict.fromkeys(name for node in nodes for name in node.inputs if name not in made))
    values = {name: graph.values[name] for name in (*inputs, *(node.output for node in nodes))}
    return IntegerGraph(nodes, values, inputs, tuple(node.output for node in nodes), graph.batch)


def _drop_unread(lowering: Lowering, roots: dict[str, tuple[fx.Node, None]]) -> None:
    """Takes out integer nodes whose results nothing reads, such as those of attention that was fused later."""
    kept: set[str] = set()
    for leaf in lowering.captured.outputs:
        form = lowering.forms.get(leaf) if isinstance(leaf, fx.Node) else None
        if isinstance(form, Codes):
            kept.add(form.value.name)
    while True:
        before = len(kept)
        hosts = [node for node, _ in roots.values()]
        hosts += [entry.node for name, entry in lowering.inputs.items() if name in kept]
        for node in host_nodes(lowering, hosts) | set(hosts):
            for argument in (*node.all_input_nodes, node):
                form = lowering.forms.get(argument)
                if isinstance(form, Codes):
                    kept.add(form.value.name)
        for node in reversed(lowering.nodes):
            if node.output in kept:
                kept.update(node.inputs)
        if len(kept) == before:
            break
    lowering.nodes = [node for node in lowering.nodes if node.output in kept]
    lowering.inputs = {name: entry for name, entry in lowering.inputs.items() if name in kept}
    lowering.values = {name: value for name, value in lowering.values.items() if name in kept}
