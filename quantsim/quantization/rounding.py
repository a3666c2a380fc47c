"""Quantizers whose rounding mode is a choice; those that round at random own the seed of their noise."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any, Final, Self

import torch
from torch import Tensor
from typing_extensions import override

from quantsim.errors import ConfigurationError
from quantsim.quantization.analyzers.base import EncodingAnalyzer
from quantsim.quantization.base import QuantizerBase
from quantsim_encodings.formats import RoundingMode
from quantsim_kernels.random_seeds import SEED_STEP, signed_seed

__all__ = ["RoundingQuantizerBase", "seed_of_construction"]

_constructed: Final = itertools.count(1)


def seed_of_construction() -> int:
    """A 64-bit seed for a quantizer that was given none: the numbers of construction, scrambled (splitmix64)."""
    value = next(_constructed) * 0x9E3779B97F4A7C15 % 2**64
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB % 2**64
    return signed_seed(value ^ (value >> 31))


class RoundingQuantizerBase(QuantizerBase):
    """Base of quantizers that round by any `RoundingMode`.

    A stochastic mode needs noise, which is a function of a seed and of each element's index. The quantizer keeps the
    seed as a buffer and advances it by one constant in every call, so that no two calls share their noise, a
    state_dict brings the sequence back, and torch's global generator is never touched. A deep copy continues with the
    same sequence as its original.

    Args:
        rounding: Rounding mode, its name, or its number.
        seed: Seed of the noise, taken modulo 2**64; by default one of its own for each quantizer. Ignored in
            deterministic modes.
        encoding_analyzer: See `QuantizerBase`.

    Attributes:
        seed: Where the noise stands: an int64 buffer of shape ``()``; absent unless the mode is stochastic.

    Raises:
        ConfigurationError: If there is no such rounding mode, or the seed is no integer.
    """

    def __init__(
        self,
        *,
        rounding: RoundingMode | str | int = RoundingMode.NEAREST_EVEN,
        seed: int | None = None,
        encoding_analyzer: EncodingAnalyzer | None = None,
    ) -> None:
        super().__init__(encoding_analyzer=encoding_analyzer)
        owner = type(self).__name__
        try:
            mode = RoundingMode.parse(rounding)
        except (TypeError, ValueError) as error:
            raise ConfigurationError(str(error), where=f"{owner}(rounding)") from None
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise ConfigurationError(
                "the seed is no integer", where=f"{owner}(seed)", got=repr(seed), expected="an int or None"
            )
        self._first_seed = None if seed is None else signed_seed(seed)
        self._set_rounding(mode)

    def _set_rounding(self, mode: RoundingMode) -> None:
        """Changes the mode; the seed comes with the first stochastic one and goes with it."""
        self._rounding = mode
        self._stochastic = mode.is_stochastic
        if not self._stochastic:
            self._buffers.pop("seed", None)
        elif self._buffers.get("seed") is None:
            if self._first_seed is None:
                self._first_seed = seed_of_construction()
            with torch.inference_mode(False):  # an inference tensor could not be advanced later on
                device = next((buffer.device for buffer in self.buffers() if buffer is not None), None)
                device = next((values.device for values in self.parameters()), device)
                self.register_buffer("seed", torch.tensor(self._first_seed, dtype=torch.int64, device=device))

    @property
    def rounding(self) -> RoundingMode:
        """How values between two numbers of the grid are rounded."""
        return self._rounding

    @property
    @override
    def is_stochastic(self) -> bool:
        return self._stochastic

    def current_seed(self) -> Tensor | None:
        """Returns the seed of the next call as a tensor of its own, or ``None`` in deterministic modes."""
        return self._seed_buffer().clone() if self._stochastic else None

    def advance_seed(self) -> None:
        """Moves on to the noise of the next call; nothing in deterministic modes.

        For those that round in the quantizer's place (a fused kernel): they take `current_seed`, then call this.
        """
        if self._stochastic:
            with torch.no_grad():
                self._seed_buffer().add_(SEED_STEP)

    def take_training_choices(self, other: RoundingQuantizerBase) -> None:
        """Does as ``other``, whose place it takes, in what no encoding says: here, where the noise stands."""
        if self._stochastic and other._stochastic:
            self._first_seed = other._first_seed
            with torch.no_grad():
                self._seed_buffer().copy_(other._seed_buffer())

    def _seed_buffer(self) -> Tensor:
        seed = self._buffers["seed"]
        assert seed is not None
        return seed

    # ---------------------------------------------------------------- persistence

    @override
    def persistent_settings(self) -> dict[str, Any]:
        return {**super().persistent_settings(), "rounding": self._rounding.value}

    @override
    def restore_settings(self, settings: Mapping[str, Any]) -> None:
        super().restore_settings(settings)
        if "rounding" in settings:
            self._set_rounding(RoundingMode.parse(settings["rounding"]))

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
        key = f"{prefix}seed"
        if key in state_dict and not self._stochastic:  # the saved rounding, which comes with the settings, is
            self.register_buffer("seed", torch.zeros_like(state_dict[key]))
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if key in missing_keys:  # saved by a deterministic quantizer
            missing_keys.remove(key)
        if not self._stochastic:
            self._buffers.pop("seed", None)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        seed = self._buffers.get("seed")
        was_meta = seed is not None and seed.is_meta
        super()._apply(fn, recurse)
        seed = self._buffers.get("seed")
        if was_meta and seed is not None and not seed.is_meta:  # to_empty: whatever the memory held is no seed
            assert self._first_seed is not None
            seed.fill_(self._first_seed)
        return self

    def _describe_rounding(self) -> str:
        """Returns the end of a repr; nothing for the default."""
        return "" if self._rounding is RoundingMode.NEAREST_EVEN else f", rounding={self._rounding.value}"
