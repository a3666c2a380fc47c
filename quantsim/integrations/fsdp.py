"""Simulations under FSDP2: parameters and ranges are sharded over the ranks of a distributed run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.nn.calibration import compute_param_encodings
from quantsim.quantization.range_parameters import RangeParameters
from quantsim.sim.model_blocks import BlockChoice, find_blocks

if TYPE_CHECKING:
    from quantsim.sim import QuantizationSimModel

__all__ = ["make_ranges_shardable", "shard_simulation"]


def make_ranges_shardable(model: nn.Module) -> None:
    """Gives range parameters without a dimension one of size 1: FSDP2 shards along the first dimension.

    The numbers are the same, and saved states with and without the dimension load into each other.

    Args:
        model: A simulated model; changed in place.

    Example:
        >>> from quantsim.quantization import affine
        >>> quantizer = affine.QuantizeDequantize(shape=(), bitwidth=8, symmetric=True)
        >>> make_ranges_shardable(quantizer)
        >>> quantizer.min.shape, quantizer.shape
        (torch.Size([1]), (1,))
    """
    for module in model.modules():
        if isinstance(module, RangeParameters):
            module.give_dimension()


def shard_simulation(
    simulation: QuantizationSimModel | nn.Module, blocks: BlockChoice = None, **options: Any
) -> nn.Module:
    """Shards a simulated model with FSDP2: each block, then the root.

    Weights that have no range yet get it before: in a forward of a sharded model it could not be kept. Calibrate and
    train afterwards as any model, with the same code on all ranks; make the optimizer after sharding.

    Args:
        simulation: The simulation, or its model; changed in place.
        blocks: See `quantsim.sim.find_blocks`.
        options: Passed to ``torch.distributed.fsdp.fully_shard``, such as ``mesh`` and ``mp_policy``.

    Returns:
        The model.

    Raises:
        ConfigurationError: A parameter or quantizer is in two blocks, or there is no process group.
    """
    import torch.distributed as dist

    if not dist.is_initialized():
        raise ConfigurationError(
            "there is nothing to shard over",
            where="shard_simulation",
            got="no process group",
            expected="a distributed run",
            fix="start with torchrun and call torch.distributed.init_process_group()",
        )
    from torch.distributed.fsdp import fully_shard

    model = simulation if isinstance(simulation, nn.Module) else simulation.model
    found = find_blocks(model, blocks)
    _check_apart(model, found)
    compute_param_encodings(model, overwrite=False)
    make_ranges_shardable(model)
    for block in found.values():
        fully_shard(block, **options)
    fully_shard(model, **options)
    return model


def _check_apart(model: nn.Module, blocks: dict[str, nn.Module]) -> None:
    """Raises if a parameter belongs to two blocks: FSDP2 shards each of its groups by itself."""
    owners: dict[int, tuple[str, str]] = {}
    for path, parameter in model.named_parameters(remove_duplicate=False):
        block = next((name for name in blocks if path.startswith(f"{name}.")), "")
        first_block, first_path = owners.setdefault(id(parameter), (block, path))
        if first_block != block:
            raise ConfigurationError(
                "a parameter is shared between parts that are sharded by themselves",
                where="shard_simulation(blocks)",
                got=f"{first_path!r} is {path!r}",
                expected="blocks that share nothing",
                fix="leave one of the blocks out, so that both are sharded with the rest of the model",
            )
