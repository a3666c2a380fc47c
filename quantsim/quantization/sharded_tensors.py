"""Tensors of which each rank holds a part (FSDP2, tensor parallel): reading all of one, writing into one."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["is_sharded", "local_parts", "return_to_shards", "whole", "write"]


def is_sharded(tensor: object) -> bool:
    """Whether a tensor is a ``DTensor``.

    Example:
        >>> is_sharded(torch.zeros(2))
        False
    """
    if torch.compiler.is_compiling():
        return False  # in a forward, which is what is compiled, parameters are whole
    # Its module takes a while to import, and as long as nobody did, there are none.
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(tensor, module.DTensor)


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor; gathers the parts of a sharded one, a collective operation.

    Example:
        >>> whole(torch.ones(2))
        tensor([1., 1.])
    """
    sharded: Any = tensor
    return sharded.full_tensor() if is_sharded(tensor) else tensor


@torch.no_grad()
def write(target: Tensor, values: Tensor) -> None:
    """Copies ``values``, all of them and the same on every rank, into a tensor; each rank keeps its part.

    Args:
        target: Plain or sharded.
        values: Plain, of the target's shape.

    Example:
        >>> target = torch.zeros(2)
        >>> write(target, torch.ones(2))
        >>> target
        tensor([1., 1.])
    """
    if is_sharded(target):
        target.copy_(_sharded_like(values, target))
    else:
        target.copy_(values)


@torch.no_grad()
def local_parts(tensor: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """The memory of a tensor on this rank, and what of ``values``, all of them and the same on every rank, lies there.

    Args:
        tensor: Plain or sharded.
        values: Plain, of the tensor's shape.

    Example:
        >>> local_parts(torch.zeros(2), torch.tensor([True, False]))
        (tensor([0., 0.]), tensor([ True, False]))
    """
    if not is_sharded(tensor):
        return tensor, values
    sharded: Any = tensor
    return sharded.to_local(), _sharded_like(values, tensor).to_local()


def _sharded_like(values: Tensor, target: Tensor) -> Any:
    from torch.distributed.tensor import DTensor, Replicate

    sharded: Any = target
    mesh = sharded.device_mesh
    local = values.to(sharded.to_local().device)
    everywhere = DTensor.from_local(local, mesh, [Replicate()] * mesh.ndim, run_check=False)
    return everywhere.redistribute(mesh, sharded.placements)


def return_to_shards(model: nn.Module) -> None:
    """Drops the whole parameters that FSDP2 keeps after a forward without a backward; what is written into is a part.

    Example:
        >>> return_to_shards(nn.Linear(2, 2))
    """
    module = sys.modules.get("torch.distributed.fsdp")
    if module is None:
        return
    for each in model.modules():
        if isinstance(each, module.FSDPModule):
            sharded: Any = each
            sharded.reshard()
