"""Writes chip folders: memory images, test vectors, ONNX files and a manifest for hardware that computes integers."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
from safetensors.numpy import save_file

from quantsim.dualpath.integer_graph import IntegerNode
from quantsim.errors import ConfigurationError, QuantsimError
from quantsim.export.chip.folder import (
    INTEGER_ONNX_FILE,
    QDQ_ONNX_FILE,
    VECTORS_FILE,
    WEIGHTS_FILE,
    ChipFolder,
    load_chip,
)
from quantsim.export.chip.formulas import formulas_of
from quantsim.export.chip.graph_data import (
    constant_layout,
    plain_attribute,
    plain_grid,
    plain_shape,
    stored_constant,
    value_layout,
)
from quantsim.export.chip.manifest import (
    ChipConstant,
    ChipFile,
    ChipManifest,
    ChipMemory,
    ChipNode,
    ChipValue,
    digest_of_file,
)
from quantsim.export.chip.memory_files import SUFFIXES, MemoryFormat, encode_memory
from quantsim.export.chip.memory_layout import MemoryLayout, MemoryTiling
from quantsim.export.chip.sources import ChipSource, chip_source
from quantsim.export.chip.staging import require_place, staging_folder

__all__ = ["nn2chip"]

_LARGEST_ONNX: Final = 1_800_000_000
_LONGEST_NAME: Final = 120


def nn2chip(
    model: Any,
    folder: str | Path,
    example_inputs: object = None,
    *,
    tiling: MemoryTiling | None = None,
    formats: Collection[MemoryFormat | str] = tuple(MemoryFormat),
    onnx: bool | None = None,
    strict: bool = False,
    overwrite: bool = False,
) -> ChipFolder:
    """Writes all that hardware needs to compute a model in integers, and to prove that it does.

    The folder holds ``manifest.json`` (ops in order with their numbers, how memories are laid out, the SHA-256 of each
    file), ``weights.safetensors``, ``mem/`` (each constant as a memory), ``vectors.safetensors`` and ``vectors/`` (each
    value between two ops for the example inputs), ``model.onnx`` (the same integers for ONNX Runtime) and, for a
    simulation, ``qdq/model.onnx`` (floating point with quantizers). It appears whole or not at all: it is written under
    another name, read back, its memories decoded and its vectors computed again by the NumPy executor, and only then
    renamed.

    Args:
        model: A calibrated simulation or model with quantizers, the `quantsim.dualpath.IntegerModel` that was made of
            one, or an `quantsim.dualpath.IntegerGraph`.
        folder: Where to.
        example_inputs: What the test vectors are computed for, and a simulation is traced on: inputs of the model, or
            of the graph, by name or in order. By default an integer model's own.
        tiling: How memories are cut for the array of processing elements; 16 by 16 by default.
        formats: Which of ``"hex"``, ``"bin"`` and ``"decimal"`` each memory is written in.
        onnx: Whether to write ONNX files. By default yes, where they can be; what cannot is noted in the manifest.
        strict: Refuse a model of which anything stays float.
        overwrite: Replace the folder of an earlier export.

    Returns:
        The folder, read back.

    Raises:
        ConfigurationError: The folder is there already; the model cannot be converted; or ``onnx`` is asked for and
            cannot be written.
        NotCalibratedError: A quantizer has no range.

    Example:
        >>> import tempfile, torch
        >>> from torch import nn
        >>> from quantsim.sim import QuantizationSimModel
        >>> sim = QuantizationSimModel(
        ...     nn.Sequential(nn.Linear(4, 3), nn.ReLU()), torch.zeros(1, 4), config="integer_w8a8"
        ... )
        >>> _ = sim.compute_encodings([torch.linspace(-1, 1, 32).reshape(8, 4)])
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     chip = nn2chip(sim, f"{parent}/chip", torch.ones(2, 4), onnx=False)
        ...     print(chip.verify())
        exact: executor 'numpy' reproduced 6 integers of 1 nodes; 18 memory files hold the same
    """
    target = Path(folder)
    require_place(target, overwrite=overwrite)
    forms = _formats(formats)
    source = chip_source(model, example_inputs, strict=strict)
    if onnx:
        _require_onnx()
    _require_examples(source)
    with staging_folder(target) as staging:
        _Writer(staging, source, tiling or MemoryTiling(), forms, onnx).write()
        replay = load_chip(staging).verify()
        if not replay.is_exact:
            raise ConfigurationError(
                "what was written is not what was computed", where="nn2chip", got=str(replay), expected="every integer"
            )
    return load_chip(target)


@dataclass
class _Writer:
    """Fills one folder."""

    folder: Path
    source: ChipSource
    tiling: MemoryTiling
    formats: tuple[MemoryFormat, ...]
    onnx: bool | None
    notes: list[str] = field(default_factory=list)

    def write(self) -> None:
        """Writes all files, the manifest last: a folder without one is not finished."""
        graph = self.source.graph
        tensors: dict[str, np.ndarray] = {}
        nodes = tuple(self._node(number, node, tensors) for number, node in enumerate(graph.nodes))
        save_file(tensors, self.folder / WEIGHTS_FILE)
        names = (*graph.inputs, *(node.output for node in graph.nodes))
        vectors = {name: np.array(self.source.vectors[name], order="C") for name in names}
        values = tuple(self._value(number, name, vectors[name]) for number, name in enumerate(names))
        save_file(vectors, self.folder / VECTORS_FILE)
        if self.onnx is not False:
            self._optional(INTEGER_ONNX_FILE, self._write_integer_onnx)
            self._optional(QDQ_ONNX_FILE, self._write_qdq_onnx)
        batches = {
            array.shape[axis] // length.factor
            for name, array in vectors.items()
            for axis, length in enumerate(graph.values[name].shape)
            if not isinstance(length, int)
        }
        ChipManifest.made_by(
            formulas=formulas_of({node.op for node in graph.nodes}),
            tiling=self.tiling,
            batch=batches.pop() if batches else graph.batch,
            inputs=graph.inputs,
            outputs=graph.outputs,
            nodes=nodes,
            values=values,
            coverage=self.source.coverage,
            notes=tuple(self.notes),
            files=self._digests(),
        ).write(self.folder)

    def _node(self, number: int, node: IntegerNode, tensors: dict[str, np.ndarray]) -> ChipNode:
        constants: dict[str, ChipConstant] = {}
        for key, array in node.constants.items():
            name = f"{node.name}.{key}"
            if name in tensors:
                raise ConfigurationError("two nodes have one name", where="nn2chip", got=f"'{node.name}' twice")
            tensors[name] = stored_constant(array)
            layout = constant_layout(node, key, self.tiling)
            memory = self._memory(f"mem/{number:04d}_{_file_name(node.name)}.{key}", np.asarray(array), layout)
            constants[key] = ChipConstant(tensor=name, dtype=str(np.asarray(array).dtype), memory=memory)
        return ChipNode(
            name=node.name,
            op=node.op,
            module=node.module,
            inputs=node.inputs,
            output=node.output,
            attributes={key: plain_attribute(value) for key, value in node.attributes.items()},
            constants=constants,
        )

    def _value(self, number: int, name: str, array: np.ndarray) -> ChipValue:
        value = self.source.graph.values[name]
        layout = value_layout(value, array.shape, self.tiling)
        return ChipValue(
            name=name,
            shape=plain_shape(value.shape),
            dtype=value.dtype,
            grid=plain_grid(value.grid),
            memory=self._memory(f"vectors/{number:04d}_{_file_name(name)}", array, layout),
        )

    def _memory(self, stem: str, array: np.ndarray, layout: MemoryLayout) -> ChipMemory:
        files: dict[MemoryFormat, str] = {}
        for form in self.formats:
            name = f"{stem}{SUFFIXES[form]}"
            path = self.folder / name
            path.parent.mkdir(exist_ok=True)
            try:
                path.write_bytes(encode_memory(array, layout, form))
            except ConfigurationError as error:
                raise error.with_location(name) from None
            files[form] = name
        return ChipMemory(layout=layout, words=layout.words, word_bits=layout.word_bits, files=files)

    def _optional(self, name: str, write: Any) -> None:
        """Writes a file that may be left out if nobody asked for it; then says why in the manifest."""
        try:
            if not self.onnx:
                _require_onnx()
            write()
        except QuantsimError as error:
            if self.onnx:
                raise
            self.notes.append(f"{name} was left out: {error}")

    def _write_integer_onnx(self) -> None:
        import onnx

        from quantsim.dualpath.integer_onnx import integer_onnx_model

        model = integer_onnx_model(self.source.graph)
        path = self.folder / INTEGER_ONNX_FILE
        is_large = model.ByteSize() > _LARGEST_ONNX
        onnx.save_model(model, path, save_as_external_data=is_large, location=f"{path.name}.data" if is_large else None)
        onnx.checker.check_model(str(path), full_check=True)

    def _write_qdq_onnx(self) -> None:
        if self.source.sim is None:
            return
        from quantsim.export.onnx import export_onnx

        path = self.folder / QDQ_ONNX_FILE
        path.parent.mkdir()
        try:
            export_onnx(self.source.sim, path, self.source.example_inputs, decompose=True)
        except BaseException:
            shutil.rmtree(path.parent)
            raise

    def _digests(self) -> dict[str, ChipFile]:
        paths = sorted(path for path in self.folder.rglob("*") if path.is_file())
        return {
            path.relative_to(self.folder).as_posix(): ChipFile(sha256=digest_of_file(path), bytes=path.stat().st_size)
            for path in paths
        }


def _require_examples(source: ChipSource) -> None:
    for name in source.graph.inputs:
        if not source.vectors[name].size:
            raise ConfigurationError(
                "there are no examples to compute test vectors for",
                where="nn2chip(example_inputs)",
                got=f"input '{name}' of shape {source.vectors[name].shape}",
                expected="a batch of at least one",
            )


def _file_name(name: str) -> str:
    """A part of a file's name that every file system and simulator takes."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", name)[:_LONGEST_NAME].strip(".") or "value"


def _formats(formats: Collection[MemoryFormat | str]) -> tuple[MemoryFormat, ...]:
    wanted = (formats,) if isinstance(formats, str) else tuple(formats)
    known = {form.value for form in MemoryFormat}
    for form in wanted:
        if form not in known:
            raise ConfigurationError(
                where="nn2chip(formats)", got=repr(form), expected=f"of {', '.join(sorted(known))}"
            )
    return tuple(form for form in MemoryFormat if form in wanted)


def _require_onnx() -> None:
    if importlib.util.find_spec("onnx") is None:
        raise ConfigurationError(
            "onnx is not installed", where="nn2chip(onnx)", expected="onnx", fix="pip install 'quantsim[onnx]'"
        )
