"""Compares every integer node with fake quantization that is given the same inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch.fx.node import map_arg

from quantsim.dualpath.capture import QUANTIZER
from quantsim.dualpath.integer_codes import dequantize
from quantsim.dualpath.integer_model import IntegerModel
from quantsim.dualpath.quantizer_grids import codes_on_grid, grid_of
from quantsim.errors import ConfigurationError

__all__ = ["Agreement", "compare_with_fake_quantization"]


@dataclass(frozen=True)
class Agreement:
    """How far one value is from fake quantization.

    Attributes:
        place: Where the quantizer sits in the model.
        value: Name of the value in the integer graph.
        steps: Largest difference, in steps of the grid.
        share: Which part of the elements differ.
    """

    place: str
    value: str
    steps: int
    share: float


def compare_with_fake_quantization(
    integer: IntegerModel, inputs: object, *, executor: str = "numpy"
) -> tuple[Agreement, ...]:
    """Computes each quantizer of the simulation from the integers before it, and compares with the integers behind it.

    So an error counts where it is made, and is not carried on. What differs are exact ties, and the tables of softmax.

    Args:
        integer: From `to_integer`.
        inputs: The model's inputs; lengths other than that of the batch are those of the example.
        executor: Which executor runs the integer nodes.

    Raises:
        ConfigurationError: The model was read from a file, and there is nothing to compare with.
    """
    if integer.traced is None:
        raise ConfigurationError(
            "the integer model does not know what it was made from",
            where="compare_with_fake_quantization",
            got="a model without a trace",
            expected="the result of to_integer",
            fix="convert the simulation again",
        )
    traced = integer.traced
    leaves = integer.flat_inputs(inputs)
    values = integer.run_integers(inputs, executor)
    found: list[Agreement] = []
    known: dict[fx.Node, Any] = dict(zip(traced.inputs, leaves, strict=True))
    with torch.no_grad():
        for node in traced.graph_module.graph.nodes:
            if node.op == "output" or node in known:
                continue
            if node.op == "placeholder":
                known[node] = traced.constants[node.name]
            elif node.op == "get_attr":
                known[node] = _attribute(traced.graph_module, str(node.target))
            elif node.target is QUANTIZER:
                real = traced.quantizers[node.args[1]].map_to_grid(known[node.args[0]])
                name = integer.origins.get(node)
                if name is not None:
                    grid = integer.graph.values[name].grid
                    assert grid is not None
                    codes = values[name].astype(np.int64)
                    # The value's own grid may end earlier, where a clip was fused: that clip is compared too.
                    whole = grid_of(traced.quantizers[node.args[1]], tuple(real.shape))
                    difference = np.abs(codes_on_grid(real, whole) - codes)
                    share = float((difference > 0).mean()) if difference.size else 0.0
                    found.append(Agreement(traced.places[node.args[1]], name, int(difference.max(initial=0)), share))
                    real = dequantize(torch.from_numpy(codes), grid).to(real.dtype)
                known[node] = real
            else:
                known[node] = _computed(node, known)
    return tuple(found)


def _computed(node: fx.Node, known: dict[fx.Node, Any]) -> Tensor | Sequence[Any]:
    args, kwargs = map_arg((node.args, dict(node.kwargs)), known.__getitem__)
    assert callable(node.target)
    return node.target(*args, **kwargs)


def _attribute(root: Any, path: str) -> Any:
    for part in path.split("."):
        root = getattr(root, part)
    return root
