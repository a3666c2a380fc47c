"""What a chip folder is made from: an integer graph, and every value of it for the example inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import nn
from torch.utils import _pytree as pytree

from quantsim.dualpath.coverage import IntegerCoverage
from quantsim.dualpath.executors import as_numpy, create_executor
from quantsim.dualpath.integer_graph import IntegerGraph
from quantsim.errors import ConfigurationError
from quantsim.export.chip.manifest import ChipCoverage, FloatOperation
from quantsim.sim import QuantizationSimModel

__all__ = ["ChipSource", "chip_source"]


@dataclass(frozen=True)
class ChipSource:
    """A graph, every value of it for the example inputs, and what it came from.

    Attributes:
        graph: The graph.
        vectors: Its values by name.
        coverage: How much of the model it is.
        sim: The simulation that it was made from, if it was.
        example_inputs: What was given.
    """

    graph: IntegerGraph
    vectors: Mapping[str, np.ndarray]
    coverage: ChipCoverage | None = None
    sim: QuantizationSimModel | None = None
    example_inputs: object = None


def chip_source(model: Any, example_inputs: object, *, strict: bool) -> ChipSource:
    """The integer graph of a model, with all its values.

    Args:
        model: As for `quantsim.export.nn2chip`, as the next two.
        example_inputs: Of the model or the graph.
        strict: Refuse a model of which anything stays float.

    Raises:
        ConfigurationError: The model cannot be converted, or no example inputs were given that it needs.
    """
    if isinstance(model, IntegerGraph):
        if not isinstance(example_inputs, Mapping | list | tuple):
            raise ConfigurationError(
                "test vectors need integers for the graph's inputs",
                where="nn2chip(example_inputs)",
                got=type(example_inputs).__name__,
                expected=f"arrays for {', '.join(model.inputs)}",
            )
        values = create_executor(model, "numpy").all_values(example_inputs)
        return ChipSource(model, {name: as_numpy(array) for name, array in values.items()})
    from quantsim.dualpath import IntegerModel, to_integer

    if isinstance(model, IntegerModel):
        integer = model
    elif isinstance(model, QuantizationSimModel | nn.Module):
        if example_inputs is None:
            raise ConfigurationError(
                "the model is traced on example inputs",
                where="nn2chip(example_inputs)",
                got="None",
                expected="inputs as the simulation was made with",
            )
        integer = to_integer(model, example_inputs, strict=strict)
    else:
        raise ConfigurationError(
            where="nn2chip(model)",
            got=type(model).__name__,
            expected="a simulation, a model with quantizers, an IntegerModel or an IntegerGraph",
        )
    coverage = _coverage(integer.coverage)
    if strict and coverage.floating:
        raise ConfigurationError(
            "the model cannot be computed by integers alone",
            where="nn2chip(strict=True)",
            got=str(integer.coverage),
            expected="an integer form for every operation",
            fix="convert with to_integer(strict=True), which says how, or strict=False",
        )
    if not integer.graph.nodes:
        raise ConfigurationError(
            "nothing of the model is computed by integers",
            where="nn2chip(model)",
            got=str(integer.coverage),
            expected="at least one integer op",
            fix="simulate it with the preset integer_w8a8",
        )
    inputs = pytree.tree_unflatten(integer.example, integer.structure[0]) if example_inputs is None else example_inputs
    sim = model if isinstance(model, QuantizationSimModel) else None
    return ChipSource(integer.graph, integer.run_integers(inputs, "numpy"), coverage, sim, example_inputs)


def _coverage(coverage: IntegerCoverage) -> ChipCoverage:
    return ChipCoverage(
        integer=coverage.integer,
        total=coverage.total,
        integer_multiplications=coverage.integer_multiplications,
        multiplications=coverage.multiplications,
        floating=tuple(
            FloatOperation(module=each.module, operation=each.operation, reason=each.reason)
            for each in coverage.floating
        ),
    )
