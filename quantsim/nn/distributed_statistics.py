"""Calibration over the processes of a distributed run: statistics of all ranks, and failing together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from quantsim.errors import RankError

if TYPE_CHECKING:
    from quantsim.nn.observation import QuantizerPlace
    from quantsim.quantization.base import QuantizerBase
    from quantsim.quantization.ranks import Ranks

__all__ = ["JointCalibration", "calibrate_together"]

_SHOWN = 3


@dataclass(frozen=True)
class _Statement:
    """What a rank tells the others at the end of its observation."""

    failure: str | None = None
    places: tuple[str, ...] = ()
    samples: tuple[int, ...] = ()
    own_observers: tuple[str, ...] = ()
    """Quantizers that saw data, of which their analyzer knows nothing: observers of their own do, each for itself."""


class JointCalibration:
    """One calibration of all ranks.

    Args:
        ranks: Who calibrates together; None for this process alone.
    """

    def __init__(self, ranks: Ranks | None) -> None:
        self.ranks = ranks
        self.has_spoken = False

    def unite(self, places: Sequence[QuantizerPlace]) -> None:
        """Makes the statistics of observing quantizers those of all ranks together.

        Quantizers that saw no data on some ranks get what the others saw; those that saw none anywhere are left alone.
        Quantizers inside an enclosing observation are left to that one's end.

        Args:
            places: The quantizers; the same ones, in the same order, on all ranks.

        Raises:
            RankError: A rank failed, or has other quantizers, or quantizers with observers of their own.
        """
        if self.ranks is None:
            return
        outermost = [place for place in places if place.quantizer.observation_depth == 1]
        own = _Statement(
            places=tuple(place.location for place in outermost),
            samples=tuple(place.quantizer.samples_seen for place in outermost),
            own_observers=tuple(place.location for place in outermost if _has_own_observer(place.quantizer)),
        )
        statements = self._exchange(own)
        _check(own, statements)
        totals = [sum(samples) for samples in zip(*(each.samples for each in statements), strict=True)]
        for place, total in zip(outermost, totals, strict=True):
            analyzer = place.quantizer.encoding_analyzer
            if total and analyzer is not None:
                analyzer.reduce_over(self.ranks)
                place.quantizer.samples_seen = total

    def report_failure(self, error: Exception) -> None:
        """Lets the other ranks fail too, unless they know already how this one did."""
        if self.ranks is not None and not self.has_spoken:
            self._exchange(_Statement(failure=f"{type(error).__name__}: {error}"))

    def _exchange(self, own: _Statement) -> list[_Statement]:
        assert self.ranks is not None
        self.has_spoken = True
        return self.ranks.everyone(own)


def _has_own_observer(quantizer: QuantizerBase) -> bool:
    analyzer = quantizer.encoding_analyzer
    return quantizer.samples_seen > 0 and analyzer is not None and not analyzer.has_stats


def _check(own: _Statement, statements: Sequence[_Statement]) -> None:
    failed = {rank: each.failure for rank, each in enumerate(statements) if each.failure is not None}
    if failed:
        raise RankError(
            "calibration failed on another rank, so no range was set on any",
            where="compute_encodings",
            got="; ".join(f"rank {rank}: {failure}" for rank, failure in failed.items()),
        )
    for rank, each in enumerate(statements):
        if each.places != own.places:
            odd = [*sorted({*own.places} ^ {*each.places}), "the same ones in another order"][:_SHOWN]
            raise RankError(
                "the ranks calibrate different quantizers",
                where="compute_encodings",
                got=f"{len(own.places)} here, {len(each.places)} on rank {rank}; not on both: {', '.join(odd)}",
                expected="the same simulation on all ranks",
                fix="pass process_group=None, or the group of ranks that have the same part of the model",
            )
    observers = sorted({location for each in statements for location in each.own_observers})
    if observers:
        raise RankError(
            "what an observer of one's own has seen cannot be united over the ranks",
            where="compute_encodings",
            got=f"{len(observers)} quantizers with such an observer: {', '.join(observers[:_SHOWN])}",
            expected="encoding analyzers, which can",
            fix="pass process_group=None and the same data on all ranks, or assign an encoding analyzer as observer",
        )


@contextmanager
def calibrate_together(ranks: Ranks | None, *, announce_failures: bool = True) -> Iterator[JointCalibration]:
    """A calibration that all ranks finish or none: an error of one before its end becomes an error of all.

    Args:
        ranks: Who calibrates together; None for this process alone.
        announce_failures: Whether the others are told of an error. If their forward waits for this rank, as with
            sharded parameters, they cannot listen.
    """
    joint = JointCalibration(ranks)
    try:
        yield joint
    except Exception as error:
        if announce_failures:
            joint.report_failure(error)
        raise
