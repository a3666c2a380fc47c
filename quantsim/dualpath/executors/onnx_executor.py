"""Integer graphs on ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from quantsim.dualpath.executors.evaluation import Array, GraphExecutor, as_numpy, checked_cast
from quantsim.dualpath.integer_graph import IntegerGraph
from quantsim.dualpath.integer_onnx import integer_onnx_model
from quantsim.errors import ConfigurationError

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["OnnxRuntimeExecutor"]


class OnnxRuntimeExecutor(GraphExecutor):
    """Runs the ONNX model of an integer graph on the CPU.

    Args:
        graph: What to run.
        threads: Threads of one operator; ONNX Runtime's default if not given.

    Raises:
        ConfigurationError: ONNX or ONNX Runtime is not installed, or a node cannot be written.

    Example:
        >>> from quantsim.dualpath.integer_graph import Grid, IntegerNode, IntegerOp, Value
        >>> grid = Grid(scale=0.1, zero_point=0, low=-128, high=127)
        >>> graph = IntegerGraph(
        ...     nodes=(IntegerNode("relu", IntegerOp.CLAMP, ("x",), "y", attributes={"low": 0, "high": 127}),),
        ...     values={name: Value(name, (3,), "int8", grid) for name in ("x", "y")},
        ...     inputs=("x",),
        ...     outputs=("y",),
        ... )
        >>> OnnxRuntimeExecutor(graph)({"x": np.array([-5, 0, 5])})
        {'y': array([0, 0, 5], dtype=int8)}
    """

    name = "onnxruntime"

    def __init__(self, graph: IntegerGraph, threads: int | None = None) -> None:
        super().__init__(graph)
        self._threads = threads
        _runtime()

    @cached_property
    def _outputs_session(self) -> onnxruntime.InferenceSession:
        return self._session(all_values=False)

    @cached_property
    def _values_session(self) -> onnxruntime.InferenceSession:
        return self._session(all_values=True)

    def _session(self, *, all_values: bool) -> onnxruntime.InferenceSession:
        runtime = _runtime()
        options = runtime.SessionOptions()
        if self._threads is not None:
            options.intra_op_num_threads = self._threads
        model = integer_onnx_model(self.graph, all_values=all_values)
        return runtime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])

    def _run(self, inputs: Mapping[str, Array], batch: int, wanted: tuple[str, ...]) -> dict[str, Any]:
        values: dict[str, np.ndarray] = {
            name: checked_cast(as_numpy(array), self.graph.values[name].dtype) for name, array in inputs.items()
        }
        computed = list(dict.fromkeys(name for name in wanted if name not in values))
        if computed:
            complete = set(computed) <= set(self.graph.outputs)
            session = self._outputs_session if complete else self._values_session
            used = {argument.name for argument in session.get_inputs()}
            feeds = {name: array for name, array in values.items() if name in used}
            results = session.run(computed, feeds)
            values |= {name: np.asarray(result) for name, result in zip(computed, results, strict=True)}
        return {name: values[name] for name in wanted}


def _runtime() -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigurationError(
            "onnxruntime is not installed",
            where="executor 'onnxruntime'",
            expected="onnxruntime",
            fix="pip install 'quantsim[onnx]'",
        ) from error
    return onnxruntime
