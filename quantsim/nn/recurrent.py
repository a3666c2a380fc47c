"""Quantized RNN, GRU, LSTM and their cells: states have quantizers of their own.

Input quantizers are those of the sequence, the hidden and (LSTM) the cell state; output quantizers likewise. By
default the states are quantized where they enter and leave the module, and torch's fused implementation runs in
between. With ``quantize_every_step = True`` the output quantizers of the states are applied after every time step,
as hardware that stores states in few bits does; the sequence is then computed step by step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
        output = self._quantize_sequence("output_quantizers", output)
        if self.quantize_every_step:  # each step has done it
            return output, states
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
        if isinstance(sequence, PackedSequence):
            steps = list(sequence.data.split(sequence.batch_sizes.tolist()))
            order, unbatched = sequence.sorted_indices, False
        else:
            unbatched, order = sequence.dim() == 2, None
            time_first = sequence.transpose(0, 1) if module.batch_first and not unbatched else sequence
            steps = list(time_first.unsqueeze(1) if unbatched else time_first)
        initial = self._initial_states(states, steps[0], unbatched, order)
        weights = dict(zip(self._flat_weights_names, self._current_weights(), strict=True))
        directions = 2 if module.bidirectional else 1
        finals: list[State] = []
        for layer in range(module.num_layers):
            outputs: list[list[Tensor]] = []
            for direction in range(directions):
                suffix = f"_l{layer}{'_reverse' if direction else ''}"
                state = tuple(part[layer * directions + direction] for part in initial)
                produced, final = self._run_direction(
                    steps, state, _cell(module.mode, weights, suffix), bool(direction)
                )
                outputs.append(produced)
                finals.append(final)
            steps = (
                [torch.cat(parts, dim=-1) for parts in zip(*outputs, strict=True)] if directions == 2 else outputs[0]
            )
            if module.dropout and module.training and layer < module.num_layers - 1:
                steps = list(F.dropout(torch.cat(steps), module.dropout).split([len(step) for step in steps]))
        stacked = tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
        if isinstance(sequence, PackedSequence):
            if sequence.unsorted_indices is not None:
                stacked = tuple(part.index_select(1, sequence.unsorted_indices) for part in stacked)
            output: Any = sequence._replace(data=torch.cat(steps))
        else:
            output = torch.stack(steps)
            if unbatched:
                output, stacked = output.squeeze(1), tuple(part.squeeze(1) for part in stacked)
            elif module.batch_first:
                output = output.transpose(0, 1)
        return output, stacked if module.mode == "LSTM" else stacked[0]

    def _initial_states(self, states: Any, first: Tensor, unbatched: bool, order: Tensor | None) -> State:
        """States before the first step, each of shape (layers * directions, batch, size), in the order of the steps."""
        module: Any = self
        if states is None:
            count = module.num_layers * (2 if module.bidirectional else 1)
            sizes = [module.proj_size or module.hidden_size, *([module.hidden_size] if module.mode == "LSTM" else [])]
            return tuple(first.new_zeros(count, first.shape[0], size) for size in sizes)
        parts = states if isinstance(states, tuple) else (states,)
        if unbatched:
            parts = tuple(part.unsqueeze(1) for part in parts)
        return tuple(part if order is None else part.index_select(1, order) for part in parts)

    def _run_direction(
        self, steps: Sequence[Tensor], state: State, cell: Callable[[Tensor, State], State], backward: bool
    ) -> tuple[list[Tensor], State]:
        """Runs one layer in one direction; sequences that have ended (or not begun) keep their state.

        Args:
            steps: Inputs of each time step; the batch may shrink with time, as in packed sequences.
            state: States of the whole batch.
            cell: One time step.
            backward: Whether time runs backward.
        """
        outputs: list[Tensor] = []
        for step in reversed(steps) if backward else steps:
            active = len(step)
            new = cell(step, tuple(part[:active] for part in state))
            new = tuple(self._quantize_state("output_quantizers", 1 + slot, part) for slot, part in enumerate(new))
            outputs.append(new[0])
            state = tuple(
                part if active == len(old) else torch.cat((part, old[active:]))
                for part, old in zip(new, state, strict=True)
            )
        return (outputs[::-1] if backward else outputs), state


def _sequence_and_states(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """Binds the arguments ``(input, hx=None)``."""
    if len(args) > 2 or set(kwargs) - {"input", "hx"} or len(args) + len(kwargs) == 0:
        raise TypeError(f"forward(input, hx=None): got {len(args)} positional arguments and keywords {sorted(kwargs)}")
    bound: dict[str, Any] = dict(zip(("input", "hx"), args, strict=False))
    if set(bound) & set(kwargs):
        raise TypeError(f"forward(input, hx=None): got {sorted(set(bound) & set(kwargs))} twice")
    bound.update(kwargs)
    return bound["input"], bound.get("hx")


def _cell(mode: str, weights: dict[str, Tensor | None], suffix: str) -> Callable[[Tensor, State], State]:
    """One time step of a layer, by the formulas of torch.nn.LSTM, GRU and RNN."""
    input_weight, hidden_weight = weights[f"weight_ih{suffix}"], weights[f"weight_hh{suffix}"]
    input_bias, hidden_bias = weights.get(f"bias_ih{suffix}"), weights.get(f"bias_hh{suffix}")
    projection = weights.get(f"weight_hr{suffix}")
    assert input_weight is not None
    assert hidden_weight is not None

    def gates(x: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor]:
        return F.linear(x, input_weight, input_bias), F.linear(hidden, hidden_weight, hidden_bias)

    def lstm(x: Tensor, state: State) -> State:
        hidden, cell = state
        of_input, of_hidden = gates(x, hidden)
        ingate, forget, new, outgate = (of_input + of_hidden).chunk(4, dim=-1)
        cell = forget.sigmoid() * cell + ingate.sigmoid() * new.tanh()
        hidden = outgate.sigmoid() * cell.tanh()
        return (hidden if projection is None else F.linear(hidden, projection)), cell

    def gru(x: Tensor, state: State) -> State:
        (hidden,) = state
        of_input, of_hidden = gates(x, hidden)
        input_reset, input_update, input_new = of_input.chunk(3, dim=-1)
        hidden_reset, hidden_update, hidden_new = of_hidden.chunk(3, dim=-1)
        update = (input_update + hidden_update).sigmoid()
        new = (input_new + (input_reset + hidden_reset).sigmoid() * hidden_new).tanh()
        return ((hidden - new) * update + new,)

    def rnn(x: Tensor, state: State) -> State:
        of_input, of_hidden = gates(x, state[0])
        total = of_input + of_hidden
        return (total.tanh() if mode == "RNN_TANH" else total.relu(),)

    return {"LSTM": lstm, "GRU": gru}.get(mode, rnn)


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
