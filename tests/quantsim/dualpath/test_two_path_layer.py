"""What a layer with two paths of one's own needs."""

from __future__ import annotations

import torch
from torch import nn

from quantsim.dualpath import MatMul, QBase, dequantize
from quantsim.dualpath.two_path_layer import TwoPathLayer
from quantsim.nn import QuantizedLinear, compute_encodings


class Doubled(TwoPathLayer, QuantizedLinear):
    """A linear layer that says what its integer operation is."""

    _channel_axis = -1

    def __init__(self, size: int) -> None:
        super().__init__(size, size)
        self._make_two_paths(8, 8, True)

    def _integer_operation(self, zero_point: int) -> nn.Module:
        return MatMul()


def test_a_subclass_has_both_paths() -> None:
    layer, x = Doubled(6), torch.randn(10, 6)
    layer.yq = QBase(8)
    with compute_encodings(layer):
        layer(x)
    real = layer(x).detach()
    codes = layer.inference()(x)
    assert float((dequantize(codes, layer.output_grid) - real).abs().max()) <= 1.001 * layer.output_grid.scale


def test_users_may_override_a_path() -> None:
    class Clipped(Doubled):
        def trainFunc(self, input: torch.Tensor) -> torch.Tensor:
            return super().trainFunc(input).clamp(min=0)

    layer = Clipped(6)
    with compute_encodings(layer):
        layer(torch.randn(10, 6))
    assert layer(torch.randn(10, 6)).min().item() == 0.0
