"""`QBaseLinear` and `QBaseConv2d`: layers that train with fake quantization and infer with integers."""

from __future__ import annotations

import torch
from torch import nn
from typing_extensions import override

from quantsim.dualpath.integer_ops import ConvOPS, MatMul
from quantsim.dualpath.two_path_layer import TwoPathLayer
from quantsim.errors import ConfigurationError
from quantsim.nn import QuantizedConv2d, QuantizedLinear

__all__ = ["QBaseConv2d", "QBaseLinear"]


class QBaseLinear(TwoPathLayer, QuantizedLinear):
    """`torch.nn.Linear` with a training path of fake quantization and an inference path of integers.

    See `TwoPathLayer` for the two paths.

    Args:
        in_features: See `torch.nn.Linear`.
        out_features: See `torch.nn.Linear`.
        bias: See `torch.nn.Linear`.
        wbit: Bits of the weights; below 32, ``wq`` is a signed `QBase` with a scale for each output.
        abit: Bits of the input; below 32, ``aq`` is an unsigned `QBase`.
        train_flag: Whether the layer starts on the training path.
        device: See `torch.nn.Linear`.
        dtype: See `torch.nn.Linear`.

    Attributes:
        wq: Weight quantizer; `torch.nn.Identity` by default.
        aq: Activation quantizer; `torch.nn.Identity` by default.
        yq: Output quantizer; `torch.nn.Identity` by default.

    Example:
        >>> from quantsim.dualpath import QBase
        >>> from quantsim.nn import compute_encodings
        >>> layer = QBaseLinear(4, 2, wbit=8, abit=8)
        >>> layer.yq = QBase(8)
        >>> x = torch.linspace(-1, 1, 12).reshape(3, 4)
        >>> with compute_encodings(layer):
        ...     _ = layer(x)
        >>> real = layer(x).detach()
        >>> codes = layer.inference()(x)
        >>> codes.dtype, layer.qweight.dtype
        (torch.uint8, torch.int8)
        >>> steps = (codes - layer.yq.zero_point) - real / layer.yq.scale
        >>> bool((steps.abs() < 1.001).all())
        True
    """

    _channel_axis = -1

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        wbit: int = 32,
        abit: int = 32,
        train_flag: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device=device, dtype=dtype)
        self._make_two_paths(wbit, abit, train_flag)

    @override
    def _integer_operation(self, zero_point: int) -> nn.Module:
        return MatMul(self.wbit)


class QBaseConv2d(TwoPathLayer, QuantizedConv2d):
    """`torch.nn.Conv2d` with a training path of fake quantization and an inference path of integers.

    See `TwoPathLayer` for the two paths. Integers are padded with the zero point of the input.

    Args:
        in_channels: See `torch.nn.Conv2d`, as the next seven.
        out_channels: ...
        kernel_size: ...
        stride: ...
        padding: ...
        dilation: ...
        groups: ...
        bias: ...
        wbit: Bits of the weights; below 32, ``wq`` is a signed `QBase` with a scale for each output channel.
        abit: Bits of the input; below 32, ``aq`` is an unsigned `QBase`.
        train_flag: Whether the layer starts on the training path.
        device: See `torch.nn.Conv2d`.
        dtype: See `torch.nn.Conv2d`.

    Attributes:
        wq: Weight quantizer; `torch.nn.Identity` by default.
        aq: Activation quantizer; `torch.nn.Identity` by default.
        yq: Output quantizer; `torch.nn.Identity` by default.

    Example:
        >>> from quantsim.nn import compute_encodings
        >>> layer = QBaseConv2d(1, 2, 3, padding=1, wbit=4, abit=8)
        >>> with compute_encodings(layer):
        ...     _ = layer(torch.rand(1, 1, 5, 5))
        >>> layer.inference()(torch.rand(1, 1, 5, 5)).dtype  # without an output quantizer: the sums
        torch.int32
    """

    _channel_axis = 1

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        wbit: int = 32,
        abit: int = 32,
        train_flag: bool = True,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(
            in_channels,
            out_channels,
            kernel_size,
            stride,
            padding,
            dilation,
            groups,
            bias,
            device=device,
            dtype=dtype,
        )
        self._make_two_paths(wbit, abit, train_flag)

    @override
    def _integer_operation(self, zero_point: int) -> nn.Module:
        if self.padding_mode != "zeros":
            raise ConfigurationError(
                "integers are padded with their zero point only",
                where=self._location("padding_mode"),
                got=repr(self.padding_mode),
                expected="'zeros'",
                fix="pad before the layer, with a module of its own",
            )
        sides = self._reversed_padding_repeated_twice  # of the last dimension first: before, after
        pairs = [tuple(sides[2 * index : 2 * index + 2]) for index in reversed(range(len(sides) // 2))]
        return ConvOPS(self.stride, pairs, self.dilation, self.groups, zero_point=zero_point)
