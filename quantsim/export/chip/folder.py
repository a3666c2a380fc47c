"""Reads chip folders, and proves that their integers follow from each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from quantsim.dualpath.executors import GraphExecutor, Inputs, as_numpy, create_executor
from quantsim.dualpath.integer_graph import IntegerGraph, IntegerNode
from quantsim.errors import ConfigurationError
from quantsim.export.chip.graph_data import graph_of
from quantsim.export.chip.manifest import ChipManifest, ChipMemory
from quantsim.export.chip.memory_files import decode_memory

__all__ = [
    "INTEGER_ONNX_FILE",
    "QDQ_ONNX_FILE",
    "VECTORS_FILE",
    "WEIGHTS_FILE",
    "ChipFolder",
    "Difference",
    "Replay",
    "load_chip",
]

WEIGHTS_FILE: Final = "weights.safetensors"
VECTORS_FILE: Final = "vectors.safetensors"
INTEGER_ONNX_FILE: Final = "model.onnx"
QDQ_ONNX_FILE: Final = "qdq/model.onnx"


@dataclass(frozen=True)
class Difference:
    """A value that an executor computed otherwise than the folder says.

    Attributes:
        node: Name of the node that made it, from the inputs that the folder holds.
        op: What it computes.
        value: Name of the value.
        count: How many integers differ.
        largest: By how much at most.
    """

    node: str
    op: str
    value: str
    count: int
    largest: int

    def __str__(self) -> str:
        """In words."""
        return f"node '{self.node}' ({self.op}): {self.count} integers differ, by up to {self.largest}"


@dataclass(frozen=True)
class Replay:
    """What came of computing a folder's test vectors again.

    Attributes:
        executor: What computed them.
        nodes: How many nodes.
        integers: How many integers were compared.
        memories: How many memory files were read back and hold what the tensors do.
        differences: Values that differ.
    """

    executor: str
    nodes: int
    integers: int
    memories: int
    differences: tuple[Difference, ...] = ()

    @property
    def is_exact(self) -> bool:
        """Whether every integer was reproduced."""
        return not self.differences

    def __str__(self) -> str:
        """In words.

        Example:
            >>> print(Replay("numpy", nodes=2, integers=10, memories=6))
            exact: executor 'numpy' reproduced 10 integers of 2 nodes; 6 memory files hold the same
        """
        if self.is_exact:
            return (
                f"exact: executor '{self.executor}' reproduced {self.integers} integers of {self.nodes} nodes; "
                f"{self.memories} memory files hold the same"
            )
        lines = [f"not exact: executor '{self.executor}' computed {len(self.differences)} values otherwise"]
        return "\n".join((*lines, *(f"  {difference}" for difference in self.differences)))


@dataclass(frozen=True)
class ChipFolder:
    """What `quantsim.export.nn2chip` wrote.

    Attributes:
        path: The folder.
        manifest: Everything but the integers.
        graph: The integer graph, constants and all.
    """

    path: Path
    manifest: ChipManifest
    graph: IntegerGraph

    def __call__(self, inputs: Inputs, executor: str = "numpy") -> dict[str, np.ndarray]:
        """The graph's outputs by name.

        Args:
            inputs: Integers for the graph's inputs, by name or in order.
            executor: What computes them.
        """
        return {name: as_numpy(array) for name, array in self.executor(executor)(inputs).items()}

    def executor(self, name: str = "numpy", **options: Any) -> GraphExecutor:
        """An executor of the graph.

        Args:
            name: As for `quantsim.dualpath.executors.create_executor`.
            **options: Of the executor.
        """
        return create_executor(self.graph, name, **options)

    @cached_property
    def vectors(self) -> dict[str, np.ndarray]:
        """The test vectors: every value of the graph, by name."""
        vectors = _tensors(self.path / VECTORS_FILE)
        for value in self.manifest.values:
            found = vectors.get(value.name)
            if found is None or found.shape != value.memory.layout.shape or found.dtype != value.dtype:
                raise ConfigurationError(
                    "a test vector is not the one that the manifest describes",
                    where=f"{self.path / VECTORS_FILE}, value '{value.name}'",
                    got="none" if found is None else f"{found.dtype} of shape {found.shape}",
                    expected=f"{value.dtype} of shape {value.memory.layout.shape}",
                )
        return vectors

    def node(self, name: str) -> IntegerNode:
        """A node by its name.

        Raises:
            ConfigurationError: There is none.
        """
        for node in self.graph.nodes:
            if node.name == name:
                return node
        names = ", ".join(node.name for node in self.graph.nodes[:20])
        raise ConfigurationError(where=str(self.path), got=f"node '{name}'", expected=f"one of {names}")

    def verify(self, executor: str = "numpy", **options: Any) -> Replay:
        """Reads all memory files back, and computes all test vectors again.

        Args:
            executor: What computes them; ``"onnxruntime"`` also runs the folder's ONNX file.
            **options: Of the executor.

        Raises:
            ConfigurationError: A memory file holds other integers than the tensors.
        """
        vectors = self.vectors
        memories = self._check_memories(vectors)
        inputs = {name: vectors[name] for name in self.graph.inputs}
        computed = {
            name: as_numpy(array) for name, array in self.executor(executor, **options).all_values(inputs).items()
        }
        if executor == "onnxruntime":
            computed |= self._run_onnx_file(inputs)
        differing = [node for node in self.graph.nodes if not _equal(computed[node.output], vectors[node.output])]
        differences = [self._difference(node, vectors, computed, executor, options) for node in differing]
        return Replay(
            executor=executor,
            nodes=len(self.graph.nodes),
            integers=sum(vectors[node.output].size for node in self.graph.nodes),
            memories=memories,
            differences=tuple(difference for difference in differences if difference is not None),
        )

    def _difference(
        self,
        node: IntegerNode,
        vectors: Mapping[str, np.ndarray],
        computed: Mapping[str, np.ndarray],
        executor: str,
        options: Mapping[str, Any],
    ) -> Difference | None:
        """What is wrong at a node itself; None if only its inputs were wrong."""
        expected = vectors[node.output]
        found = computed[node.output]
        if not all(_equal(computed[name], vectors[name]) for name in node.inputs):
            inputs = {name: vectors[name] for name in node.inputs}
            alone = IntegerGraph((node,), self.graph.values, tuple(inputs), (node.output,), self.graph.batch)
            found = as_numpy(create_executor(alone, executor, **options)(inputs)[node.output])
            if _equal(found, expected):
                return None
        apart = np.abs(found.astype(np.int64) - expected.astype(np.int64))
        return Difference(node.name, node.op.value, node.output, int((apart > 0).sum()), int(apart.max(initial=0)))

    def _run_onnx_file(self, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        path = self.path / INTEGER_ONNX_FILE
        if INTEGER_ONNX_FILE not in self.manifest.files:
            return {}
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        wanted = [output.name for output in session.get_outputs()]
        read = {each.name for each in session.get_inputs()}
        found = session.run(wanted, {name: array for name, array in inputs.items() if name in read})
        return {name: np.asarray(array) for name, array in zip(wanted, found, strict=True)}

    def _check_memories(self, vectors: Mapping[str, np.ndarray]) -> int:
        count = 0
        for value in self.manifest.values:
            count += self._check_memory(value.memory, vectors[value.name])
        for described, node in zip(self.manifest.nodes, self.graph.nodes, strict=True):
            for key, constant in described.constants.items():
                count += self._check_memory(constant.memory, np.asarray(node.constants[key]))
        return count

    def _check_memory(self, memory: ChipMemory, array: np.ndarray) -> int:
        for form, name in memory.files.items():
            try:
                found = decode_memory((self.path / name).read_bytes(), memory.layout, form)
            except ConfigurationError as error:
                raise error.with_location(str(self.path / name)) from None
            if not _equal(found, array):
                raise ConfigurationError(
                    "the memory holds other integers than the tensors",
                    where=str(self.path / name),
                    got=f"{int((found != array).sum())} of {array.size} that differ",
                    expected=f"those of {WEIGHTS_FILE} or {VECTORS_FILE}",
                    fix="export the model again",
                )
        return len(memory.files)

    def __str__(self) -> str:
        """What is in the folder, in a few lines."""
        manifest = self.manifest
        size = sum(file.bytes for file in manifest.files.values())
        counts = f"{len(manifest.nodes)} integer nodes, {len(manifest.values)} test vectors"
        lines = [f"{self.path}: {counts}, {len(manifest.files) + 1} files, {size / 2**20:.1f} MiB"]
        coverage = manifest.coverage
        if coverage is not None:
            lines.append(
                f"integer coverage: {coverage.integer} of {coverage.total} operations, "
                f"{coverage.integer_multiplications} of {coverage.multiplications} multiply-accumulates"
            )
            lines += [f"  float: {each.operation} of '{each.module}': {each.reason}" for each in coverage.floating]
        return "\n".join((*lines, *(f"note: {note}" for note in manifest.notes)))


def load_chip(folder: str | Path) -> ChipFolder:
    """Reads a folder that `quantsim.export.nn2chip` wrote; every file is checked against its digest first.

    Args:
        folder: The folder.

    Returns:
        Its graph, which every executor runs, its test vectors, and all that the manifest says.

    Raises:
        ConfigurationError: No such folder, an export that was not finished, or files that are missing or were changed;
            all of them are named.
    """
    path = Path(folder)
    manifest = ChipManifest.read(path)
    manifest.require_files(path)
    return ChipFolder(path, manifest, graph_of(manifest, _tensors(path / WEIGHTS_FILE)))


def _tensors(path: Path) -> dict[str, np.ndarray]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(
            "the tensors cannot be read",
            where=str(path),
            got=" ".join(str(error).split()),
            expected="a safetensors file",
            fix="export the model again",
        ) from None


def _equal(left: np.ndarray, right: np.ndarray) -> bool:
    return left.shape == right.shape and bool((left == right).all())
