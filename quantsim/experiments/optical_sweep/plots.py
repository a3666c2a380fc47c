"""A sweep's results as plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from quantsim.experiments.optical_sweep.results import SweepPoint, SweepResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["plot_levels", "plot_photons", "save_plot"]

_COLOURS: Final = ("#c2410c", "#047857", "#1d4ed8", "#7c3aed", "#b45309", "#0e7490", "#be123c", "#4d7c0f", "#475569")
_GREY: Final = "#6b7280"


def plot_levels(result: SweepResult, names: Sequence[str] | None = None) -> Figure:
    """SQNR and accuracy over the number of levels, one line an engine; dashed in the same colour without noise.

    Args:
        result: The sweep.
        names: Engines to show; all by default.
    """
    chosen = list(dict.fromkeys(point.hardware for point in result.levels)) if names is None else list(names)
    families = list(dict.fromkeys(map(_family, chosen)))
    figure, (left, right) = _two_axes()
    for name in chosen:
        points = sorted((point for point in result.levels if point.hardware == name), key=lambda point: point.levels)
        colour = _COLOURS[families.index(_family(name)) % len(_COLOURS)]
        style: dict[str, Any] = {"color": colour, "marker": "o", "markersize": 4}
        style["linestyle"] = "-" if _family(name) == name else "--"
        left.plot([point.levels for point in points], [point.sqnr_db for point in points], **style)
        right.plot([point.levels for point in points], [100 * point.accuracy for point in points], **style, label=name)
    levels = sorted({point.levels for point in result.levels})
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(levels, [str(number) for number in levels])
        axes.minorticks_off()
        axes.set_xlabel("levels")
    _finish(left, right, result, f"{result.title} on simulated optics, not trained for it")
    figure.legend(loc="outside lower center", ncols=3, frameon=False, fontsize=8)
    return figure


def plot_photons(result: SweepResult) -> Figure:
    """SQNR and accuracy over photons for each multiply-accumulate.

    Args:
        result: The sweep.
    """
    figure, (left, right) = _two_axes()
    points: list[SweepPoint] = sorted(result.photons, key=lambda point: point.photons or 0.0)
    style: dict[str, Any] = {"color": _COLOURS[0], "marker": "o", "markersize": 4}
    photons = [point.photons for point in points]
    left.plot(photons, [point.sqnr_db for point in points], **style)
    right.plot(photons, [100 * point.accuracy for point in points], **style, label="accuracy")
    if all(point.retrieval_at_1 is not None for point in points):
        right.plot(
            photons,
            [100 * (point.retrieval_at_1 or 0.0) for point in points],
            color=_COLOURS[1],
            marker="s",
            markersize=4,
            label="retrieval@1",
        )
        if result.retrieval_at_1 is not None:
            right.axhline(100 * result.retrieval_at_1, color=_COLOURS[1], linewidth=0.8, linestyle=":")
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_xlabel("photons for each multiply-accumulate")
    levels = points[0].levels if points else 0
    _finish(left, right, result, f"{result.title} under shot noise, {levels} levels")
    right.legend(frameon=False, fontsize=8)
    return figure


def save_plot(figure: Figure, path: Path) -> None:
    """Writes the figure, in the format of the file's suffix; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=160, metadata={"Software": None} if path.suffix == ".png" else None)


def _family(name: str) -> str:
    """The engine with its noise."""
    return name.removesuffix(", no noise")


def _two_axes() -> tuple[Figure, Any]:
    from matplotlib.figure import Figure  # not pyplot: no global state, no display

    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    return figure, figure.subplots(1, 2)


def _finish(left: Any, right: Any, result: SweepResult, title: str) -> None:
    left.figure.suptitle(title, fontsize=11)
    left.set_ylabel("SQNR of the outputs, dB")
    right.set_ylabel("percent")
    right.axhline(100 * result.accuracy, color=_GREY, linewidth=0.8, linestyle=":")
    right.annotate(
        "FP32", (0.01, 100 * result.accuracy), xycoords=("axes fraction", "data"), ha="left", va="bottom", fontsize=8
    )
    right.set_ylim(bottom=0)
    for axes in (left, right):
        axes.grid(linewidth=0.3)
        axes.spines[["top", "right"]].set_visible(False)
