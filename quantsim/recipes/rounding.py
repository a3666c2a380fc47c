"""AdaRound: learns layer by layer which way each weight is rounded, and writes the outcome into the weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.nn import named_quantized_modules
from quantsim.quantization.methods import AdaRoundQuantizeDequantize
from quantsim.sim.calibration import evaluation_mode
from quantsim.sim.example_inputs import ModelInputs

__all__ = ["bake_rounding", "learn_rounding"]

_FREE = 0.2
"""Share of the iterations in which no weight is driven to one side."""


def learn_rounding(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    iterations: int = 1000,
    batch_size: int = 32,
    learning_rate: float = 1e-2,
    decision: float = 0.01,
    seed: int = 0,
    on_layer: Callable[[str, float, float], None] | None = None,
) -> dict[str, tuple[float, float]]:
    """Fits the rounding of each weight with an `AdaRoundQuantizeDequantize` to the layer's float outputs.

    One layer after the other, in the order in which they run, each on what the layers before give, whose rounding is
    settled by then. The loss is the squared error of the layer's output, and after a fifth of the iterations
    ``decision`` times `AdaRoundQuantizeDequantize.rounding_loss`, whose exponent falls from 20 to 2 (Nagel et al.
    2020). In the end quantizers are frozen, which makes them hard. Only roundings are learned.

    Args:
        model: Calibrated; a simulation's model, or modules with two paths.
        batches: Inputs, in any form of example inputs; what a layer sees of them is kept in memory.
        iterations: Steps of the optimizer for each layer.
        batch_size: Samples (rows of the first dimension) of a step.
        learning_rate: Of Adam.
        decision: Weight of the second part of the loss.
        seed: Of the choice of samples.
        on_layer: Called with path and errors after each layer, for a progress bar.

    Returns:
        Mean squared error of each layer's output with rounding to nearest, and with the learned one, by path.

    Raises:
        ConfigurationError: If no weight has an AdaRound quantizer, or there is no data.
    """
    inputs = [ModelInputs.of(batch, what=f"learn_rounding: batch {index}") for index, batch in enumerate(batches)]
    layers = [
        (path, module, quantizer)
        for path, module in named_quantized_modules(model)
        if isinstance(quantizer := module.param_quantizers._modules.get("weight"), AdaRoundQuantizeDequantize)  # pyright: ignore[reportAttributeAccessIssue]
    ]
    if not inputs or not layers:
        raise ConfigurationError(
            "nothing to learn",
            where="learn_rounding",
            got=f"{len(layers)} layers, {len(inputs)} batches",
            expected="weights with AdaRoundQuantizeDequantize (IntegerSetting(method='adaround')), and data",
        )
    errors: dict[str, tuple[float, float]] = {}
    with evaluation_mode(model):
        for path, module, quantizer in _in_order(model, inputs[0], layers):
            calls = _calls(model, path, module, inputs)
            before, after = _learn(module, quantizer, calls, iterations, batch_size, learning_rate, decision, seed)
            errors[path] = (before, after)
            if on_layer is not None:
                on_layer(path, before, after)
    return errors


_Layer = tuple[str, nn.Module, AdaRoundQuantizeDequantize]


def _in_order(model: nn.Module, inputs: ModelInputs, layers: list[_Layer]) -> list[_Layer]:
    order: list[nn.Module] = []
    handles = [module.register_forward_pre_hook(lambda module, _: order.append(module)) for _, module, _ in layers]
    try:
        with torch.no_grad():
            inputs.call(model)
    finally:
        for handle in handles:
            handle.remove()
    return sorted((layer for layer in layers if layer[1] in order), key=lambda layer: order.index(layer[1]))


def _calls(model: nn.Module, path: str, module: nn.Module, inputs: list[ModelInputs]) -> Tensor:
    """What the layer sees, all samples in one tensor."""
    seen: list[Tensor] = []

    def note(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append((args[0] if args else named["input"]).detach())

    handle = module.register_forward_pre_hook(note, with_kwargs=True)
    try:
        with torch.no_grad():
            for each in inputs:
                each.call(model)
    finally:
        handle.remove()
    if isinstance(module, nn.Linear):  # batches of texts have several lengths; a linear layer sees rows
        seen = [x.flatten(0, -2) if x.dim() > 1 else x.unsqueeze(0) for x in seen] if _differ(seen) else seen
    shapes = {tuple(x.shape[1:]) for x in seen}
    if len(shapes) > 1 or not any(len(x) for x in seen):
        raise ConfigurationError(
            "what the layer sees cannot be put together",
            where=f"learn_rounding ({path})",
            got=f"samples of shapes {sorted(shapes)}" if len(shapes) > 1 else "empty batches only",
            expected="samples of one shape, one at least",
            fix="crop or pad the batches to one size",
        )
    return torch.cat(seen)


def _differ(seen: list[Tensor]) -> bool:
    return len({x.shape[1:] for x in seen}) > 1 or any(x.dim() < 2 for x in seen)


def _learn(
    module: Any,
    quantizer: AdaRoundQuantizeDequantize,
    x: Tensor,
    iterations: int,
    batch_size: int,
    learning_rate: float,
    decision: float,
    seed: int,
) -> tuple[float, float]:
    generator = torch.Generator().manual_seed(seed)
    with module._remove_output_quantizers(), _only_rounding_learns(module, quantizer):
        with torch.no_grad():
            module._calibrate_parameters(overwrite=False)
            quantizer.end_rounding()
            with module._remove_param_quantizers():
                target = module(x)
            before = float((module(x) - target).square().mean())
            quantizer.begin_rounding(module.weight)
        try:
            _descend(module, quantizer, x, target, iterations, batch_size, learning_rate, decision, generator)
        except BaseException:
            quantizer.end_rounding()
            raise
        finally:
            quantizer.eval()
        quantizer.freeze()
        with torch.no_grad():
            after = float((module(x) - target).square().mean())
            if after > before:  # few iterations can end behind where they began
                quantizer.begin_rounding(module.weight)
                quantizer.freeze()
                after = float((module(x) - target).square().mean())
    return before, after


def _descend(
    module: Any,
    quantizer: AdaRoundQuantizeDequantize,
    x: Tensor,
    target: Tensor,
    iterations: int,
    batch_size: int,
    learning_rate: float,
    decision: float,
    generator: torch.Generator,
) -> None:
    """Learns the rounding of one layer, whose outputs are to be ``target``."""
    alpha = quantizer.alpha
    assert alpha is not None
    optimizer = torch.optim.Adam([alpha], lr=learning_rate)
    quantizer.train()
    for iteration in range(iterations):
        rows = torch.randint(len(x), (min(batch_size, len(x)),), generator=generator).to(x.device)
        with torch.enable_grad():
            difference = module(x[rows]) - target[rows]
            loss = difference.square().sum(1 if difference.dim() > 1 else 0).mean()
            progress = (iteration / iterations - _FREE) / (1.0 - _FREE)
            if progress > 0:
                loss = loss + decision * quantizer.rounding_loss(20.0 - 18.0 * progress)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
        optimizer.step()


@contextmanager
def _only_rounding_learns(module: nn.Module, quantizer: AdaRoundQuantizeDequantize) -> Iterator[None]:
    own = {id(values) for values in quantizer.parameters()}  # what its state makes of them is to stay
    wanted = [values for values in module.parameters() if values.requires_grad and id(values) not in own]
    for values in wanted:
        values.requires_grad_(False)
    try:
        yield
    finally:
        for values in wanted:
            values.requires_grad_(True)


@torch.no_grad()
def bake_rounding(model: nn.Module) -> list[str]:
    """Sets weights to what their learned rounding makes of them, and their quantizers back to rounding to nearest.

    The model computes the same after it. Do it before what writes weights and encodings, which know no rounding:
    ONNX, encodings files, checkpoints.

    Args:
        model: A simulation's model, or modules with two paths.

    Returns:
        Paths of the layers.
    """
    baked: list[str] = []
    for path, module in named_quantized_modules(model):
        for name, quantizer in module.param_quantizers._modules.items():  # pyright: ignore[reportAttributeAccessIssue]
            weight = module._parameters.get(name)
            if (
                isinstance(quantizer, AdaRoundQuantizeDequantize)
                and not quantizer.rounds_to_nearest
                and weight is not None
            ):
                weight.copy_(quantizer(weight))
                quantizer.end_rounding()
                quantizer.freeze()
                baked.append(path)
    return baked
