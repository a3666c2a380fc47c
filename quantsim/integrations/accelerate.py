"""Simulations whose weights accelerate keeps in main memory or on disk, and loads when a module runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.nn.calibration import calibrate_parameters, named_quantized_modules
from quantsim.quantization.base import QuantizerBase

if TYPE_CHECKING:
    from quantsim.sim import QuantizationSimModel

__all__ = ["loaded_block", "offload_simulation", "unload_hooks"]


def offload_simulation(
    simulation: QuantizationSimModel | nn.Module,
    execution_device: torch.device | str | int,
    *,
    folder: str | Path | None = None,
) -> nn.Module:
    """Moves the weights of a simulated model out of the way; each comes to the device while its module runs.

    accelerate's own hooks do it, as after ``accelerate.cpu_offload`` or ``disk_offload``; but quantizers stay on the
    device, where calibration can set their ranges: they are small. Buffers go to the device, too. Undone by
    `unload_hooks`.

    Args:
        simulation: The simulation, or its model; changed in place.
        execution_device: Where modules run.
        folder: Where to write the weights; None keeps them in main memory.

    Returns:
        The model.

    Raises:
        ConfigurationError: accelerate's hooks are there already.

    Example:
        >>> from quantsim.sim import QuantizationSimModel
        >>> sim = QuantizationSimModel(
        ...     nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), torch.zeros(1, 2), config="w8a8"
        ... )
        >>> model = offload_simulation(sim, "cpu")
        >>> model[0].weight.device.type, model[0].input_quantizers[0].min.device.type
        ('meta', 'cpu')
        >>> report = sim.compute_encodings([torch.ones(1, 2)], sequential=True)
        >>> unload_hooks(sim)[0].weight.device.type
        'cpu'
    """
    from accelerate.hooks import AlignDevicesHook, add_hook_to_module
    from accelerate.utils import OffloadedWeightsLoader, PrefixedDataset, offload_state_dict

    model = _model(simulation)
    hooked = [path for path, module in model.named_modules() if hasattr(module, "_hf_hook")]
    if hooked:
        raise ConfigurationError(
            "accelerate's hooks are there already",
            where="offload_simulation",
            got=f"{len(hooked)} modules with hooks, the first is {hooked[0]!r}",
            expected="a simulation of a model without them",
            fix="make the simulation first and offload it then; unload_hooks(simulation) takes hooks off",
        )
    weights: Mapping[str, Tensor] = {
        name: value for name, value in model.state_dict(keep_vars=False).items() if isinstance(value, Tensor)
    }
    if folder is None:
        weights = {name: value.to("cpu") for name, value in weights.items()}
    else:
        offload_state_dict(str(folder), dict(weights))
        weights = OffloadedWeightsLoader(save_folder=str(folder))
    add_hook_to_module(model, AlignDevicesHook(io_same_device=True), append=True)
    for path, module in _outside_of_quantizers(model):
        if isinstance(module, QuantizerBase):
            module.to(execution_device)
        elif module._parameters or module._buffers:
            own: Any = PrefixedDataset(weights, f"{path}." if path else "")
            hook = AlignDevicesHook(execution_device=execution_device, offload=True, weights_map=own)
            add_hook_to_module(module, hook, append=True)
    return model


def unload_hooks(simulation: QuantizationSimModel | nn.Module) -> nn.Module:
    """Takes accelerate's hooks off; all weights are where they were before.

    Args:
        simulation: The simulation, or its model; changed in place.

    Returns:
        The model.
    """
    from accelerate.hooks import remove_hook_from_module

    model = _model(simulation)
    remove_hook_from_module(model, recurse=True)
    return model


@contextmanager
def loaded_block(block: nn.Module) -> Iterator[None]:
    """Keeps all weights of a block on the device inside, instead of loading them for each call; calibrates them too.

    Weights that are elsewhere cannot be looked at before; so their quantizers get their ranges here, unless these are
    set.

    Args:
        block: A module of a model with accelerate's hooks.
    """
    with ExitStack() as stack:
        for _, module in _outside_of_quantizers(block):
            for hook in _offloading(getattr(module, "_hf_hook", None)):
                stack.enter_context(_loaded(module, hook))
        calibrate_parameters(list(named_quantized_modules(block)), overwrite=False)
        yield


@contextmanager
def _loaded(module: nn.Module, hook: Any) -> Iterator[None]:
    hook.pre_forward(module)
    hook.offload = False  # so that calls inside neither load nor drop
    try:
        yield
    finally:
        hook.offload = True
        hook.post_forward(module, None)


def _offloading(hook: Any) -> list[Any]:
    """The hooks, of one or of a sequence, that load weights."""
    from accelerate.hooks import AlignDevicesHook, SequentialHook

    hooks = hook.hooks if isinstance(hook, SequentialHook) else (hook,)
    return [each for each in hooks if isinstance(each, AlignDevicesHook) and each.offload]


def _outside_of_quantizers(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Modules by path, quantizers included, but not what is inside of these."""
    closed: tuple[str, ...] = ()
    for path, module in model.named_modules():
        if closed and path.startswith(closed):
            continue
        if isinstance(module, QuantizerBase):
            closed = (*closed, f"{path}.")
        yield path, module


def _model(simulation: QuantizationSimModel | nn.Module) -> nn.Module:
    return simulation if isinstance(simulation, nn.Module) else simulation.model
