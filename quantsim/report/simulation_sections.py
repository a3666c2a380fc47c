"""Sections of a simulation's page that need no run: coverage, dispatch, encodings, environment."""

from __future__ import annotations

import os
import platform
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from quantsim.nn.dispatch import DispatchReport
from quantsim.report.data import CoverageRow, CoverageSection, UnquantizedRow
from quantsim.report.quantizer_switch import QuantizerSwitch
from quantsim.report.simulation_data import DispatchRow, EncodingsSummaryRow
from quantsim.report.tensor_statistics import encoding_of
from quantsim.report.wording import describe_encoding
from quantsim.sim import ActivationPlacement, QuantizationSimModel, SummaryRow
from quantsim_encodings.document import TensorReference, TensorRole

__all__ = ["coverage_section", "dispatch_rows", "encodings_rows", "environment", "format_words"]

_PACKAGES = ("quantsim", "torch", "transformers", "timm", "numpy")


def format_words(sim: QuantizationSimModel) -> dict[TensorReference, str]:
    """Format, symmetry and granularity of each quantizer.

    Args:
        sim: The simulation.

    Example:
        >>> from torch import nn
        >>> sim = QuantizationSimModel(nn.Linear(2, 2), torch.zeros(1, 2), config="w8a8_dynamic")
        >>> list(format_words(sim).values())
        ['uint8 asymmetric, per token, at run time', 'uint8, per channel']
    """
    encodings = {place.tensor: encoding_of(place.quantizer) for place in QuantizerSwitch(sim).places}
    return {
        row.tensor: f"{row.format}, per {row.granularity}" if encoding is None else describe_encoding(encoding)
        for row in sim.summary().rows
        for encoding in [encodings[row.tensor]]
    }


def coverage_section(sim: QuantizationSimModel) -> CoverageSection:
    """What is quantized by class of module, and what is not and why.

    Args:
        sim: The simulation.
    """
    roles: dict[str, set[TensorRole]] = defaultdict(set)
    for row in sim.summary().rows:
        roles[row.tensor.module].add(row.tensor.role)
    by_op: dict[str, list[tuple[str, Any]]] = defaultdict(list)
    for path, module in sim.quantized_modules():
        if path in roles or any(True for _ in module.parameters(recurse=False)):
            by_op[_class_name(module)].append((path, module))
    rows = [
        CoverageRow(
            op=op,
            modules=len(found),
            weights=sum(TensorRole.PARAM in roles[path] for path, _ in found),
            activations=sum(bool(roles[path] & {TensorRole.INPUT, TensorRole.OUTPUT}) for path, _ in found),
            parameters=sum(values.numel() for _, module in found for values in module.parameters(recurse=False)),
        )
        for op, found in by_op.items()
    ]
    rows.sort(key=lambda row: (-row.weights, -row.activations, -row.parameters, row.op))
    return CoverageSection(title=sim.config.name, rows=tuple(rows), unquantized=_unquantized(sim))


def _unquantized(sim: QuantizationSimModel) -> tuple[UnquantizedRow, ...]:
    coverage, modules = sim.coverage, dict(sim.model.named_modules())
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for operation in coverage.operations:
        reason = _of_multiplication(sim) if operation.multiplies else _of_other(sim)
        places[f"{operation.operation} in {operation.module_type}", reason].extend(
            [operation.module or "(model)"] * operation.count
        )
    for path in coverage.without_quantizers:
        module = modules[path]
        is_look_up = isinstance(module, (torch.nn.Embedding, torch.nn.EmbeddingBag))
        reason = "a look-up, no arithmetic: the configuration sets no `embeddings`" if is_look_up else _of_other(sim)
        places[_class_name(module), reason].append(path or "(model)")
    for path in coverage.excluded:
        if path in modules and not any(True for _ in modules[path].children()):
            places[_class_name(modules[path]), "the configuration excludes it"].append(path)
    order: Callable[[tuple[str, str]], Any] = lambda key: ("multiplication" not in key[1], key[1], key[0])  # noqa: E731
    return tuple(
        UnquantizedRow(op=op, where=tuple(places[op, why]), reason=why) for op, why in sorted(places, key=order)
    )


def _of_multiplication(sim: QuantizationSimModel) -> str:
    if not sim.config.functional_operations:
        return "a multiplication: the configuration switches `functional_operations` off"
    return "a multiplication that no quantizer reaches: an excluded module calls it, or a rule leaves it out"


def _of_other(sim: QuantizationSimModel) -> str:
    if sim.config.activations is None:
        return "the configuration leaves activations in floating point"
    if sim.config.activation_placement is ActivationPlacement.OPERANDS:
        return "no operand of a matrix product: this scheme rounds only those"
    return "a rule, a fused group or an operation's setting leaves it out"


def _class_name(module: Any) -> str:
    name = type(module).__name__.removeprefix("Quantized")
    return name.removesuffix("Operation") or name


def dispatch_rows(
    sim: QuantizationSimModel, seen: Mapping[str, DispatchReport] | None = None
) -> tuple[DispatchRow, ...]:
    """What computes the modules that hold quantizers, equal answers counted together.

    Args:
        sim: The simulation.
        seen: What computed modules in a run, by path; kernels of the others are not asked about their inputs.
    """
    holding = {row.tensor.module for row in sim.summary().rows}
    counts: Counter[tuple[str, str, str | None, str]] = Counter()
    for path, report in {**sim.explain_dispatch(), **(seen or {})}.items():
        if path in holding:
            kernel = None if report.kernel is None else _kernel_name(report.kernel)
            counts[report.op, str(report.source), kernel, report.reason] += 1
    rows = [
        DispatchRow(op=op, modules=count, source=source, kernel=kernel, reason=reason)
        for (op, source, kernel, reason), count in counts.items()
    ]
    return tuple(sorted(rows, key=lambda row: (row.kernel is None, -row.modules, row.op)))


def _kernel_name(kernel: Any) -> str:
    name = getattr(kernel, "__qualname__", type(kernel).__name__)
    return f"{getattr(kernel, '__module__', '')}.{name}".removeprefix("quantsim_kernels.").removeprefix(".")


def encodings_rows(sim: QuantizationSimModel) -> tuple[EncodingsSummaryRow, ...]:
    """Encodings by kind of tensor, format and state.

    Args:
        sim: The simulation.
    """
    words = format_words(sim)
    groups: dict[tuple[str, str, str], list[SummaryRow]] = defaultdict(list)
    for row in sim.summary().rows:
        groups[_kind(row.tensor), words[row.tensor], row.state.value].append(row)
    return tuple(
        EncodingsSummaryRow(
            tensors=kind,
            format=format_name,
            state=state,
            count=len(rows),
            stored_bytes=-(-sum(row.bits for row in rows) // 8),
        )
        for (kind, format_name, state), rows in groups.items()
    )


def _kind(tensor: TensorReference) -> str:
    if tensor.role is TensorRole.PARAM:
        return "weights" if tensor.key == "weight" else tensor.key
    return f"{tensor.role.value}s"


def environment() -> tuple[tuple[str, str], ...]:
    """Versions and machine."""
    facts = [("Python", platform.python_version())]
    for name in _PACKAGES:
        try:
            facts.append((name, version(name)))
        except PackageNotFoundError:
            continue
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"
    return (*facts, ("Machine", machine))
