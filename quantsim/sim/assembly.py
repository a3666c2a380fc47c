"""Makes the quantizers that a placement asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from quantsim.errors import ConfigurationError
from quantsim.quantization.base import QuantizerBase
from quantsim.sim.config import SimulationConfig
from quantsim.sim.example_run import ExampleRun
from quantsim.sim.leaf import Leaf
from quantsim.sim.module_kinds import channel_axis
from quantsim.sim.placement import place_quantizers
from quantsim.sim.quantizer_factory import activation_quantizer, parameter_quantizer
from quantsim.sim.shared_grids import share_quantizers
from quantsim.sim.slots import slot_name
from quantsim.sim.summed_axes import summed_axis
from quantsim_encodings.document import TensorReference, TensorRole

__all__ = ["make_quantizers"]


def make_quantizers(
    config: SimulationConfig, leaves: Sequence[Leaf], modules: Mapping[str, nn.Module], run: ExampleRun | None
) -> dict[TensorReference, QuantizerBase]:
    """A quantizer for every tensor that the config quantizes; nothing is put into modules yet.

    A parameter that modules share gets one quantizer, as it has one set of codes on hardware; so do tensors that are
    joined.

    Args:
        config: What is wanted.
        leaves: Quantized modules.
        modules: All modules of the model by path, for the config's rules.
        run: What a run on example inputs showed.

    Raises:
        ConfigurationError: A rule does not fit the model, a setting does not fit a tensor, a lazy module was never run.
    """
    _require_shapes(leaves)
    by_path = {leaf.path: leaf for leaf in leaves}
    result: dict[TensorReference, QuantizerBase] = {}
    shared: dict[tuple[int, object], QuantizerBase] = {}
    placement = place_quantizers(config, leaves, modules, run)
    for tensor, setting in placement.items():
        leaf = by_path[tensor.module]
        where = slot_name(tensor)
        axis = summed_axis(tensor, by_path, run)
        if tensor.role is not TensorRole.PARAM:
            values = next(leaf.module.parameters(), None)
            quantizer = activation_quantizer(setting, op=leaf.op, summed_axis=axis, where=where)
            result[tensor] = quantizer if values is None else quantizer.to(values.device)
            continue
        values = leaf.parameters[tensor.key]
        quantizer = shared.get((id(values), setting))
        if quantizer is None:
            channels = channel_axis(leaf.op, values)
            quantizer = parameter_quantizer(setting, values, channels, summed_axis=axis, where=where)
        if isinstance(values, nn.Parameter):  # not rows of one, which are new tensors each time
            shared[id(values), setting] = quantizer
        result[tensor] = quantizer
    return share_quantizers(result, placement.shared, placement)


def _require_shapes(leaves: Sequence[Leaf]) -> None:
    """Raises for a lazy module that was never run; placement reads the shapes of parameters."""
    for leaf in leaves:
        for name, values in leaf.parameters.items():
            if isinstance(values, nn.parameter.UninitializedParameter):
                raise ConfigurationError(
                    "a lazy module has no shape yet",
                    where=slot_name(TensorReference(leaf.path, TensorRole.PARAM, name)),
                    got=type(leaf.module).__name__,
                    expected="a model that has run once",
                    fix="give example_inputs, or run the model on one batch before simulating it",
                )
