"""Writes a simulation as ONNX: QuantizeLinear and DequantizeLinear where its quantizers are, constants as integers."""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from importlib.metadata import version as version_of_package
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from quantsim.errors import ConfigurationError, NotCalibratedError
from quantsim.export.onnx_files import OnnxFiles, constant_bytes
from quantsim.export.onnx_names import NAME_MAP, QUANTIZER_PLACE, module_path, rename_tensors
from quantsim.export.onnx_report import ExportedQuantizer, OnnxExportReport
from quantsim.nn import QuantizationMixin
from quantsim.quantization.affine import DynamicQuantizeDequantize
from quantsim.quantization.base import QuantizerBase
from quantsim.sim.calibration import evaluation_mode
from quantsim.sim.example_inputs import ModelInputs
from quantsim.sim.simulation import QuantizationSimModel
from quantsim.sim.slots import parse_slot, shown
from quantsim_encodings.document import EncodingEntry, EncodingsDocument, EncodingsVersion, TensorRole

if TYPE_CHECKING:
    import onnx_ir as ir

    from quantsim.export.onnx_grids import OnnxGrid
    from quantsim.export.onnx_lowering import StandIn

__all__ = ["export_onnx", "read_name_map"]

SMALLEST_OPSET: Final = 21
"""The first with 4-bit and 16-bit integers and with blocks."""


def export_onnx(
    sim: QuantizationSimModel,
    path: str | Path,
    example_inputs: object,
    *,
    opset: int = SMALLEST_OPSET,
    encodings_version: EncodingsVersion | str | Sequence[EncodingsVersion | str] | None = EncodingsVersion.QUANTSIM,
    strict: bool = False,
    dynamic_shapes: Any = None,
    input_names: Sequence[str] | None = None,
    output_names: Sequence[str] | None = None,
    float_graph: bool = False,
    unsigned_weights: bool = False,
    decompose: bool = False,
) -> OnnxExportReport:
    """Writes a calibrated simulation as an ONNX file, with encodings files that name its tensors.

    Each quantizer becomes QuantizeLinear and DequantizeLinear (float formats without a scale: a pair of Cast).
    Quantized weights are stored as integers or 8-bit floats. Integer quantizers with run-time scales are written as the
    operations that they compute; those of 8-bit floats as a run-time scale around a pair with scale 1. Files appear
    whole or not at all; the simulation is not changed, except that weights calibrate themselves as at a first use.

    Args:
        sim: The simulation.
        path: A file that ends in ``.onnx``, or a folder, which gets ``model.onnx``.
        example_inputs: As for the simulation; the model is traced on them.
        opset: Version of ONNX's operators, at least 21.
        encodings_version: Version or versions of encodings files to write beside it, see ``save_encodings``; None for
            none. A file is called like the graph: ``model.encodings.json``, for further versions
            ``model.<version>.encodings.json``.
        strict: Fail if a tensor of the graph has no encoding; small constants (see `GraphCoverage`) need none.
        dynamic_shapes: Dimensions that may change, as :func:`torch.export.export` takes them; all are fixed otherwise.
        input_names: Names of the graph's inputs, instead of those of ``forward``'s arguments.
        output_names: Names of its outputs.
        float_graph: Also write the graph without quantizers, with float constants, as ``model.float.onnx``: for
            toolchains that take it together with encodings.
        unsigned_weights: Store 8-bit signed weights as unsigned ones of the same real numbers (zero point 128): for
            runtimes whose product of unsigned and signed bytes saturates, as that of ONNX Runtime does on x86
            processors without VNNI.
        decompose: Write quantizers that ONNX has no operator for as the operations that they compute, where the
            exporter knows these, instead of failing.

    Returns:
        What was written.

    Raises:
        NotCalibratedError: Quantizers without a range; all are named.
        ConfigurationError: Formats that ONNX cannot hold, all are listed; tensors without an encoding (``strict``); a
            model that torch cannot export; ``onnx`` or ``onnxscript`` is not installed.
        EncodingsError: A version that cannot hold the encodings.

    Example:
        >>> import tempfile
        >>> from torch import nn
        >>> sim = QuantizationSimModel(nn.Sequential(nn.Linear(4, 2)).eval(), torch.zeros(1, 4), config="w8a8")
        >>> _ = sim.compute_encodings([torch.linspace(-1, 1, 32).reshape(8, 4)])
        >>> with tempfile.TemporaryDirectory() as folder:  # doctest: +SKIP
        ...     report = export_onnx(sim, folder, torch.zeros(1, 4))
        >>> [each.data_type for each in report.quantizers]  # doctest: +SKIP
        ['UINT8', 'INT8']
    """
    _require_packages()
    _require_opset(opset)
    if example_inputs is None:
        raise ConfigurationError(
            "the model is traced on example inputs",
            where="export_onnx(example_inputs)",
            got="None",
            expected="inputs as the simulation was made with",
        )
    target = _target(path)
    versions = _versions(encodings_version)
    quantizers = _calibrated(sim)
    grids = _grids(quantizers, decompose=decompose)

    from quantsim.export.onnx_coverage import graph_coverage
    from quantsim.export.onnx_lowering import find_stand_ins, give_names, lower, take_out
    from quantsim.export.onnx_placeholders import DOMAIN

    places = dict(enumerate(quantizers))
    keys = {quantizers[place]: number for number, place in places.items()}
    written_out = {quantizer for place, quantizer in quantizers.items() if place not in grids}
    inputs = ModelInputs.of(example_inputs)
    model = _traced(sim, inputs, keys, written_out, opset, dynamic_shapes, input_names, output_names)
    rename_tensors(model.graph, skip=frozenset({DOMAIN}))
    stand_ins = find_stand_ins(model.graph)
    encodings = {number: _encoding_of(quantizers[place]) for number, place in places.items()}
    give_names(model.graph, stand_ins, encodings)
    tensors = _tensor_names(stand_ins, places)
    name_map = _name_map(tensors)

    float_model = model.clone()
    take_out(float_model)
    leaves = {path for path, _ in sim.quantized_modules()}
    coverage = graph_coverage(float_model.graph, set(name_map), leaves)
    if strict and coverage.missing:
        raise ConfigurationError(
            "tensors of the graph have no encoding",
            where="export_onnx(strict)",
            got=f"{len(coverage.missing)}: {shown([str(each) for each in coverage.missing], limit=20)}",
            expected="an encoding for every tensor",
            fix="give the modules quantizers by a rule of the config, or leave strict out",
        )
    exported = _exported(stand_ins, places, grids, tensors)
    lower(
        model.graph,
        stand_ins,
        {number: grids[place] for number, place in places.items() if place in grids},
        encodings,
        places,
        unsigned_weights=unsigned_weights,
    )
    _finish(model, sim, name_map)
    _finish(float_model, sim, name_map)
    float_size = constant_bytes(float_model)

    documents = {version: _document(sim, version, name_map) for version in versions}
    reached = {each.place for each in exported}
    files = OnnxFiles(target)
    try:
        files.graph(model, target.name)
        if float_graph:
            files.graph(float_model, f"{target.stem}.float.onnx")
        for index, (version, document) in enumerate(documents.items()):
            files.encodings(document, f"{target.stem}{f'.{version.value}' if index else ''}.encodings.json", version)
        written = files.commit()
    finally:
        files.discard()
    return OnnxExportReport(
        path=target,
        float_path=target.with_name(f"{target.stem}.float.onnx") if float_graph else None,
        encodings={version.value: target.with_name(name) for version, name in files.versions.items()},
        quantizers=exported,
        unreached=tuple(place for place in quantizers if place not in reached),
        coverage=coverage,
        name_map=name_map,
        size=sum(size for name, size in written.items() if name in (target.name, f"{target.name}.data")),
        float_size=float_size,
        notes=_notes(sim),
    )


def read_name_map(path: str | Path) -> dict[str, tuple[str, ...]]:
    """Where the encodings of an exported graph's tensors belong in the simulation, by tensor name.

    Args:
        path: The ONNX file.

    Returns:
        What ``load_encodings(name_map=...)`` takes; empty for files of other programs.
    """
    import onnx

    properties = {item.key: item.value for item in onnx.load(str(path), load_external_data=False).metadata_props}
    return {name: tuple(places) for name, places in json.loads(properties.get(NAME_MAP, "{}")).items()}


# ---------------------------------------------------------------- arguments


def _require_packages() -> None:
    from importlib.util import find_spec

    missing = [name for name in ("onnx", "onnxscript") if find_spec(name) is None]
    if missing:
        raise ConfigurationError(
            "packages for ONNX are missing",
            where="export_onnx",
            got=f"no {' and no '.join(missing)}",
            expected="onnx and onnxscript",
            fix="pip install 'quantsim[onnx]'",
        )


def _require_opset(opset: int) -> None:
    if not isinstance(opset, int) or opset < SMALLEST_OPSET:
        raise ConfigurationError(
            "the opset is too old",
            where="export_onnx(opset)",
            got=repr(opset),
            expected=f"at least {SMALLEST_OPSET}, the first with 4-bit integers and blocks",
        )


def _target(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix == ".onnx" else path / "model.onnx"


def _versions(wanted: EncodingsVersion | str | Iterable[EncodingsVersion | str] | None) -> tuple[EncodingsVersion, ...]:
    if wanted is None:
        return ()
    values = [wanted] if isinstance(wanted, str) else wanted
    versions: list[EncodingsVersion] = []
    for value in values:
        try:
            versions.append(EncodingsVersion(value))
        except ValueError:
            raise ConfigurationError(
                "there is no such version of encodings files",
                where="export_onnx(encodings_version)",
                got=repr(value),
                expected=", ".join(EncodingsVersion),
            ) from None
    return tuple(dict.fromkeys(versions))


# ---------------------------------------------------------------- quantizers


def _calibrated(sim: QuantizationSimModel) -> dict[str, QuantizerBase]:
    """All quantizers by place, once each is known to have a range."""
    for _, module in sim.quantized_modules():
        module._calibrate_parameters(overwrite=False)
    quantizers = dict(sim.quantizers())
    lacking = [place for place, quantizer in quantizers.items() if not quantizer.is_initialized()]
    if lacking:
        raise NotCalibratedError(
            "the simulation is not calibrated",
            where="export_onnx",
            got=f"{len(lacking)} quantizers without a range: {shown(lacking)}",
            expected="a range for every quantizer",
            fix="run compute_encodings, or load_encodings",
        )
    return quantizers


def _grids(quantizers: Mapping[str, QuantizerBase], *, decompose: bool) -> dict[str, OnnxGrid]:
    """ONNX's grid of each quantizer that has one, by place; the others are written as what they compute."""
    from quantsim.export.onnx_grids import at_least_bytes, onnx_grid

    grids: dict[str, OnnxGrid] = {}
    reasons: list[str] = []
    for place, quantizer in quantizers.items():
        if isinstance(quantizer, DynamicQuantizeDequantize):
            continue
        grid = onnx_grid(quantizer)
        slot = parse_slot(place)
        is_parameter = slot is not None and slot.role is TensorRole.PARAM
        if not isinstance(grid, str):
            grids[place] = grid if is_parameter else at_least_bytes(grid)
        elif not decompose or quantizer.is_stochastic:
            reasons.append(f"{place} {grid}")
    if reasons:
        raise ConfigurationError(
            "ONNX cannot hold the formats of all quantizers",
            where="export_onnx",
            got=f"{len(reasons)} quantizers: {shown(reasons, '; ', limit=5)}",
            expected="integers of up to 16 bits, 8-bit floats, fp16 or bf16",
            fix="choose another format, or decompose=True to write them as plain operations",
        )
    return grids


def _encoding_of(quantizer: QuantizerBase) -> object:
    try:
        return quantizer.get_encodings()
    except NotImplementedError:
        return quantizer  # written as operations; equal to itself only


def _tensor_names(stand_ins: Sequence[StandIn], places: Mapping[int, str]) -> dict[str, tuple[str, ...]]:
    """Names of the tensors that each quantizer in the graph quantizes, in the order of the model."""
    found: dict[str, dict[str, None]] = {}
    for stand_in in stand_ins:
        found.setdefault(places[stand_in.key], {})[stand_in.name] = None
    return {place: tuple(found[place]) for place in places.values() if place in found}


def _exported(
    stand_ins: Sequence[StandIn],
    places: Mapping[int, str],
    grids: Mapping[str, OnnxGrid],
    tensors: Mapping[str, tuple[str, ...]],
) -> tuple[ExportedQuantizer, ...]:
    constant = {places[stand_in.key]: stand_in.is_constant for stand_in in stand_ins}
    return tuple(
        ExportedQuantizer(
            place, names, grids[place].data_type if place in grids else "decomposed", constant.get(place, False)
        )
        for place, names in tensors.items()
    )


def _name_map(tensors: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
    found: dict[str, list[str]] = {}
    for place, names in tensors.items():
        for name in names:
            found.setdefault(name, []).append(place)
    return {name: tuple(places) for name, places in found.items()}


def _notes(sim: QuantizationSimModel) -> tuple[str, ...]:
    notes: list[str] = []
    for path, module in sim.quantized_modules():
        if isinstance(module, QuantizationMixin):
            if module.get_accumulation() is not None:
                notes.append(f"{path}: its accumulation ({module.get_accumulation()!r}) is not in the graph")
            elif module.get_kernel() is not None:
                notes.append(f"{path}: its kernel is not in the graph, which fake-quantizes")
    return tuple(notes)


# ---------------------------------------------------------------- graph


def _traced(
    sim: QuantizationSimModel,
    inputs: ModelInputs,
    keys: Mapping[QuantizerBase, int],
    written_out: Collection[QuantizerBase],
    opset: int,
    dynamic_shapes: Any,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
) -> ir.Model:
    from quantsim.export.onnx_placeholders import stand_ins

    try:
        with evaluation_mode(sim.model), torch.no_grad(), stand_ins(sim.model, keys, written_out), _without_asides():
            program = torch.onnx.export(
                sim.model,
                inputs.args,
                kwargs=dict(inputs.kwargs or {}),
                dynamo=True,
                opset_version=opset,
                dynamic_shapes=dynamic_shapes,
                input_names=input_names,
                output_names=output_names,
                verbose=False,
            )
    except Exception as error:
        reason = str(error.__cause__ or error).strip().splitlines()
        raise ConfigurationError(
            "torch cannot export the model to ONNX",
            where="export_onnx",
            got=f"{type(error).__name__}: {reason[0] if reason else ''}",
            expected="a model that torch.onnx.export(dynamo=True) takes",
            fix="the error above this one has the details; example inputs that are not tensors may be the cause",
        ) from error
    assert program is not None
    return program.model


@contextmanager
def _without_asides() -> Iterator[None]:
    """Keeps from users what the exporter says of torchvision's operators and of torch's own deprecations."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)", category=FutureWarning)
            yield
    finally:
        logger.setLevel(level)


def _finish(model: ir.Model, sim: QuantizationSimModel, name_map: Mapping[str, Sequence[str]]) -> None:
    import onnx_ir.passes.common as passes

    from quantsim.export.onnx_placeholders import DOMAIN
    from quantsim.sim.encodings import model_fingerprint

    left = [node.name for node in model.graph.all_nodes() if node.domain == DOMAIN]
    if left:
        raise ConfigurationError(
            "quantizers inside of control flow cannot be exported",
            where="export_onnx",
            got=f"{len(left)} of them",
            expected="quantizers outside of torch.cond and loops",
        )
    passes.RemoveUnusedNodesPass()(model)
    model.opset_imports.pop(DOMAIN, None)
    places = _places_by_path(sim)
    for node in model.graph.all_nodes():
        place = places.get(module_path(node))
        if place is not None:
            node.metadata_props.setdefault(QUANTIZER_PLACE, place)
        for key in [key for key in node.metadata_props if key.startswith("pkg.")]:
            del node.metadata_props[key]
    model.producer_name, model.producer_version = "quantsim", version_of_package("quantsim")
    model.metadata_props.update(
        {
            "quantsim.config": sim.config.name or "",
            "quantsim.model_fingerprint": model_fingerprint(sim.model),
            NAME_MAP: json.dumps(name_map),
        }
    )


def _places_by_path(sim: QuantizationSimModel) -> dict[str, str]:
    """Places of quantizers by the paths that these have as modules."""
    places = {quantizer: place for place, quantizer in sim.quantizers()}
    return {
        path: places[module]
        for path, module in sim.model.named_modules(remove_duplicate=False)
        if isinstance(module, QuantizerBase) and module in places
    }


def _document(
    sim: QuantizationSimModel, version: EncodingsVersion, name_map: Mapping[str, Sequence[str]]
) -> EncodingsDocument:
    """The encodings under the graph's names: for versions by name one entry a tensor, else one a quantizer."""
    document = sim.encodings(version)
    by_reference = {entry.tensor: entry for entry in document.entries}
    if version in (EncodingsVersion.QUANTSIM, EncodingsVersion.AIMET_TORCH):
        # A name may occur once: the first quantizer of a tensor has it, those with equal encodings go without.
        names = {parse_slot(places[0]): name for name, places in reversed(list(name_map.items()))}
        return replace(
            document, entries=tuple(replace(entry, name=names.get(entry.tensor)) for entry in document.entries)
        )
    entries: list[EncodingEntry] = [
        replace(by_reference[parse_slot(places[0])], name=name) for name, places in name_map.items()
    ]
    return replace(document, entries=tuple(entries))
