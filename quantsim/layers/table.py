"""The table of float-precision layers: one row for each, from which `quantsim.layers.generation` makes its class."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from inspect import Parameter
from typing import Any, Final

from torch import nn

__all__ = ["ALIASES", "LAYERS", "LayerSpec"]

_RECURRENT: Final = (
    Parameter("input_size", Parameter.POSITIONAL_OR_KEYWORD, annotation=int),
    Parameter("hidden_size", Parameter.POSITIONAL_OR_KEYWORD, annotation=int),
    Parameter("num_layers", Parameter.POSITIONAL_OR_KEYWORD, default=1, annotation=int),
    Parameter("bias", Parameter.POSITIONAL_OR_KEYWORD, default=True, annotation=bool),
    Parameter("batch_first", Parameter.POSITIONAL_OR_KEYWORD, default=False, annotation=bool),
    Parameter("dropout", Parameter.POSITIONAL_OR_KEYWORD, default=0.0, annotation=float),
    Parameter("bidirectional", Parameter.POSITIONAL_OR_KEYWORD, default=False, annotation=bool),
    Parameter("device", Parameter.POSITIONAL_OR_KEYWORD, default=None),
    Parameter("dtype", Parameter.POSITIONAL_OR_KEYWORD, default=None),
)
_NONLINEARITY: Final = Parameter("nonlinearity", Parameter.POSITIONAL_OR_KEYWORD, default="tanh", annotation=str)
_PROJECTION: Final = Parameter("proj_size", Parameter.POSITIONAL_OR_KEYWORD, default=0, annotation=int)


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """Says what a float-precision layer is called with; one row of the table.

    Its arguments are: those that the torch layer requires, ``exp_bits``, ``sig_bits``, the torch arguments named in
    ``positional``, ``rmode``, and by keyword all others of the torch layer.

    Args:
        torch_class: The torch layer.
        positional: Optional arguments of the torch layer that can be given by position.
        defaults: Defaults that differ from torch's.
        parameters: The torch layer's arguments, where its constructor does not name them.
    """

    torch_class: type[nn.Module]
    positional: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    parameters: tuple[Parameter, ...] = ()

    @property
    def name(self) -> str:
        """Name of the layer."""
        return f"Quantized{self.torch_class.__name__}"

    def torch_parameters(self) -> tuple[Parameter, ...]:
        """The torch layer's arguments, in its order, with this row's defaults; private ones are left out."""
        found = self.parameters or tuple(inspect.signature(self.torch_class.__init__).parameters.values())[1:]
        return tuple(
            parameter.replace(default=self.defaults[parameter.name]) if parameter.name in self.defaults else parameter
            for parameter in found
            if parameter.kind is Parameter.POSITIONAL_OR_KEYWORD and not parameter.name.startswith("_")
        )


def _row(
    torch_class: type[nn.Module], positional: str = "", parameters: tuple[Parameter, ...] = (), **defaults: Any
) -> LayerSpec:
    return LayerSpec(
        torch_class=torch_class, positional=tuple(positional.split()), parameters=parameters, defaults=defaults
    )


LAYERS: Final[tuple[LayerSpec, ...]] = (
    _row(nn.Linear),
    _row(nn.Bilinear),
    *(_row(cls, "stride padding") for cls in (nn.Conv1d, nn.Conv2d, nn.Conv3d)),
    *(_row(cls, "stride padding") for cls in (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)),
    _row(nn.Embedding),
    _row(nn.EmbeddingBag),
    _row(nn.LayerNorm, "eps"),
    _row(nn.RMSNorm, "eps"),
    _row(nn.GroupNorm, "eps"),
    *(_row(cls, "eps momentum") for cls in (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)),
    *(_row(cls, "eps momentum") for cls in (nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d)),
    _row(nn.MultiheadAttention, "dropout", batch_first=True),
    _row(nn.RNN, "num_layers bias nonlinearity", (*_RECURRENT, _NONLINEARITY), batch_first=True),
    _row(nn.LSTM, "num_layers bias", (*_RECURRENT, _PROJECTION), batch_first=True),
    _row(nn.GRU, "num_layers bias", _RECURRENT, batch_first=True),
    _row(nn.RNNCell, "bias nonlinearity"),
    _row(nn.LSTMCell, "bias"),
    _row(nn.GRUCell, "bias"),
    *(
        _row(cls)
        for cls in (
            *(nn.ReLU, nn.ReLU6, nn.LeakyReLU, nn.PReLU, nn.ELU, nn.CELU, nn.SELU, nn.GELU, nn.SiLU, nn.Mish, nn.GLU),
            *(nn.Hardswish, nn.Hardsigmoid, nn.Hardtanh, nn.Softplus, nn.Softsign, nn.Tanh, nn.Sigmoid, nn.LogSigmoid),
            *(nn.Softmax, nn.LogSoftmax, nn.Softmin, nn.Dropout),
        )
    ),
    *(
        _row(cls, "stride padding")
        for cls in (nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)
    ),
    *(
        _row(cls)
        for cls in (
            *(nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d),
            *(nn.AdaptiveMaxPool1d, nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d),
        )
    ),
)
"""One row for each layer."""

ALIASES: Final[Mapping[str, str]] = {"QuantizedLinearNorm": "QuantizedLayerNorm"}
"""Second names of layers."""
