"""Forwards of several batches that stop at the doors of blocks, so that each block runs for all batches in one turn.

A forward is ordinary code that cannot be left in the middle and taken up again, except in a thread of its own: each
batch has one. Only one thread runs at any time, so that results are those of one forward after the other.
"""

from __future__ import annotations

import contextvars
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

__all__ = ["run_in_turns"]


class _Abandoned(BaseException):
    """Ends a forward that stands at a door, because another one failed; no ``except Exception`` holds it."""


class _Forward:
    """One batch's forward: runs when told, until it stands at the door of a block or ends.

    Args:
        run: The forward.
        surroundings: Entered in the forward's thread.
    """

    def __init__(self, run: Callable[[], object], surroundings: Callable[[], AbstractContextManager[None]]) -> None:
        self.door: nn.Module | None = None
        self.is_over = False
        self._run, self._surroundings = run, surroundings
        self._error: BaseException | None = None
        self._is_abandoned = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        context = contextvars.copy_context()
        self.thread = threading.Thread(target=context.run, args=(self._main,), daemon=True)
        self.thread.start()

    def proceed(self) -> None:
        """Lets it run up to the next door, or its end; raises what it raises."""
        self.door = None
        self._go.release()
        self._stopped.acquire()
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def abandon(self) -> None:
        """Ends it where it stands."""
        self._is_abandoned = True
        self._go.release()
        self.thread.join()

    def stop_at(self, block: nn.Module) -> None:
        """Called by the forward itself: waits for the block's turn."""
        self.door = block
        self._stopped.release()
        self._go.acquire()
        if self._is_abandoned:
            raise _Abandoned

    def _main(self) -> None:
        self._go.acquire()
        try:
            if not self._is_abandoned:
                with self._surroundings():
                    self._run()
        except _Abandoned:
            pass
        except BaseException as error:
            self._error = error
        finally:
            self.is_over = True
            self._stopped.release()


def run_in_turns(
    blocks: Mapping[str, nn.Module],
    forwards: Sequence[Callable[[], object]],
    turn: Callable[[str, nn.Module], AbstractContextManager[None]] = lambda path, block: nullcontext(),
) -> None:
    """Runs forwards block by block: the first block for all of them, then the second, and so on.

    Code between blocks runs once for each forward, in the turn of the block before it. The order of blocks is the
    model's own; a block that a forward calls several times has several turns, one that is not called has none.

    Args:
        blocks: Modules by path, none inside of another.
        forwards: Functions that call a model that has these blocks.
        turn: Entered around each turn of a block, outside of the forwards.

    Raises:
        Exception: Whatever a forward raises; the others are ended then.

    Example:
        >>> first, second = nn.Identity(), nn.Identity()
        >>> model, order = nn.Sequential(first, second), []
        >>> _ = first.register_forward_hook(
        ...     lambda module, args, output: order.append(f"first {args[0].item()}")
        ... )
        >>> _ = second.register_forward_hook(
        ...     lambda module, args, output: order.append(f"second {args[0].item()}")
        ... )
        >>> run_in_turns({"0": first, "1": second}, [lambda x=x: model(torch.tensor(x)) for x in (1, 2)])
        >>> order
        ['first 1', 'first 2', 'second 1', 'second 2']
    """
    paths = {block: path for path, block in blocks.items()}
    surroundings = _this_thread()
    running: dict[threading.Thread, _Forward] = {}
    in_turn: list[nn.Module] = []

    def stop(block: nn.Module, args: Any) -> None:
        forward = running.get(threading.current_thread())
        if forward is not None and block not in in_turn:
            forward.stop_at(block)

    with ExitStack() as stack:
        for block in blocks.values():
            stack.callback(block.register_forward_pre_hook(stop, prepend=True).remove)
        try:
            for run in forwards:
                forward = _Forward(run, surroundings)
                running[forward.thread] = forward
                forward.proceed()
            while waiting := [forward for forward in running.values() if forward.door is not None]:
                block = _next_block(waiting)
                with turn(paths[block], block):
                    in_turn.append(block)
                    for forward in waiting:
                        if forward.door is block:
                            forward.proceed()
                    in_turn.clear()
        finally:
            for forward in running.values():
                if not forward.is_over:
                    forward.abandon()


def _next_block(waiting: Sequence[_Forward]) -> nn.Module:
    """The block that most forwards wait for; the first one's among equals."""
    return Counter(forward.door for forward in waiting if forward.door is not None).most_common(1)[0][0]


def _this_thread() -> Callable[[], AbstractContextManager[None]]:
    """What PyTorch keeps for each thread, as it is in this one, for others to enter."""
    accelerator = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    device_index = None if accelerator is None else torch.accelerator.current_device_index()
    stream = None if accelerator is None else torch.accelerator.current_stream()
    gradients, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    types = ["cpu"] if accelerator is None else ["cpu", accelerator.type]
    autocast = [(type, torch.get_autocast_dtype(type), torch.is_autocast_enabled(type)) for type in types]

    @contextmanager
    def surroundings() -> Iterator[None]:
        if device_index is not None and stream is not None:
            torch.accelerator.set_device_index(device_index)
            torch.accelerator.set_stream(stream)
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(inference))
            stack.enter_context(torch.set_grad_enabled(gradients))
            for type, dtype, is_enabled in autocast:
                if is_enabled:
                    stack.enter_context(torch.autocast(type, dtype))
            yield

    return surroundings
