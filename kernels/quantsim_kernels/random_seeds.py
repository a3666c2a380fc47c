"""Seeds of stochastic casts for which the caller gives none: quantsim's own stream, apart from torch's.

A seed is a 0-d int64 tensor, so that a cast never waits for a device to read one, and a compiled graph takes the next
one in each run instead of a constant. Each device has a counter of its own that starts at the same number.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily

from quantsim_kernels.reference.noise import element_noise

__all__ = ["SEED_STEP", "manual_seed", "next_seed", "rounding_noise", "seed_tensor", "signed_seed"]

SEED_STEP: Final = 0x1E3779B97F4A7C15
"""What is added to the counter after each draw: odd, so that it takes 2**64 draws until a seed comes again."""

_lock = threading.Lock()
_counters: dict[torch.device, Tensor] = {}
_start = 0


def signed_seed(seed: int) -> int:
    """The integer of 64 bits with a sign that equals ``seed`` modulo 2**64.

    Example:
        >>> signed_seed(2**63), signed_seed(-1)
        (-9223372036854775808, -1)
    """
    return (seed + 2**63) % 2**64 - 2**63


def manual_seed(seed: int) -> None:
    """Starts the stream anew on every device; torch's own generators stay as they are.

    Args:
        seed: any integer, taken modulo 2**64.

    Raises:
        TypeError: ``seed`` is no integer.

    Example:
        >>> manual_seed(3)
        >>> first = next_seed()
        >>> manual_seed(3)
        >>> torch.equal(first, next_seed())
        True
    """
    global _start
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"manual_seed(seed): got {type(seed).__name__}, expected an integer")
    with _lock:
        _start = signed_seed(seed)
        for counter in _counters.values():
            # In place: compiled graphs hold these very tensors.
            counter.fill_(_start)


def _counter(device: torch.device) -> Tensor:
    """The counter of a device, made when it is first needed; a compiler calls this once and keeps the tensor."""
    counter = _counters.get(device)
    if counter is None:
        # Neither an inference tensor, which could not be changed afterwards, nor one of a tracer.
        with torch.inference_mode(False), unset_fake_temporarily():
            counter = _counters[device] = torch.full((), _start, dtype=torch.int64, device=device)
    return counter


# What torch.compiler.assume_constant_result does, which would import all of torch._dynamo here.
setattr(_counter, "_dynamo_marked_constant", True)  # noqa: B010


def next_seed(device: torch.device | str = "cpu") -> Tensor:
    """The next seed of the stream of ``device``, a 0-d int64 tensor there.

    Example:
        >>> first, second = next_seed(), next_seed()
        >>> first.dtype, bool(first == second)
        (torch.int64, False)
    """
    place = torch.device(device)
    if place.type == "cuda" and place.index is None:
        place = torch.device("cuda", torch.cuda.current_device())
    if torch.compiler.is_compiling():
        return _advance(_counter(place))
    with _lock:
        return _advance(_counter(place))


def _advance(counter: Tensor) -> Tensor:
    with torch.no_grad():
        seed = counter.clone()
        counter.add_(SEED_STEP)
    return seed


def seed_tensor(seed: int | Tensor, device: torch.device | str, where: str = "seed") -> Tensor:
    """``seed`` as a 0-d int64 tensor on ``device``.

    Args:
        seed: any integer, taken modulo 2**64, or an integer tensor with one element.
        device: where the seed is needed.
        where: what errors call it.

    Raises:
        TypeError: it is neither.

    Example:
        >>> seed_tensor(2**64 + 5, "cpu")
        tensor(5)
    """
    if isinstance(seed, Tensor):
        if seed.numel() != 1 or seed.is_floating_point() or seed.is_complex() or seed.dtype is torch.bool:
            raise TypeError(
                f"{where}: got a {seed.dtype} tensor of shape {tuple(seed.shape)}, expected a 0-d int64 tensor"
            )
        return seed.detach().reshape(()).to(device=device, dtype=torch.int64)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"{where}: got {type(seed).__name__}, expected an integer or a 0-d int64 tensor")
    return torch.full((), signed_seed(seed), dtype=torch.int64, device=device)


def rounding_noise(
    shape: Sequence[int], seed: int | Tensor | None = None, device: torch.device | str | None = None
) -> Tensor:
    """The 24 random bits that a stochastic cast of a tensor of this shape uses for each element.

    Args:
        shape: shape of the tensor.
        seed: as given to the cast; ``None`` draws the next one of the stream.
        device: device of the result; ``None``: that of a seed tensor, else the CPU.

    Returns:
        Integers from 0 to 2**24 - 1, int32.

    Example:
        >>> rounding_noise((2, 2), seed=1).shape
        torch.Size([2, 2])
    """
    if device is None:
        device = seed.device if isinstance(seed, Tensor) else torch.device("cpu")
    start = next_seed(device) if seed is None else seed_tensor(seed, device)
    return element_noise(shape, start, device)
