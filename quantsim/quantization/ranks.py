"""The processes of a distributed run that calibrate together, and the few collective operations that they need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from quantsim.errors import ConfigurationError

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup

    RankChoice: TypeAlias = ProcessGroup | Literal["all"] | None

__all__ = ["Ranks"]


@dataclass(frozen=True)
class Ranks:
    """The ranks of a process group.

    Every method is a collective operation: all ranks of the group have to call the same ones in the same order.

    Args:
        group: The group; None is the default one.
        device: Where tensors have to be for the group's backend; None if it takes them from the CPU.

    Example:
        >>> Ranks.of("all") is None  # no process group: everything is on this process
        True
    """

    group: ProcessGroup | None
    device: torch.device | None = None

    @classmethod
    def of(cls, choice: RankChoice) -> Ranks | None:
        """The ranks that a choice means; None if this process is alone.

        Args:
            choice: ``"all"`` for the default process group if there is one, a group, or None for this process alone.

        Raises:
            ConfigurationError: If it is none of them, or this process is no member of the group.
        """
        if choice is None or not (dist.is_available() and dist.is_initialized()):
            if choice is None or choice == "all":
                return None
            raise _wrong(choice, "call torch.distributed.init_process_group() before")
        if isinstance(choice, str) and choice != "all":
            raise _wrong(choice, "leave process_group out for all ranks")
        group: Any = None if choice == "all" else choice
        try:
            own_rank, size = dist.get_rank(group), dist.get_world_size(group)
        except (ValueError, RuntimeError, TypeError, AttributeError, KeyError):
            raise _wrong(choice, "pass what torch.distributed.new_group() returned") from None
        if own_rank < 0:
            raise _wrong(choice, "call it on the group's own ranks only, or with process_group=None")
        return None if size == 1 else cls(group, _device_of(group))

    def smallest(self, values: Tensor) -> Tensor:
        """Element by element the smallest over the ranks."""
        return self._reduced(values, dist.ReduceOp.MIN)

    def largest(self, values: Tensor) -> Tensor:
        """Element by element the largest over the ranks."""
        return self._reduced(values, dist.ReduceOp.MAX)

    def total(self, values: Tensor) -> Tensor:
        """Element by element the sum over the ranks."""
        return self._reduced(values, dist.ReduceOp.SUM)

    def _reduced(self, values: Tensor, operation: Any) -> Tensor:
        moved = values.detach().to(self.device or "cpu", copy=True).contiguous()
        dist.all_reduce(moved, op=operation, group=self.group)
        return moved.to(values.device)

    def everyone(self, value: Any) -> list[Any]:
        """What each rank passed, in the order of the ranks; anything that can be pickled."""
        found: list[Any] = [None] * dist.get_world_size(self.group)
        dist.all_gather_object(found, value, group=self.group)
        return found

    def joined(self, values: Tensor) -> Tensor:
        """The (rows, columns) of all ranks beside each other, in the order of the ranks; each may have other columns.

        Args:
            values: Shape (rows, own columns), perhaps without a column; of the same dtype on all ranks.
        """
        widths = self.everyone(values.shape[1])
        widest = max(widths)
        padded = values.new_zeros(values.shape[0], widest)
        padded[:, : values.shape[1]] = values
        padded = padded.to(self.device or "cpu").contiguous()
        found = [torch.empty_like(padded) for _ in widths]
        dist.all_gather(found, padded, group=self.group)
        return torch.cat([part[:, :width] for part, width in zip(found, widths, strict=True)], dim=1).to(values.device)


def _device_of(group: Any) -> torch.device | None:
    """Where the group's backend wants tensors: the accelerator for NCCL and its like; None if it takes the CPU's."""
    backend = dist.get_backend_config(group)
    if "cpu:" in backend or dist.get_backend(group) in ("gloo", "mpi"):
        return None
    accelerator = torch.accelerator.current_accelerator()
    return None if accelerator is None else torch.device(accelerator.type, torch.accelerator.current_device_index())


def _wrong(choice: object, fix: str) -> ConfigurationError:
    return ConfigurationError(
        "this is no group of ranks that can calibrate together",
        where="process_group",
        got=repr(choice),
        expected="'all', a process group that this process belongs to, or None",
        fix=fix,
    )
