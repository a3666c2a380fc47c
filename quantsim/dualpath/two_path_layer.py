"""What layers with a training path and an inference path share."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import numpy as np
import torch
from torch import Tensor, nn
from typing_extensions import override

from quantsim.dualpath.accumulator_bound import require_accumulator, weighted_sum_bound
from quantsim.dualpath.integer_codes import activation_codes, activation_grid, weight_codes
from quantsim.dualpath.integer_graph import Grid
from quantsim.dualpath.quantizer_base import QBase
from quantsim.dualpath.quantizer_slots import WIDEST, QuantizerSlot, QuantizerSlots
from quantsim.dualpath.rescale import AccumulatorBias, MulQuant
from quantsim.errors import ConfigurationError
from quantsim.nn import QuantizationMixin
from quantsim.nn.base import BaseQuantizationMixin
from quantsim.quantization.base import QuantizerBase

__all__ = ["TwoPathLayer"]

_DERIVED = ("qweight", "ops", "rescaler")


class TwoPathLayer(QuantizerSlots, BaseQuantizationMixin):
    """What `QBaseLinear` and `QBaseConv2d` share: their quantizers' short names and the two paths.

    Training path: `quantsim.nn`'s quantized layer. Inference path, on integers::

        sums   = ops(aq(x), qweight)                                              int32
        codes  = clamp(round((sums + bias) * multiplier / 2^shift) + zero point)  of yq's grid; or, without yq,
        sums + bias                                                               int32

    with ``bias = round(b / (step_x step_w)) - zero_point_x * sum(qweight)``. What comes in is quantized by ``aq`` if
    it is real, and is taken as codes of ``aq``'s grid if it is integer.

    Attributes:
        wq: Weight quantizer, the ``weight`` entry of ``param_quantizers``; `torch.nn.Identity` if there is none.
        aq: Activation quantizer, the first of ``input_quantizers``; likewise.
        yq: Output quantizer, the first of ``output_quantizers``; likewise.
        train_flag: True on the training path.
        qweight: int8 weights; there only while inference is on.
        ops: The integer operation, likewise.
        rescaler: What makes the result of the sums, likewise.
        input_grid: Grid of the codes that come in, likewise.
        output_grid: Grid of the integers that go out, likewise.
    """

    wq = QuantizerSlot("", "param_quantizers", "weight")
    aq = QuantizerSlot("", "input_quantizers", "0")
    yq = QuantizerSlot("", "output_quantizers", "0")
    train_flag: bool
    input_grid: Grid | None = None
    output_grid: Grid | None = None
    _channel_axis: ClassVar[int]

    def _make_two_paths(self, wbit: int, abit: int, train_flag: bool) -> None:
        self.train_flag = bool(train_flag)
        self.wbit, self.abit = wbit, abit
        weight = self._own_parameter("weight")
        assert weight is not None
        if wbit < WIDEST:
            shape = (weight.shape[0],) + (1,) * (weight.dim() - 1)
            self.wq = QBase(wbit, unsigned=False, shape=shape).to(weight.device)
        if abit < WIDEST:
            self.aq = QBase(abit, unsigned=True).to(weight.device)

    # ---------------------------------------------------------------- the two paths

    def forward(self, input: Tensor) -> Tensor:
        """Runs the path that ``train_flag`` says."""
        return self.trainFunc(input) if self.train_flag else self.evalFunc(input)

    def trainFunc(self, input: Tensor) -> Tensor:  # noqa: N802 (the published name)
        """Training path: quantized and dequantized operands, real numbers out."""
        return super().forward(input)

    def evalFunc(self, input: Tensor) -> Tensor:  # noqa: N802 (the published name)
        """Inference path: integers only.

        Args:
            input: Real numbers, or codes on the input's grid.
        """
        if "qweight" not in self._buffers:
            self.inference()
        quantizer, grid = self._input_quantizer(), self.input_grid
        assert grid is not None
        codes = activation_codes(input, quantizer, grid, self._location("aq"))
        return self.rescaler(self.ops(codes, self.qweight))  # pyright: ignore[reportCallIssue]

    @torch.no_grad()
    def inference(
        self,
        mode: bool = True,
        *,
        input_quantizer: QuantizerBase | None = None,
        output_quantizer: QuantizerBase | None = None,
    ) -> Self:
        """Switches the layer and its quantizers to the inference path; ``mode=False`` switches back.

        Integer weights, bias and multipliers are made anew from what weight and quantizers are now. On an error
        nothing changes.

        Args:
            mode: Whether to infer.
            input_quantizer: Whose codes come in, for a layer without ``aq``: the quantizer of the layer before.
            output_quantizer: Whose codes are to go out, for a layer without ``yq``: the quantizer of the layer after.

        Raises:
            NotCalibratedError: If a quantizer has no range yet.
            ConfigurationError: If a quantizer is missing or has no integers, or the sums could leave 32 bits.
        """
        if not mode:
            self._drop_integers()
            self.train_flag = True
            self._set_quantizer_paths(False)
            return self
        before = self.__dict__.get("_neighbours", (None, None))
        if input_quantizer is not None or output_quantizer is not None:
            self.__dict__["_neighbours"] = (input_quantizer, output_quantizer)
        try:
            self._make_integers()
        except BaseException:
            self.__dict__["_neighbours"] = before
            raise
        self._set_quantizer_paths(True)
        self.train_flag = False
        return self

    def _make_integers(self) -> None:
        """Makes what the inference path computes with; on an error nothing changes."""
        quantizer = self._input_quantizer()
        grid = activation_grid(quantizer, self._location("aq"))
        codes, scales = self._integer_weight()
        output = self.quantizer("yq") or self._neighbour(1)
        output_grid = None if output is None else activation_grid(output, self._location("yq"))
        bias = self._integer_bias(codes, grid, scales)
        terms = codes[0].numel()
        bound = weighted_sum_bound(codes.cpu().numpy(), grid.low, grid.high) + int(np.abs(bias).max(initial=0))
        require_accumulator(
            bound,
            layer=self._location("inference"),
            terms=terms,
            operands=f"codes from {grid.low} to {grid.high} and weights to {int(codes.to(torch.int32).abs().max())}",
        )
        steps = scales * float(grid.scale)
        axis, count = self._channel_axis, codes.shape[0]
        if output_grid is None:
            rescaler: nn.Module = AccumulatorBias(bias, axis=axis)
            limits = torch.iinfo(torch.int32)
            scale = float(steps[0]) if steps.size == 1 else steps
            output_grid = Grid(scale, 0, limits.min, limits.max, None if steps.size == 1 else axis)
        else:
            rescaler = MulQuant(
                scale=np.broadcast_to(steps / float(output_grid.scale), (count,)),
                bias=bias,
                zero_point=output_grid.zero_point,
                limits=(output_grid.low, output_grid.high),
                axis=axis,
            )
        operation = self._integer_operation(grid.zero_point)
        self._drop_integers()
        self.register_buffer("qweight", codes)
        self.ops, self.rescaler = operation, rescaler.to(codes.device)
        self.input_grid, self.output_grid = grid, output_grid

    def _integer_operation(self, zero_point: int) -> nn.Module:
        raise NotImplementedError

    def _input_quantizer(self) -> QuantizerBase:
        quantizer = self.quantizer("aq") or self._neighbour(0)
        if quantizer is None:
            raise ConfigurationError(
                "the inference path does not know the grid of its input",
                where=self._location("aq"),
                got="no quantizer",
                expected="a quantizer of the activation",
                fix="set aq (or make the layer with abit=8), or pass inference(input_quantizer=...)",
            )
        return quantizer

    def _neighbour(self, which: int) -> QuantizerBase | None:
        return self.__dict__.get("_neighbours", (None, None))[which]

    def _integer_weight(self) -> tuple[Tensor, np.ndarray]:
        quantizer = self.quantizer("wq")
        if quantizer is None:
            raise ConfigurationError(
                "the inference path needs integer weights",
                where=self._location("wq"),
                got="no quantizer",
                expected="a quantizer of the weight",
                fix="set wq (or make the layer with wbit=8)",
            )
        self._calibrate_parameters(overwrite=False)
        weight = self._own_parameter("weight")
        assert weight is not None
        return weight_codes(weight, quantizer, self._location("wq"))

    def _integer_bias(self, codes: Tensor, grid: Grid, scales: np.ndarray) -> np.ndarray:
        """``round(b / (step_x step_w)) - zero_point_x * sum(w)``, in steps of the sum."""
        sums = codes.reshape(codes.shape[0], -1).sum(1, dtype=torch.int64).cpu().numpy()
        result = -grid.zero_point * sums
        bias = self._parameters.get("bias")
        if bias is None:
            return result
        steps = np.rint(bias.detach().cpu().double().numpy() / (scales * float(grid.scale)))
        if not (np.abs(steps) < 2**62).all():
            raise ConfigurationError(
                "the bias is no number of steps of the sum",
                where=self._location("bias"),
                got=f"{float(steps[np.argmax(~(np.abs(steps) < 2**62))])} steps",
                expected="finite numbers that 32 bits can hold",
                fix="look for NaN and infinity in the bias, or give input and weight larger ranges",
            )
        return result + steps.astype(np.int64)

    def _drop_integers(self) -> None:
        self._buffers.pop("qweight", None)
        for name in ("ops", "rescaler"):
            self._modules.pop(name, None)
        self.input_grid = self.output_grid = None

    @override
    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # What is derived is made anew in the next forward, from the weight and the quantizers that are loaded.
        self._drop_integers()
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        unexpected_keys[:] = [
            key
            for key in unexpected_keys
            if not key.startswith(prefix) or key.removeprefix(prefix).split(".")[0] not in _DERIVED
        ]

    @classmethod
    @override
    def from_module(cls, module: nn.Module, wbit: int = 32, abit: int = 32, train_flag: bool = True) -> Self:
        """Makes the layer of a float one, whose parameters and hooks it shares.

        Args:
            module: A layer of the class that this one stands for; one of this class is returned as it is.
            wbit: See the constructor.
            abit: ...
            train_flag: ...

        Raises:
            ConfigurationError: If the layer is another.
        """
        if isinstance(module, cls):
            return module
        if type(module) is not cls._float_class():
            raise ConfigurationError(
                where=f"{cls.__name__}.from_module",
                got=f"a {type(module).__name__}",
                expected=f"a {cls._float_class().__name__}",
            )
        made = object.__new__(cls)
        made.__dict__.update(QuantizationMixin.from_module(module).__dict__)
        made._make_two_paths(wbit, abit, train_flag)
        return made

    @override
    def get_original_module(self) -> nn.Module:
        """Returns the float layer, see `BaseQuantizationMixin.get_original_module`."""
        original = super().get_original_module()
        for name in ("ops", "rescaler"):
            original._modules.pop(name, None)
        original._buffers.pop("qweight", None)
        for name in ("train_flag", "wbit", "abit", "input_grid", "output_grid", "_neighbours", "_frozen_for_inference"):
            original.__dict__.pop(name, None)
        return original
