"""What the attention modules share: scores, softmax and product on both paths, and the switch between them."""

from __future__ import annotations

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from quantsim.dualpath.integer_codes import activation_grid
from quantsim.dualpath.integer_graph import Grid
from quantsim.dualpath.integer_ops import IntMatMul
from quantsim.dualpath.integer_softmax import SCORE_STEP, IntegerSoftmaxMatMul, SoftmaxRule, split_mask
from quantsim.dualpath.quantizer_base import QBase
from quantsim.dualpath.quantizer_slots import WIDEST, QuantizerSlot, QuantizerSlots
from quantsim.dualpath.rescale import MulShift
from quantsim.dualpath.two_path_layer import TwoPathLayer
from quantsim.errors import ConfigurationError
from quantsim.nn import QuantizedSoftmax
from quantsim.quantization.base import QuantizerBase
from quantsim.quantization.softmax import UnnormalizedSoftmaxQuantizeDequantize

__all__ = ["TwoPathAttention"]

_FINER = 256
"""Steps of a result without a quantizer in one step of the values: 8 more bits, which int16 holds."""


class TwoPathAttention(QuantizerSlots):
    """Base of the attention modules: ``softmax(q k^T * scale + bias, where mask) v`` on two paths.

    Training path: floating-point operations between quantizers. Inference path, on codes::

        scores  = attn_scale(qk(q, k^T))         int32, in steps of 2^-11 nat
        result  = softmax_attnv(scores, v)       codes of the result's quantizer

    The softmax rounds ``exp(x - max)`` to 8 bits and divides after the product (see `SoftmaxRule`); while bits are
    given, a quantizer on the training path does the same.

    Attributes:
        train_flag: True on the training path.
        qk: Product of queries and keys.
        attn_scale: Scales the scores by ``head_dim^-1/2``; on the inference path, from steps of the product to steps
            of integer softmax.
        softmax: Softmax of the training path.
        pq: Quantizer of its result.
        attnv: Product of probabilities and values.
        softmax_attnv: Integer softmax and that product; there only while inference is on.
        output_grid: Grid of the integers that go out, likewise.
    """

    pq = QuantizerSlot("softmax", "output_quantizers", "0")
    train_flag: bool
    qk: IntMatMul
    attn_scale: MulShift
    attnv: IntMatMul
    softmax_attnv: IntegerSoftmaxMatMul

    _layers: ClassVar[tuple[str, ...]]
    """Names of the projections."""

    def _make_attention(self, head_dim: int, abit: int, train_flag: bool, softmax_rule: SoftmaxRule | str) -> None:
        self.train_flag = bool(train_flag)
        self.softmax_rule = SoftmaxRule.parse(softmax_rule)
        self.qk, self.attnv = IntMatMul(min(abit, 8)), IntMatMul(min(abit, 8))
        self.attn_scale = MulShift(head_dim**-0.5)
        self.softmax = QuantizedSoftmax(dim=-1)
        if abit < WIDEST:
            self.pq = _probability_quantizer(self.softmax_rule)

    @property
    def output_grid(self) -> Grid | None:
        """Grid of the integers that go out; ``None`` on the training path."""
        raise NotImplementedError

    # ---------------------------------------------------------------- the two paths

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Training path: the result, and the probabilities.

        Args:
            q: Queries, shape (..., M, head_dim).
            k: Keys, shape (..., N, head_dim).
            v: Values, likewise.
            mask: Numbers that are added to the scores, or booleans, True where an element takes part.
        """
        scores = self._scores(q, k)
        if mask is not None:
            scores = with_mask(scores, mask)
        return self._weighted(scores, v)

    def _scores(self, q: Tensor, k: Tensor) -> Tensor:
        return self.attn_scale(self.qk(q, k.transpose(-2, -1)))

    def _weighted(self, scores: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        probabilities = self._drop(self.softmax(scores))
        return self.attnv(probabilities, v), probabilities

    def _drop(self, probabilities: Tensor) -> Tensor:
        """Dropout of probabilities, on the training path."""
        return probabilities

    def _attend_integer(
        self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, bias: Tensor | None = None
    ) -> Tensor:
        """Inference path: codes of the result.

        Args:
            q: Codes of queries; as the next two, shaped as for `_attend`.
            k: ...
            v: ...
            mask: Booleans, or numbers to add.
            bias: Further integers to add to scores, in steps of 2^-11 nat.
        """
        scores = self._scores(q, k)
        taking_part, added = split_mask(mask)
        bias = added if bias is None else bias if added is None else bias + added
        return self.softmax_attnv(scores, v, taking_part, bias)

    # ---------------------------------------------------------------- the switch

    def inference(self, mode: bool = True) -> Self:
        """Switches the module, its projections and its quantizers to the inference path; ``mode=False`` switches back.

        On an error nothing changes.

        Raises:
            NotCalibratedError: If a quantizer has no range yet.
            ConfigurationError: If a quantizer is missing or has no integers, or sums could leave 32 bits.
        """
        if not mode:
            self._back_to_training()
            return self
        before = self.train_flag
        try:
            with torch.no_grad():
                self._prepare()
        except BaseException:
            if before:
                self._back_to_training()
            raise
        self._set_quantizer_paths(True)
        self.train_flag = False
        return self

    def _prepare(self) -> None:
        """Makes all integers that the inference path needs."""
        raise NotImplementedError

    def _prepare_product(self, q: Grid, k: Grid, v: Grid, result: QuantizerBase | None, rescale: MulShift) -> Grid:
        """Makes the integers of scores, softmax and product; returns the grid of the result."""
        output = self._finer_grid(v) if result is None else activation_grid(result, self._place("attnv.output"))
        self.qk.zero_points = (q.zero_point, k.zero_point)
        self.attn_scale.inference(input_scale=float(q.scale) * float(k.scale), output_scale=SCORE_STEP)
        self.softmax_attnv = IntegerSoftmaxMatMul(v, output, rescale, self.attnv, self.softmax_rule)
        return output

    @staticmethod
    def _finer_grid(values: Grid) -> Grid:
        """Where nobody quantizes the result: averages of values, on a grid that loses nothing worth having."""
        limits = torch.iinfo(torch.int16)
        return Grid(float(values.scale) / _FINER, 0, limits.min, limits.max)

    def _back_to_training(self) -> None:
        for name in self._layers:
            layer = getattr(self, name)
            if isinstance(layer, TwoPathLayer):
                layer.inference(False)
        self.attn_scale.inference(False)
        self._modules.pop("softmax_attnv", None)
        self._set_quantizer_paths(False)
        self.train_flag = True

    def _ready(self) -> bool:
        """Whether the inference path has its integers: they are dropped when a state is loaded."""
        layers = (getattr(self, name) for name in self._layers)
        return "softmax_attnv" in self._modules and all("qweight" in layer._buffers for layer in layers)

    def _required(self, name: str) -> QuantizerBase:
        quantizer = self.quantizer(name)
        if quantizer is None:
            raise ConfigurationError(
                "the inference path needs integers here",
                where=self._place(name),
                got="no quantizer",
                expected="a quantizer of the activation",
                fix=f"set {name} (or make the module with abit=8)",
            )
        return quantizer

    def _grid(self, name: str) -> Grid:
        return activation_grid(self._required(name), self._place(name))

    def _place(self, name: str) -> str:
        return f"{getattr(self, 'module_path', None) or type(self).__name__}.{name}"

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
        # What is derived is made anew in the next forward, from the weights and quantizers that are loaded.
        self._modules.pop("softmax_attnv", None)
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )


def with_mask(scores: Tensor, mask: Tensor) -> Tensor:
    """Scores of the training path under a mask, in their own dtype if that is boolean.

    Args:
        scores: Real numbers.
        mask: Numbers to add, or booleans that are True where an element takes part; broadcasts to the scores.

    Example:
        >>> with_mask(torch.zeros(2).half(), torch.tensor([True, False]))
        tensor([     0., -65504.], dtype=torch.float16)
    """
    if mask.dtype != torch.bool:
        return scores + mask
    return scores.masked_fill(~mask, torch.finfo(scores.dtype).min)


def activation_quantizer(abit: int, *, unsigned: bool = False) -> QBase | None:
    """A quantizer of ``abit`` bits, ``None`` for 32."""
    return QBase(abit, unsigned=unsigned) if abit < WIDEST else None


def _probability_quantizer(rule: SoftmaxRule) -> QuantizerBase:
    if rule is SoftmaxRule.UNNORMALIZED:
        return UnnormalizedSoftmaxQuantizeDequantize(bits=8)
    quantizer = QBase(8)
    quantizer.set_qparams(1 / 255)
    quantizer.freeze()
    return quantizer
