"""Gathers what the demo's report says of single layers, one simulation after another."""

from __future__ import annotations

from collections import defaultdict

from torch import nn

from quantsim.experiments.demo import SimulationRun
from quantsim.nn import BaseQuantizationMixin
from quantsim.report.data import (
    CoverageRow,
    CoverageSection,
    Histogram,
    HistogramSection,
    LayerRow,
    LayerSection,
    RangeRow,
    RangeSection,
    UnquantizedRow,
)
from quantsim.report.histograms import grid_histogram
from quantsim.report.layers import LayerProbe, active_quantizers

__all__ = ["LayerCollector"]


class LayerCollector:
    """Keeps figures of one model's simulations, never the simulations themselves.

    Args:
        run: The first simulation of the model; its float model is the reference of all later ones.
    """

    def __init__(self, run: SimulationRun) -> None:
        self._reference = run.reference
        self._probe = LayerProbe(run.reference, run.forward)
        self._sqnr: dict[str, dict[str, float]] = {}
        self._chosen: dict[str, str] = {}
        self._histograms: dict[str, dict[str, Histogram]] = defaultdict(dict)
        self._ranges: tuple[str, tuple[RangeRow, ...]] | None = None
        self._coverage: tuple[str, tuple[CoverageRow, ...], tuple[UnquantizedRow, ...]] | None = None

    def add(self, run: SimulationRun) -> None:
        """Looks into one calibrated simulation.

        Args:
            run: The simulation.
        """
        simulated = run.simulation.model
        self._sqnr[run.scheme] = self._probe.output_sqnr(simulated)
        if not self._chosen:
            self._chosen = self._choose(self._sqnr[run.scheme])
        ranges = self._probe.ranges(simulated)
        if self._ranges is None and any(row.tensor.startswith(("input", "output")) for row in ranges):
            self._ranges = (run.scheme, ranges)
        if self._coverage is None:
            self._coverage = (run.scheme, self._coverage_rows(simulated), self._unquantized(run))
        self._add_histograms(run.scheme, self._probe.quantized_modules(simulated))

    def layer_section(self, title: str) -> LayerSection:
        """SQNR by layer, a column for each scheme added."""
        modules = [name for name in self._probe.order if any(name in layers for layers in self._sqnr.values())]
        rows = [
            LayerRow(
                module=name, op=self._probe.op(name), sqnr_db=tuple(layers.get(name) for layers in self._sqnr.values())
            )
            for name in modules
        ]
        return LayerSection(title=title, schemes=tuple(self._sqnr), layers=tuple(rows))

    def range_sections(self, title: str) -> tuple[RangeSection, ...]:
        """Activations, then weights, of the first scheme with fixed ranges."""
        if self._ranges is None:
            return ()
        scheme, rows = self._ranges
        activations = tuple(row for row in rows if row.tensor.startswith(("input", "output")))
        parameters = tuple(row for row in rows if row not in activations)
        return tuple(
            RangeSection(title=f"{title}, {scheme}: {kind}", rows=part)
            for kind, part in (("activations", activations), ("weights", parameters))
            if part
        )

    def histogram_sections(self, title: str) -> tuple[HistogramSection, ...]:
        """The chosen layers."""
        return tuple(
            HistogramSection(title=f"{title}: {name} ({why})", histograms=tuple(self._histograms[name].values()))
            for name, why in self._chosen.items()
            if self._histograms[name]
        )

    def coverage_section(self, title: str) -> CoverageSection:
        """What the first scheme quantizes."""
        if self._coverage is None:
            return CoverageSection(title=title, rows=())
        scheme, rows, unquantized = self._coverage
        return CoverageSection(title=f"{title}, {scheme}", rows=rows, unquantized=unquantized)

    def _choose(self, sqnr: dict[str, float]) -> dict[str, str]:
        ranked = sorted(sqnr, key=lambda name: sqnr[name])
        if not ranked:
            return {}
        return {ranked[0]: "lowest SQNR", ranked[len(ranked) // 2]: "middle SQNR"}

    def _add_histograms(self, scheme: str, modules: dict[str, BaseQuantizationMixin]) -> None:
        for name in self._chosen.keys() & modules.keys():
            for tensor, quantizer in active_quantizers(modules[name]):
                encoding, values = quantizer.get_encodings(), self._probe.tensors(name).get(tensor)
                if encoding is None or values is None:
                    continue
                activation = tensor.startswith(("input", "output"))
                histogram = grid_histogram(
                    values, encoding, title=f"{tensor}, {scheme}", scheme=scheme, logarithmic=activation
                )
                if histogram is not None:
                    # Schemes that share a tensor's encoding would draw one picture twice: the first to come keeps it.
                    self._histograms[name].setdefault(f"{tensor} {histogram.caption}", histogram)

    def _coverage_rows(self, simulated: nn.Module) -> tuple[CoverageRow, ...]:
        modules = dict(simulated.named_modules())
        by_op: dict[str, list[tuple[nn.Module, nn.Module | None]]] = defaultdict(list)
        for name in self._probe.order:
            by_op[self._probe.op(name)].append((self._reference.get_submodule(name), modules.get(name)))
        rows = []
        for op, pairs in by_op.items():
            tensors = [
                [tensor for tensor, _ in active_quantizers(module)] if isinstance(module, BaseQuantizationMixin) else []
                for _, module in pairs
            ]
            rows.append(
                CoverageRow(
                    op=op,
                    modules=len(pairs),
                    weights=sum("weight" in names for names in tensors),
                    activations=sum(any(name.startswith(("input", "output")) for name in names) for names in tensors),
                    parameters=sum(parameter.numel() for module, _ in pairs for parameter in module.parameters()),
                )
            )
        # Without parameters or quantizers (dropout, reshapes, activation functions) there is nothing to count; those
        # that compute are listed as left in floating point.
        counted = [row for row in rows if row.parameters or row.weights or row.activations]
        return tuple(sorted(counted, key=lambda row: (-row.weights, -row.activations, -row.parameters, row.op)))

    def _unquantized(self, run: SimulationRun) -> tuple[UnquantizedRow, ...]:
        coverage = run.simulation.coverage
        places: dict[tuple[str, bool], list[str]] = defaultdict(list)
        for operation in coverage.operations:
            places[f"{operation.operation} in {operation.module_type}", operation.multiplies > 0].append(
                operation.module or "(model)"
            )
        for name in coverage.without_quantizers:
            if name in self._probe.order:
                places[self._probe.op(name), False].append(name)
        rows = [
            UnquantizedRow(
                op=op,
                where=tuple(where),
                reason="functional matrix multiplication: no module holds a quantizer for it"
                if multiplies
                else "no matrix multiplication: the scheme leaves it in floating point",
            )
            for (op, multiplies), where in sorted(places.items(), key=lambda item: (not item[0][1], item[0][0]))
        ]
        return tuple(rows)
