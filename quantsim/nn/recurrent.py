"""Quantized RNN, GRU, LSTM and their cells: states have quantizers of their own.

Input quantizers are those of the sequence, the hidden and (LSTM) the cell state; output quantizers likewise. By
default the states are quantized where they enter and leave the module, and torch's fused implementation runs in
between. With ``quantize_every_step = True`` the output quantizers of the states are applied after every time step,
as hardware that stores states in few bits does; the sequence is then computed step by step.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from quantsim.nn.containers import quantizers_of
from quantsim.nn.quantized_forward import SpecifiedModule

__all__ = ["RecurrentCell", "RecurrentModule"]

State = tuple[Tensor, ...]
"""Hidden state, and cell state for LSTM."""


class RecurrentModule(SpecifiedModule):
    """Behaviour of the quantized classes of RNN, GRU and LSTM.

    Attributes:
        quantize_every_step: Whether the output quantizers of the states (index 1, and 2 for LSTM) are applied after
            every time step. The last step of the output sequence then equals the final hidden state.
    """

    quantize_every_step: bool = False
    _flat_weights: list[Tensor | None]
    _flat_weights_names: list[str]

    def __quant_init__(self) -> None:
        super().__quant_init__()
        _let_compilers_in()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        _let_compilers_in()

    def _fake_quantized_forward(self, *args: Any, **kwargs: Any) -> Any:
        sequence, states = _sequence_and_states(args, kwargs)
        sequence = self._quantize_sequence("input_quantizers", sequence)
        given = states is not None
        if given:
            parts = states if isinstance(states, tuple) else (states,)
            parts = tuple(self._quantize_state("input_quantizers", 1 + slot, part) for slot, part in enumerate(parts))
            states = parts if isinstance(states, tuple) else parts[0]
        if self.quantize_every_step:
            output, states = self._forward_by_steps(sequence, states)
        else:
            output, states = self._run_float_forward((sequence, states), {})
        of_outputs = quantizers_of(self, "output_quantizers")
        if self.quantize_every_step:  # each step has quantized its states, of which the output is made
            if of_outputs.get("0") is not of_outputs.get("1"):
                output = self._quantize_sequence("output_quantizers", output)
            return output, states
        output = self._quantize_sequence("output_quantizers", output)
        if isinstance(states, tuple):
            return output, tuple(
                self._quantize_state("output_quantizers", 1 + slot, part) for slot, part in enumerate(states)
            )
        return output, self._quantize_state("output_quantizers", 1, states)

    def _quantize_state(self, container: str, index: int, state: Tensor) -> Tensor:
        quantizer = quantizers_of(self, container).get(str(index))
        return state if quantizer is None else self._quantize_tensor(container, index, quantizer, state)

    def _quantize_sequence(self, container: str, sequence: Any) -> Any:
        quantizer = quantizers_of(self, container).get("0")
        if quantizer is None:
            return sequence
        if isinstance(sequence, PackedSequence):
            return sequence._replace(data=self._quantize_tensor(container, 0, quantizer, sequence.data))
        return self._quantize_tensor(container, 0, quantizer, sequence)

    def _current_weights(self) -> list[Tensor | None]:
        """Weights in torch's order, quantized where there is a quantizer."""
        quantizers = quantizers_of(self, "param_quantizers")
        weights: list[Tensor | None] = []
        for name in self._flat_weights_names:
            quantizer = quantizers.get(name)
            weights.append(
                self._own_parameter(name) if quantizer is None else self._quantized_parameter(name, quantizer)
            )
        return weights

    def _run_float_forward(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        # torch's forward reads the weights from this list, not from the attributes.
        kept = self._flat_weights
        self.__dict__["_flat_weights"] = self._current_weights()
        try:
            return self._float_forward(*args, **kwargs)
        finally:
            self.__dict__["_flat_weights"] = kept

    def get_original_module(self) -> nn.Module:
        """Returns the float module; see `BaseQuantizationMixin.get_original_module`."""
        original: Any = super().get_original_module()
        original.__dict__.pop("quantize_every_step", None)
        original._init_flat_weights()
        return original

    # ---------------------------------------------------------------- step by step

    def _forward_by_steps(self, sequence: Tensor | PackedSequence, states: Any) -> tuple[Any, Any]:
        module: Any = self
        packed = isinstance(sequence, PackedSequence)
        unbatched = not packed and sequence.dim() == 2
        # What all steps hold in one tensor: of shape (steps, batch, features), or (their sum, features) if packed.
        if packed:
            values = sequence.data
            sizes = sequence.batch_sizes.tolist()
        else:
            values = sequence.transpose(0, 1) if module.batch_first and not unbatched else sequence
            values = values.unsqueeze(1) if unbatched else values
            sizes = None
        batch = sizes[0] if sizes else values.shape[1]
        initial = self._initial_states(states, values, batch, unbatched, sequence.sorted_indices if packed else None)
        weights = dict(zip(self._flat_weights_names, self._current_weights(), strict=True))
        directions = 2 if module.bidirectional else 1
        finals: list[State] = []
        for layer in range(module.num_layers):
            outputs: list[Tensor] = []
            for direction in range(directions):
                suffix = f"_l{layer}{'_reverse' if direction else ''}"
                state = tuple(part[layer * directions + direction] for part in initial)
                cell = _Cell(module.mode, weights, suffix)
                projected = cell.project(values)
                steps = projected.unbind(0) if sizes is None else projected.split(sizes)
                produced, final = self._run_direction(steps, state, cell, bool(direction))
                outputs.append(torch.stack(produced) if sizes is None else torch.cat(produced))
                finals.append(final)
            values = torch.cat(outputs, dim=-1) if directions == 2 else outputs[0]
            if module.dropout and module.training and layer < module.num_layers - 1:
                values = self._on_grid_after_dropout(F.dropout(values, module.dropout))
        stacked = tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
        output: Any = values
        if packed:
            if sequence.unsorted_indices is not None:
                stacked = tuple(part.index_select(1, sequence.unsorted_indices) for part in stacked)
            output = sequence._replace(data=values)
        elif unbatched:
            output, stacked = values.squeeze(1), tuple(part.squeeze(1) for part in stacked)
        elif module.batch_first:
            output = values.transpose(0, 1)
        return output, stacked if module.mode == "LSTM" else stacked[0]

    def _on_grid_after_dropout(self, values: Tensor) -> Tensor:
        """What enters the next layer, on the hidden state's grid again: dropout has scaled what it kept.

        Not where the grid ends at a calibrated range, which the scaled values go beyond.
        """
        quantizer = quantizers_of(self, "output_quantizers").get("1")
        if quantizer is None or quantizer.encoding_analyzer is not None:
            return values
        return self._quantize_tensor("output_quantizers", 1, quantizer, values)

    def _initial_states(self, states: Any, values: Tensor, batch: int, unbatched: bool, order: Tensor | None) -> State:
        """States before the first step, each of shape (layers * directions, batch, size), in the order of the steps."""
        module: Any = self
        if states is None:
            count = module.num_layers * (2 if module.bidirectional else 1)
            sizes = [module.proj_size or module.hidden_size, *([module.hidden_size] if module.mode == "LSTM" else [])]
            return tuple(values.new_zeros(count, batch, size) for size in sizes)
        parts = states if isinstance(states, tuple) else (states,)
        if unbatched:
            parts = tuple(part.unsqueeze(1) for part in parts)
        return tuple(part if order is None else part.index_select(1, order) for part in parts)

    def _run_direction(
        self, steps: Sequence[Tensor], state: State, cell: _Cell, backward: bool
    ) -> tuple[list[Tensor], State]:
        """Runs one layer in one direction; sequences that have ended (or not begun) keep their state.

        Args:
            steps: Projected inputs of each time step; the batch may shrink with time, as in packed sequences.
            state: States of the whole batch.
            cell: One time step.
            backward: Whether time runs backward.
        """
        quantizers = quantizers_of(self, "output_quantizers")
        of_states = [quantizers.get(str(1 + slot)) for slot in range(len(state))]
        outputs: list[Tensor] = []
        for step in reversed(steps) if backward else steps:
            active = len(step)
            all_active = active == len(state[0])
            new = cell(step, state if all_active else tuple(part[:active] for part in state))
            new = tuple(
                part if quantizer is None else self._quantize_tensor("output_quantizers", 1 + slot, quantizer, part)
                for slot, (quantizer, part) in enumerate(zip(of_states, new, strict=True))
            )
            outputs.append(new[0])
            if all_active:
                state = new
            else:
                state = tuple(torch.cat((part, old[active:])) for part, old in zip(new, state, strict=True))
        return (outputs[::-1] if backward else outputs), state


def _let_compilers_in() -> None:
    """Has torch.compile follow modules that derive from RNN, GRU or LSTM; without it ``fullgraph=True`` fails at them.

    torch refuses these classes as a whole, by default, because it cannot trace their fused implementation well.
    """
    # By name: it takes a second to load, which models without recurrent modules need not wait for.
    importlib.import_module("torch._dynamo").config.allow_rnn = True


def _sequence_and_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Binds the arguments ``(input, hx=None)``."""
    if len(args) > 2 or set(kwargs) - {"input", "hx"} or len(args) + len(kwargs) == 0:
        raise TypeError(f"forward(input, hx=None): got {len(args)} positional arguments and keywords {sorted(kwargs)}")
    bound: dict[str, Any] = dict(zip(("input", "hx"), args, strict=False))
    if set(bound) & set(kwargs):
        raise TypeError(f"forward(input, hx=None): got {sorted(set(bound) & set(kwargs))} twice")
    bound.update(kwargs)
    return bound["input"], bound.get("hx")


class _Cell:
    """One layer in one direction, by the formulas of torch.nn.LSTM, GRU and RNN.

    Args:
        mode: The module's ``mode``.
        weights: All weights of the module by name.
        suffix: End of the names of this layer's.
    """

    def __init__(self, mode: str, weights: dict[str, Tensor | None], suffix: str) -> None:
        input_weight, hidden_weight = weights[f"weight_ih{suffix}"], weights[f"weight_hh{suffix}"]
        assert input_weight is not None
        assert hidden_weight is not None
        self._input_weight = input_weight
        self._hidden_weight = hidden_weight.t()
        self._input_bias = weights.get(f"bias_ih{suffix}")
        self._hidden_bias = weights.get(f"bias_hh{suffix}")
        self._projection = weights.get(f"weight_hr{suffix}")
        self._step = {"LSTM": self._lstm, "GRU": self._gru, "RNN_TANH": self._tanh, "RNN_RELU": self._relu}[mode]
        if mode != "GRU" and self._input_bias is not None and self._hidden_bias is not None:
            # The two biases only ever appear as a sum (GRU multiplies the second by its reset gate).
            self._input_bias, self._hidden_bias = self._input_bias + self._hidden_bias, None

    def project(self, values: Tensor) -> Tensor:
        """What the inputs of all steps contribute to the gates, in one product; shape (..., gates)."""
        return F.linear(values, self._input_weight, self._input_bias)

    def __call__(self, projected: Tensor, state: State) -> State:
        """The states after one time step whose projected input is ``projected``, shape (batch, gates)."""
        return self._step(projected, state)

    def _lstm(self, projected: Tensor, state: State) -> State:
        hidden, cell = state
        ingate, forget, new, outgate = torch.addmm(projected, hidden, self._hidden_weight).chunk(4, dim=-1)
        cell = torch.addcmul(forget.sigmoid() * cell, ingate.sigmoid(), new.tanh())
        hidden = outgate.sigmoid() * cell.tanh()
        return (hidden if self._projection is None else F.linear(hidden, self._projection)), cell

    def _gru(self, projected: Tensor, state: State) -> State:
        (hidden,) = state
        size = hidden.shape[-1]
        if self._hidden_bias is None:
            of_hidden = torch.mm(hidden, self._hidden_weight)
        else:
            of_hidden = torch.addmm(self._hidden_bias, hidden, self._hidden_weight)
        input_gates, input_new = projected.split((2 * size, size), dim=-1)
        hidden_gates, hidden_new = of_hidden.split((2 * size, size), dim=-1)
        reset, update = (input_gates + hidden_gates).sigmoid().chunk(2, dim=-1)
        new = torch.addcmul(input_new, reset, hidden_new).tanh()
        return (torch.addcmul(new, hidden - new, update),)

    def _tanh(self, projected: Tensor, state: State) -> State:
        return (torch.addmm(projected, state[0], self._hidden_weight).tanh(),)

    def _relu(self, projected: Tensor, state: State) -> State:
        return (torch.addmm(projected, state[0], self._hidden_weight).relu(),)


class RecurrentCell(SpecifiedModule):
    """Behaviour of the quantized classes of RNNCell, GRUCell and LSTMCell."""

    def _fake_quantized_forward(self, *args: Any, **kwargs: Any) -> Any:
        x, states = _sequence_and_states(args, kwargs)
        x = self._quantize_state("input_quantizers", 0, x)
        if isinstance(states, tuple):
            states = tuple(self._quantize_state("input_quantizers", 1 + slot, part) for slot, part in enumerate(states))
        elif states is not None:
            states = self._quantize_state("input_quantizers", 1, states)
        return self._quantize_outputs(self._run_float_forward((x, states), {}))

    def _quantize_state(self, container: str, index: int, state: Tensor) -> Tensor:
        quantizer = quantizers_of(self, container).get(str(index))
        return state if quantizer is None else self._quantize_tensor(container, index, quantizer, state)
