"""Calibration of models that do not fit on the device: block after block, each for all batches in one turn."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map_only

from quantsim.errors import ConfigurationError
from quantsim.sim.calibration import batch_runner
from quantsim.sim.example_inputs import ModelInputs
from quantsim.sim.model_blocks import BlockChoice, find_blocks
from quantsim.sim.paused_forwards import run_in_turns

if TYPE_CHECKING:
    CalibrationData: TypeAlias = Callable[[nn.Module], Any] | Iterable[Any]
    SequentialChoice: TypeAlias = "SequentialCalibration | BlockChoice | bool"

__all__ = ["SequentialCalibration", "run_on"]


def run_on(model: nn.Module, data: CalibrationData | None, sequential: SequentialChoice, *, where: str) -> None:
    """Runs a model on calibration data, batch after batch or block after block.

    Args:
        model: The model.
        data: A function that runs it, or batches.
        sequential: What `SequentialCalibration.of` reads.
        where: What errors call the data.

    Raises:
        ConfigurationError: ``data`` is neither, there is no batch, or blocks cannot be run one by one.
    """
    blockwise = SequentialCalibration.of(sequential)
    if blockwise is not None:
        blockwise.run(model, data, where=where)
    elif callable(data):
        data(model)
    else:
        batch_runner(data, where=where)(model)  # pyright: ignore[reportArgumentType] - it says what is wrong with None


@dataclass(frozen=True, kw_only=True)
class SequentialCalibration:
    """How a model is calibrated block after block.

    Every batch's forward waits at the door of a block until all have come there; then the block comes onto the device,
    runs for all of them, and leaves it. So a block is loaded once for ``batches_at_once`` batches, not once for each,
    and no two blocks are on the device together. What is observed is what ordinary calibration observes: quantizers
    pass activations through in floating point, so the encodings are the same.

    Args:
        blocks: Path of the container of the blocks, the blocks or their paths, or None to find them: the elements of
            the outermost module lists.
        device: Where a block runs. It is moved there and back, its inputs and outputs as well; all else stays where it
            is. None: blocks run where they are, or, if accelerate's hooks offload them, where these say.
        batches_at_once: Batches whose forwards wait together; their hidden states are in memory at the same time.

    Example:
        >>> from quantsim.sim import QuantizationSimModel, SequentialCalibration
        >>> layers = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
        >>> sim = QuantizationSimModel(layers, torch.zeros(1, 4), config="w8a8")
        >>> batches = [torch.ones(2, 4), torch.zeros(2, 4)]
        >>> report = sim.compute_encodings(batches, sequential=SequentialCalibration(batches_at_once=2))
        >>> len(report.calibrated)
        3
    """

    blocks: BlockChoice = None
    device: torch.device | str | int | None = None
    batches_at_once: int = 32

    def __post_init__(self) -> None:
        if self.batches_at_once < 1:
            raise ConfigurationError(
                "too few batches", where="batches_at_once", got=str(self.batches_at_once), expected="1 or more"
            )

    @classmethod
    def of(cls, choice: SequentialChoice) -> SequentialCalibration | None:
        """What an argument means: True for blocks that are found, a path or a sequence for blocks, False for none."""
        if choice is None or choice is False:
            return None
        if isinstance(choice, cls):
            return choice
        if choice is True:
            return cls()
        if isinstance(choice, (str, Sequence)):
            return cls(blocks=choice)
        raise ConfigurationError(
            "this does not say how to calibrate",
            where="compute_encodings(sequential)",
            got=type(choice).__name__,
            expected="True, the path of a module list, blocks or their paths, or a SequentialCalibration",
        )

    def run(self, model: nn.Module, data: object, *, where: str) -> None:
        """Runs a model on all batches, block after block.

        Args:
            model: The model.
            data: Batches, each in any form that `ModelInputs` reads.
            where: What errors call the data.

        Raises:
            ConfigurationError: ``data`` is no series of batches, or an empty one.
        """
        if callable(data) or isinstance(data, (Tensor, Mapping, str)) or not isinstance(data, Iterable):
            raise ConfigurationError(
                "sequential calibration needs the batches themselves",
                where=where,
                got=type(data).__name__,
                expected="an iterable of batches",
                fix="pass a list of batches, [batch] for one",
            )
        blocks = find_blocks(model, self.blocks)
        batches, start = iter(data), 0
        while group := list(islice(batches, self.batches_at_once)):
            inputs = [ModelInputs.of(batch, what=f"data: batch {start + i}") for i, batch in enumerate(group)]
            self._run_group(model, blocks, inputs)
            start += len(group)
        if start == 0:
            batch_runner((), where=where)  # says so

    def _run_group(self, model: nn.Module, blocks: dict[str, nn.Module], inputs: list[ModelInputs]) -> None:
        forwards = [partial(each.call, model) for each in inputs]
        if self.device is None:
            run_in_turns(blocks, forwards, _offloaded_turn(model))
            return
        device = torch.device(self.device)
        with ExitStack() as stack:
            for block in blocks.values():
                stack.enter_context(_inputs_on(block, device))
            run_in_turns(blocks, forwards, partial(_moved_turn, device))


@contextmanager
def _inputs_on(block: nn.Module, device: torch.device) -> Iterator[None]:
    """Moves what goes into a block to a device, and what comes out of it back to where its first input was."""
    outside: list[torch.device] = []

    def bring(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any]:
        outside[:] = [tensor.device for tensor in _tensors((args, kwargs))]
        return _moved((args, kwargs), device)

    def give_back(module: nn.Module, args: Any, output: Any) -> Any:
        return _moved(output, outside[0]) if outside else output

    with ExitStack() as stack:
        stack.callback(block.register_forward_pre_hook(bring, with_kwargs=True).remove)
        stack.callback(block.register_forward_hook(give_back).remove)
        yield


@contextmanager
def _moved_turn(device: torch.device, path: str, block: nn.Module) -> Iterator[None]:
    homes = {tensor.device for tensor in (*block.parameters(), *block.buffers())}
    if len(homes) > 1:
        raise ConfigurationError(
            "the block is spread over several devices",
            where=f"blocks: {path}",
            got=", ".join(sorted(map(str, homes))),
            expected="one",
            fix="leave device out: blocks then run where they are",
        )
    block.to(device)
    try:
        yield
    finally:
        for home in homes:
            block.to(home)


def _offloaded_turn(model: nn.Module) -> Callable[[str, nn.Module], AbstractContextManager[None]]:
    if not any(hasattr(module, "_hf_hook") for module in model.modules()):
        return lambda path, block: nullcontext()
    # By name: integrations are above the simulation, which must not depend on them.
    loaded_block = importlib.import_module("quantsim.integrations.accelerate").loaded_block
    return lambda path, block: loaded_block(block)


def _tensors(value: object) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _moved(value: Any, device: torch.device) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.to(device), value)
