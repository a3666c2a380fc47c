"""What of a model is quantized, and what is not: nothing is hidden."""

from __future__ import annotations

from dataclasses import dataclass

from quantsim.sim.example_run import UnquantizedOperation

__all__ = ["Coverage"]


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """Which arithmetic quantizers reach.

    Attributes:
        quantized: Modules with at least one quantizer.
        without_quantizers: Modules that could hold quantizers but were given none (norms, activation functions, ...).
        excluded: Modules that the config excludes.
        uncalled: Modules with quantizers that the example run did not reach: calibration may not reach them either.
        operations: Functional arithmetic that no quantizer can reach in this version.
        multiplications: Matrix multiplications in the example run, functional ones included; None without an example
            run.
        quantized_multiplications: Those whose module has quantizers.
    """

    quantized: tuple[str, ...]
    without_quantizers: tuple[str, ...]
    excluded: tuple[str, ...]
    uncalled: tuple[str, ...]
    operations: tuple[UnquantizedOperation, ...]
    multiplications: int | None
    quantized_multiplications: int | None

    @property
    def unquantized_multiplications(self) -> tuple[UnquantizedOperation, ...]:
        """Functional matrix multiplications, attention included: the first thing to look at."""
        return tuple(operation for operation in self.operations if operation.multiplies)

    def __str__(self) -> str:
        counts = (len(self.quantized), len(self.without_quantizers), len(self.excluded))
        lines = ["{} modules quantized, {} without quantizers, {} excluded".format(*counts)]
        if self.multiplications is not None:
            lines.append(f"{self.quantized_multiplications} of {self.multiplications} matrix multiplications quantized")
        if self.uncalled:
            lines.append(f"not reached by the example inputs: {', '.join(self.uncalled)}")
        for (name, kind), places in sorted(self._grouped().items(), key=lambda item: (-item[1][2], item[0])):
            paths, count, multiplies = places
            shown = ", ".join(paths[:3]) + (f", ... ({len(paths)} modules)" if len(paths) > 3 else "")
            what = "multiplication" if multiplies else "operation"
            lines.append(f"unquantized {what}: {name} ×{count} in {kind} ({shown})")
        return "\n".join(lines)

    def _grouped(self) -> dict[tuple[str, str], tuple[list[str], int, int]]:
        groups: dict[tuple[str, str], tuple[list[str], int, int]] = {}
        for operation in self.operations:
            paths, count, multiplies = groups.get((operation.operation, operation.module_type), ([], 0, 0))
            groups[operation.operation, operation.module_type] = (
                [*paths, operation.module or "(model)"],
                count + operation.count,
                multiplies + operation.multiplies,
            )
        return groups
