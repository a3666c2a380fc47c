"""Encodings of a simulation to and from documents; files and their versions are quantsim_encodings' business."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import version as version_of_package
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from quantsim.errors import QuantsimError, ShapeError
from quantsim.nn import BaseQuantizationMixin
from quantsim.quantization.affine import GroupedBlockQuantizeDequantize, QuantizeDequantize
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.methods import METHODS, QDropQuantizeDequantize, with_method
from quantsim.quantization.optical import OpticalQuantizeDequantize
from quantsim.quantization.rounding import RoundingQuantizerBase
from quantsim.sim.leaf import Leaf
from quantsim.sim.module_kinds import channel_axis
from quantsim.sim.quantizer_factory import quantizer_from_encoding
from quantsim.sim.slots import slot_name
from quantsim.sim.summary import iterate_quantizers
from quantsim_encodings.document import (
    EncodingEntry,
    EncodingsDocument,
    EncodingsVersion,
    Producer,
    TensorReference,
    TensorRole,
)
from quantsim_encodings.encoding import (
    AffineEncoding,
    Encoding,
    FloatEncoding,
    GroupedBlockEncoding,
    MXEncoding,
    OpticalEncoding,
)
from quantsim_encodings.errors import EncodingsError, Problem
from quantsim_encodings.granularity import Flattened, Granularity, PerBlock, PerBlocks, PerChannel, PerTensor
from quantsim_encodings.layout import place, transpose

if TYPE_CHECKING:
    from quantsim.sim.tensor_names import ResolvedTensor, TensorResolver

__all__ = ["LoadPlan", "LoadReport", "export_document", "model_fingerprint", "place_quantizer", "plan_load"]


@dataclass(frozen=True)
class LoadReport:
    """What loading encodings did.

    Attributes:
        loaded: Places whose quantizer now has the file's encoding.
        created: Those of them that had no quantizer before.
        ignored: Entries of the file that went nowhere, each with the reason (``strict=False`` only).
        unaffected: Calibratable quantizers that the file does not mention (``partial=True`` only).
        fingerprint_matches: Whether the file was written for a model of the same structure; None if it does not say.
    """

    loaded: tuple[str, ...]
    created: tuple[str, ...]
    ignored: tuple[str, ...]
    unaffected: tuple[str, ...]
    fingerprint_matches: bool | None = None


@dataclass(frozen=True)
class LoadPlan:
    """Ready-made quantizers for a simulation; nothing can fail any more when they are put in.

    Attributes:
        quantizers: New quantizer by place.
        report: What :meth:`commit` will have done.
    """

    quantizers: Mapping[TensorReference, QuantizerBase]
    report: LoadReport

    def commit(self, modules: Mapping[str, BaseQuantizationMixin]) -> None:
        """Puts the quantizers in."""
        for tensor, quantizer in self.quantizers.items():
            place_quantizer(modules[tensor.module], tensor, quantizer)


def place_quantizer(module: BaseQuantizationMixin, tensor: TensorReference, quantizer: QuantizerBase | None) -> None:
    """Puts a quantizer where a reference says.

    Args:
        module: The module that the reference names.
        tensor: Which of its tensors.
        quantizer: Replaces the one that is there, and takes over the module's mode, training or evaluation; None takes
            the one that is there away.
    """
    if quantizer is not None:
        quantizer.train(module.training)  # ranges may follow the data in training
    if tensor.role is TensorRole.PARAM:
        module.param_quantizers[tensor.key] = quantizer  # pyright: ignore[reportArgumentType] (entries may be None)
    elif tensor.role is TensorRole.INPUT:
        module.input_quantizers[int(tensor.key)] = quantizer  # pyright: ignore[reportArgumentType]
    else:
        module.output_quantizers[int(tensor.key)] = quantizer  # pyright: ignore[reportArgumentType]


def model_fingerprint(model: nn.Module) -> str:
    """A digest of a model's structure: names, shapes and types of its parameters, not their values.

    Quantizers do not count, nor does the device; so a model and its simulation, and a model on ``meta``, agree.

    Example:
        >>> model_fingerprint(nn.Linear(2, 2)) == model_fingerprint(nn.Linear(2, 2, device="meta"))
        True
    """
    digest = hashlib.sha256()
    quantizers = {
        id(values) for module in model.modules() if isinstance(module, QuantizerBase) for values in module.parameters()
    }
    for name, values in sorted(model.named_parameters()):
        if id(values) not in quantizers:
            digest.update(f"{name} {tuple(values.shape)} {values.dtype}\n".encode())
    return f"sha256:{digest.hexdigest()}"


def export_document(
    model: nn.Module,
    modules: Mapping[str, BaseQuantizationMixin],
    *,
    version: EncodingsVersion,
    excluded: Iterable[str] = (),
) -> EncodingsDocument:
    """All encodings of a simulation.

    Args:
        model: The simulated model.
        modules: Its quantized modules by path.
        version: What the document is meant for; entries get tensor names where the version goes by those.
        excluded: Paths of excluded modules.

    Raises:
        EncodingsError: A quantizer has no range yet, or no encoding; all of them are listed.
    """
    by_name = version not in (EncodingsVersion.QUANTSIM, EncodingsVersion.AIMET_TORCH)
    entries: list[EncodingEntry] = []
    problems: list[Problem] = []
    for tensor, quantizer in iterate_quantizers(modules):
        encoding, reason = _encoding_of(quantizer)
        if encoding is None and not quantizer.needs_calibration:
            continue  # it has no numbers of its own; the config says that it is there
        if encoding is None:
            problems.append(Problem(slot_name(tensor), reason))
            continue
        analyzer = quantizer.encoding_analyzer
        entries.append(
            EncodingEntry(
                encoding,
                tensor=tensor,
                name=str(tensor) if by_name else None,
                frozen=not quantizer.is_overwrite_allowed,
                learnable=any(values.requires_grad for values in quantizer.parameters()),
                analyzer=None if analyzer is None else type(analyzer).__name__,
                samples=quantizer.samples_seen or None,
            )
        )
    if problems:
        raise EncodingsError("cannot export the encodings of the simulation", problems)
    return EncodingsDocument(
        version,
        tuple(entries),
        producer=Producer("quantsim", version_of_package("quantsim")),
        model_fingerprint=model_fingerprint(model),
        excluded_layers=tuple(sorted(excluded)),
    )


def _encoding_of(quantizer: QuantizerBase) -> tuple[Encoding | None, str]:
    if not quantizer.is_initialized():
        return None, "is not calibrated; run compute_encodings(), or take the quantizer away"
    try:
        encoding = quantizer.get_encodings()
    except NotImplementedError as error:
        return None, str(error)
    return encoding, "has no encoding to export"


def plan_load(
    document: EncodingsDocument,
    modules: Mapping[str, BaseQuantizationMixin],
    resolver: TensorResolver,
    *,
    fingerprint: str,
    strict: bool,
    partial: bool,
) -> LoadPlan:
    """Builds a quantizer for every entry of a document; changes nothing.

    Args:
        document: What was read.
        modules: Quantized modules of the simulation by path.
        resolver: Finds the tensor an entry means.
        fingerprint: Of the simulated model.
        strict: An entry that has no place is an error; else it is listed as ignored.
        partial: Calibratable quantizers without an entry stay as they are; else they are an error.

    Raises:
        EncodingsError: With everything that is wrong, each problem with the entry or the place it is about.
    """
    problems: list[Problem] = []
    ignored: list[str] = []
    new: dict[TensorReference, tuple[QuantizerBase, str]] = {}
    existing = dict(iterate_quantizers(modules))
    companions = _companions(existing, modules)
    for entry in document.entries:
        found = resolver.resolve(entry)
        if isinstance(found, str):
            if strict:
                problems.append(Problem(entry.label, found))
            else:
                ignored.append(f"{entry.label}: {found}")
            continue
        for resolved in found:
            try:
                quantizer = _quantizer_for(
                    entry, resolved, modules[resolved.tensor.module], existing.get(resolved.tensor)
                )
            except (QuantsimError, EncodingsError, ValueError, TypeError) as error:
                problems.append(Problem(entry.label, f"does not fit {slot_name(resolved.tensor)}: {error}"))
                continue
            other = new.get(resolved.tensor)
            if other is not None and other[0].get_encodings() != quantizer.get_encodings():
                problems.append(
                    Problem(
                        entry.label,
                        f"means {slot_name(resolved.tensor)}, as does {other[1]}, with another encoding; use name_map",
                    )
                )
                continue
            new[resolved.tensor] = (quantizer, entry.label)
    new = _with_companions(new, companions)
    missing = [
        slot_name(tensor) for tensor, quantizer in existing.items() if quantizer.needs_calibration and tensor not in new
    ]
    if missing and not partial:
        problems += [
            Problem(place, "has a quantizer but no entry in the file; partial=True leaves such quantizers alone")
            for place in missing
        ]
    if problems:
        raise EncodingsError("the encodings do not fit the simulation, which is unchanged", problems)
    report = LoadReport(
        loaded=tuple(slot_name(tensor) for tensor in new),
        created=tuple(slot_name(tensor) for tensor in new if tensor not in existing),
        ignored=tuple(ignored),
        unaffected=tuple(missing),
        fingerprint_matches=None if document.model_fingerprint is None else document.model_fingerprint == fingerprint,
    )
    return LoadPlan({tensor: quantizer for tensor, (quantizer, _) in new.items()}, report)


Companions = dict[TensorReference, list[TensorReference]]


def _companions(
    existing: Mapping[TensorReference, QuantizerBase], modules: Mapping[str, BaseQuantizationMixin]
) -> Companions:
    """By place, all places that have one grid with it: those of one quantizer, or of one parameter if it has none."""
    sets: dict[tuple[str, int], list[TensorReference]] = {}
    for tensor, quantizer in existing.items():
        sets.setdefault(("quantizer", id(quantizer)), []).append(tensor)
    for path, module in modules.items():
        for key in module.param_quantizers:
            tensor = TensorReference(path, TensorRole.PARAM, key)
            values = module._own_parameter(key)
            if tensor not in existing and isinstance(values, nn.Parameter):
                sets.setdefault(("parameter", id(values)), []).append(tensor)
    return {tensor: members for members in sets.values() if len(members) > 1 for tensor in members}


def _with_companions(
    new: Mapping[TensorReference, tuple[QuantizerBase, str]], companions: Companions
) -> dict[TensorReference, tuple[QuantizerBase, str]]:
    """One quantizer object for places that have one grid, whether the file names them all or only some of them.

    Places for which the file has different encodings no longer have one grid: each keeps its own.
    """
    result = dict(new)
    for members in {id(members): members for members in companions.values()}.values():
        named = [new[tensor] for tensor in members if tensor in new]
        if named and all(other.get_encodings() == named[0][0].get_encodings() for other, _ in named[1:]):
            result.update(dict.fromkeys(members, named[0]))
    return result


def _quantizer_for(
    entry: EncodingEntry, resolved: ResolvedTensor, module: BaseQuantizationMixin, existing: QuantizerBase | None
) -> QuantizerBase:
    values = module._own_parameter(resolved.tensor.key) if resolved.tensor.role is TensorRole.PARAM else None
    encoding = entry.encoding
    if values is not None:
        encoding = _oriented(encoding, values, module, is_transposed=resolved.is_transposed)
    quantizer = _regrouped(existing, encoding) or _optical_copy(existing, encoding) or quantizer_from_encoding(encoding)
    quantizer = _of_the_method(existing, quantizer)
    if existing is not None and type(existing) is type(quantizer) and not isinstance(encoding, OpticalEncoding):
        _keep_analyzer(existing, quantizer)
    if isinstance(quantizer, RoundingQuantizerBase) and isinstance(existing, RoundingQuantizerBase):
        quantizer.take_training_choices(existing)
    if values is not None:
        _require_fit(quantizer, values)
    device = values.device if values is not None else next((own.device for own in module.parameters()), None)
    if device is not None:
        quantizer = quantizer.to(device)
    quantizer.samples_seen = entry.samples or 0
    quantizer.allow_overwrite(not entry.frozen)
    if not entry.learnable:
        quantizer.requires_grad_(False)
    return quantizer


def _regrouped(existing: QuantizerBase | None, encoding: Encoding) -> QuantizerBase | None:
    """A copy of an existing LPBQ quantizer with the block scales of a file that does not say that they are grouped.

    None if that is not the case, or if the scales are no multiples of a scale of their channel.
    """
    if (
        not isinstance(existing, GroupedBlockQuantizeDequantize)
        or not isinstance(encoding, AffineEncoding)
        or isinstance(encoding, GroupedBlockEncoding)
        or tuple(encoding.scale.shape) != existing.shape
        or encoding.format != existing.format
    ):
        return None
    quantizer = copy.deepcopy(existing)
    low, high = (torch.tensor(values, dtype=torch.float32) for values in (encoding.min, encoding.max))
    quantizer.set_range(low, high)
    scale = quantizer.get_scale()
    expected = torch.tensor(encoding.scale, dtype=torch.float32)
    return quantizer if scale is not None and torch.allclose(scale.cpu(), expected, rtol=1e-5, atol=0.0) else None


def _of_the_method(existing: QuantizerBase | None, quantizer: QuantizerBase) -> QuantizerBase:
    """What goes on training by the method of the quantizer whose place it takes, where that can have the new grid."""
    if not isinstance(existing, tuple(METHODS.values())) or type(quantizer) is not QuantizeDequantize:
        return quantizer
    arguments = {"drop": existing.drop} if isinstance(existing, QDropQuantizeDequantize) else {}
    try:
        return with_method(quantizer, type(existing), **arguments)
    except QuantsimError:
        return quantizer


def _optical_copy(existing: QuantizerBase | None, encoding: Encoding) -> QuantizerBase | None:
    """A copy of an existing optical quantizer with another encoding, which holds no photon budget and no gradient."""
    if not isinstance(existing, OpticalQuantizeDequantize) or not isinstance(encoding, OpticalEncoding):
        return None
    quantizer = copy.deepcopy(existing)
    quantizer.set_encodings(encoding)
    return quantizer


def _keep_analyzer(existing: QuantizerBase, quantizer: QuantizerBase) -> None:
    """A later calibration is to choose ranges as before, if the shapes still agree."""
    analyzer = existing.encoding_analyzer
    own = quantizer.encoding_analyzer
    if analyzer is not None and own is not None and tuple(analyzer.shape) == tuple(own.shape):
        quantizer.encoding_analyzer = copy.deepcopy(analyzer)
        quantizer.encoding_analyzer.reset_stats()


def _oriented(encoding: Encoding, values: Tensor, module: BaseQuantizationMixin, *, is_transposed: bool) -> Encoding:
    """The encoding for the parameter as torch holds it: scales without layout put in place, axes swapped back."""
    if isinstance(encoding.granularity, PerTensor):
        return encoding
    axis = channel_axis(Leaf("", module).op, values) or 0
    shape = tuple(values.shape)
    if is_transposed:
        axis, shape = 1 - axis, shape[::-1]
    if isinstance(encoding.granularity, Flattened):
        integers = getattr(encoding, "per_block_int_scale", None)
        scales = integers if integers is not None else getattr(encoding, "scale")  # noqa: B009 (not on every encoding)
        encoding = place(encoding, *_layout(scales.size, encoding.granularity.block_size, shape, axis))
    elif isinstance(encoding.granularity, PerChannel):
        position = encoding.granularity.axis % len(shape)
        scales = tuple(size if index == position else 1 for index, size in enumerate(shape))
        encoding = place(encoding, encoding.granularity, scales)
    if not is_transposed:
        return encoding
    match encoding:
        case AffineEncoding():
            return transpose(encoding, (1, 0))
        case FloatEncoding():
            return transpose(encoding, (1, 0))
        case MXEncoding(granularity=PerBlock(axis=position, block_size=size), scale=None):
            return replace(encoding, granularity=PerBlock(1 - position % 2, size))
        case _:
            return encoding


def _layout(
    count: int, block_size: int | None, shape: tuple[int, ...], axis: int
) -> tuple[Granularity, tuple[int, ...], tuple[int, ...] | None]:
    """How a number of scales lies over a parameter with channels along ``axis``: one a channel, or by blocks."""
    channels = shape[axis]
    per_channel = tuple(channels if index == axis else 1 for index in range(len(shape)))
    if count == channels and (block_size is None or len(shape) < 2):
        return PerChannel(axis), per_channel, None
    if len(shape) >= 2 and count % channels == 0:
        summed = 1 if axis == 0 else 0
        blocks = count // channels
        if shape[summed] % blocks == 0 and block_size in (None, shape[summed] // blocks):
            size = shape[summed] // blocks
            scales = tuple(blocks if index == summed else length for index, length in enumerate(per_channel))
            # A kernel of one element is no further axis of the blocks: they lie along one, as versions by axis say.
            block = tuple(
                size if index == summed else 1 if index == axis or length == 1 else -1
                for index, length in enumerate(shape)
            )
            return (PerBlocks(block) if -1 in block else PerBlock(summed, size)), scales, block
    raise ShapeError(
        "the scales do not fit the parameter",
        got=f"{count} scales" + (f" of blocks of {block_size}" if block_size else ""),
        expected=f"one, {channels}, or {channels} times the number of blocks for shape {shape}",
    )


def _require_fit(quantizer: QuantizerBase, values: Tensor) -> None:
    """Checks that a quantizer's scales tile a parameter; works on ``meta``."""
    scales = tuple(getattr(quantizer, "shape", ()))
    block = getattr(quantizer, "block_size", None)
    shape = tuple(values.shape)
    fits = len(scales) <= len(shape) or scales == (1,)
    for index in range(1, min(len(scales), len(shape)) + 1):
        length, blocks = shape[-index], scales[-index]
        size = None if block is None else block[-index]
        whole = length // blocks * blocks == length if size in (None, -1) else size * blocks == length
        fits = fits and (blocks in (1, length) if block is None else whole)
    if not fits:
        raise ShapeError(
            "the scales do not fit the parameter",
            got=f"scales of shape {scales}, block size {block}",
            expected=f"scales that tile shape {shape}",
        )
