"""Gives outputs of modules again while nothing that they depend on has changed: a run that differs late costs less."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

__all__ = ["OutputReplay"]

_MOST_BYTES = 512 * 1024 * 1024


@dataclass(frozen=True)
class _Call:
    index: int
    """How many calls of any module ended before."""
    output: Any
    versions: tuple[tuple[Tensor, int], ...]

    @property
    def is_intact(self) -> bool:
        """Whether nobody wrote into the output since."""
        return all(tensor._version == version for tensor, version in self.versions)


class OutputReplay:
    """The outputs of modules in one run of a deterministic model.

    What ran before the first call of a module that is changed has the inputs it had, so it need not run again. Calls
    that write into their inputs, and outputs that are written into later, are not kept.

    Args:
        modules: By path; none inside of another.
        most_bytes: Outputs beyond this are not kept.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        >>> replay = OutputReplay({"0": model[0], "1": model[1]})
        >>> with torch.no_grad(), replay.recording():
        ...     _ = model(torch.ones(1, 2))
        >>> with torch.no_grad(), replay.replaying(changed=["1"]):
        ...     _ = model(torch.ones(1, 2))  # runs model[1] only
        >>> replay.order
        ('0', '1')
    """

    def __init__(self, modules: Mapping[str, nn.Module], most_bytes: int = _MOST_BYTES) -> None:
        self._modules = dict(modules)
        self._most_bytes = most_bytes
        self._calls: dict[str, list[_Call | None]] = {}
        self._first: dict[str, int] = {}
        self._count = 0
        self._bytes = 0

    @property
    def order(self) -> tuple[str, ...]:
        """Paths of the modules that ran, in the order in which they first ended."""
        return tuple(self._first)

    def first_output(self, path: str) -> Any:
        """What a module's first call gave, or None if that was not kept."""
        calls = self._calls.get(path)
        call = calls[0] if calls else None
        return call.output if call is not None and call.is_intact else None

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Inside, the model is to run once."""
        self._calls, self._first, self._count, self._bytes = {}, {}, 0, 0
        with self._patched(self._recorder):
            yield

    @contextmanager
    def replaying(self, changed: Collection[str]) -> Iterator[None]:
        """Inside, the model is to run once on the same inputs, with changes in some modules.

        Args:
            changed: Paths of the modules that may compute something else than before.
        """
        start = min((self._first[path] for path in changed if path in self._first), default=self._count)
        counts: Counter[str] = Counter()

        def player(path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
            calls = self._calls.get(path, [])

            def play(*args: Any, **kwargs: Any) -> Any:
                number = counts[path]
                counts[path] += 1
                call = calls[number] if number < len(calls) else None
                if call is not None and call.index < start and call.is_intact:
                    return call.output
                return forward(*args, **kwargs)

            return play

        with self._patched(player):
            yield

    def _recorder(self, path: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def record(*args: Any, **kwargs: Any) -> Any:
            before = _versions((args, kwargs))
            output = forward(*args, **kwargs)
            calls = self._calls.setdefault(path, [])
            self._first.setdefault(path, self._count)
            versions = _versions(output)
            size = sum(tensor.numel() * tensor.element_size() for tensor, _ in versions or ())
            is_pure = before is not None and all(tensor._version == version for tensor, version in before)
            if versions is not None and is_pure and self._bytes + size <= self._most_bytes:
                self._bytes += size
                calls.append(_Call(self._count, output, versions))
            else:
                calls.append(None)
            self._count += 1
            return output

        return record

    @contextmanager
    def _patched(self, make: Callable[[str, Callable[..., Any]], Callable[..., Any]]) -> Iterator[None]:
        before = {path: module.__dict__.get("forward") for path, module in self._modules.items()}
        try:
            for path, module in self._modules.items():
                module.__dict__["forward"] = make(path, module.forward)
            yield
        finally:
            for path, module in self._modules.items():
                if before[path] is None:
                    module.__dict__.pop("forward", None)
                else:
                    module.__dict__["forward"] = before[path]


def _versions(value: object) -> tuple[tuple[Tensor, int], ...] | None:
    """The tensors in a value with how often they were written, None where torch does not count that."""
    tensors = [leaf for leaf in pytree.tree_leaves(value) if isinstance(leaf, Tensor)]
    if any(tensor.is_inference() for tensor in tensors):
        return None
    return tuple((tensor, tensor._version) for tensor in tensors)
