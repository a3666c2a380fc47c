"""The kernel registry: which function computes an op on quantized numbers, and why that one.

A *kernel* is a pure function for one ``(op, scheme)`` with one backend. Several kernels may serve the same pair; the
registry tries them from the highest priority down and takes the first whose predicate has no objection. A predicate
returns ``None`` ("I can do this") or a sentence that says why not, which is what :meth:`Registry.explain` reports.

Nothing here imports a backend: a kernel that needs Triton registers a function that imports it on its first call.
"""

from __future__ import annotations

import contextvars
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

__all__ = [
    "Backend",
    "Decision",
    "Kernel",
    "KernelUnavailableError",
    "Predicate",
    "Registry",
    "Scheme",
    "Screen",
    "backends",
    "explain",
    "force_backend",
    "forced_backend",
    "has_kernels",
    "ops",
    "register",
    "registry",
    "select",
    "unregister",
]


class Backend(StrEnum):
    """How a kernel is made: plain torch as the reference, fast torch, Triton, or exact integers."""

    REFERENCE = "reference"
    TORCH = "torch"
    TRITON = "triton"
    INTEGER = "integer"


class Scheme(StrEnum):
    """The family of formats that a kernel computes on."""

    AFFINE = "affine"
    FLOAT = "float"
    MX = "mx"
    OPTICAL = "optical"
    FIXED_POINT = "fixed_point"


Predicate = Callable[..., str | None]
"""Called with the operands and arguments of the op; returns ``None`` to accept, else the reason for refusing."""

Screen = Callable[..., bool]
"""Called with the op's inputs *before* anything quantizes them; False refuses cheaply."""

KernelFunction = TypeVar("KernelFunction", bound=Callable[..., Any])


class KernelUnavailableError(RuntimeError):
    """No registered kernel may run this op; the text lists every candidate and its reason."""


@dataclass(frozen=True, kw_only=True)
class Kernel:
    """One way to compute one op.

    Attributes:
        op: name of the op, for instance ``"affine_quantize_dequantize"`` or ``"linear"``.
        scheme: family of formats that it computes on.
        backend: how it is made.
        function: the function itself; also what calling the kernel calls.
        predicate: objections to given operands, see :data:`Predicate`; ``None`` never objects.
        priority: larger is tried first.
        description: one line for people, by default the first line of the function's docstring.
        screen: a cheap question that comes before the operands are prepared, see :meth:`Registry.may_select`; it may
            return False only where the predicate would object. ``None`` never refuses.
        on_request: runs only inside :func:`force_backend` of its backend, or where somebody sets it by hand.
    """

    op: str
    scheme: Scheme
    backend: Backend
    function: Callable[..., Any]
    predicate: Predicate | None = None
    priority: int = 0
    description: str = ""
    screen: Screen | None = None
    on_request: bool = False

    def __call__(self, *operands: Any, **arguments: Any) -> Any:
        """Run the kernel's function."""
        return self.function(*operands, **arguments)

    def objection(self, *operands: Any, **arguments: Any) -> str | None:
        """Why this kernel cannot run on these operands, or ``None`` when it can."""
        return None if self.predicate is None else self.predicate(*operands, **arguments)

    def waits_for(self, forced: Backend | None) -> bool:
        """Whether it does not run unless asked for, and is not."""
        return self.on_request and forced is not self.backend


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What the registry decided about one candidate.

    Attributes:
        kernel: the candidate.
        chosen: whether it is the one that runs.
        reason: why it runs or does not.
    """

    kernel: Kernel
    chosen: bool
    reason: str

    def __str__(self) -> str:
        """One line: backend, verdict, reason."""
        verdict = "chosen" if self.chosen else "not chosen"
        return f"{self.kernel.backend} (priority {self.kernel.priority}): {verdict}, {self.reason}"


# One variable for all registries and all threads' contexts: forcing is scoped to the `with` block of the caller.
_FORCED: contextvars.ContextVar[Backend | None] = contextvars.ContextVar("quantsim_forced_backend", default=None)


@contextmanager
def force_backend(backend: Backend | str) -> Iterator[None]:
    """Let only kernels of one backend be selected inside the ``with`` block.

    The setting follows the context (threads and asyncio tasks keep their own). Code inside ``torch.compile`` or
    ``torch.export`` is not affected: the compiler fuses the plain formulation, which computes the same numbers.

    Args:
        backend: a :class:`Backend` or its name.

    Raises:
        ValueError: no backend has this name.

    Example:
        >>> from quantsim_kernels import Backend, force_backend, forced_backend
        >>> with force_backend("reference"):
        ...     forced_backend()
        <Backend.REFERENCE: 'reference'>
    """
    try:
        wanted = Backend(backend)
    except ValueError:
        names = ", ".join(Backend)
        raise ValueError(f"force_backend(backend): got {backend!r}, expected one of {names}") from None
    token = _FORCED.set(wanted)
    try:
        yield
    finally:
        _FORCED.reset(token)


def forced_backend() -> Backend | None:
    """The backend that :func:`force_backend` asks for here, or ``None``."""
    return _FORCED.get()


_NO_SCHEMES: frozenset[Scheme] = frozenset()


class Registry:
    """Kernels by ``(op, scheme)``, ordered by priority.

    Invariant: every candidate tuple is sorted by falling priority, and kernels of equal priority stay in the order in
    which they were registered.
    """

    def __init__(self) -> None:
        self._candidates: dict[tuple[str, str], tuple[Kernel, ...]] = {}
        self._schemes: dict[str, frozenset[Scheme]] = {}

    def register(
        self,
        *,
        op: str,
        scheme: Scheme | str,
        backend: Backend | str,
        predicate: Predicate | None = None,
        priority: int = 0,
        description: str | None = None,
        screen: Screen | None = None,
        on_request: bool = False,
    ) -> Callable[[KernelFunction], KernelFunction]:
        """Decorator that adds a function as a kernel and returns the function unchanged.

        Args:
            op: name of the op.
            scheme: family of formats.
            backend: how the kernel is made.
            predicate: returns ``None`` to accept the operands, else the reason for refusing them.
            priority: larger is tried first.
            description: one line for people; default: the first line of the function's docstring.
            screen: see :class:`Kernel`.
            on_request: see :class:`Kernel`.

        Raises:
            ValueError: ``op`` is empty, ``scheme`` or ``backend`` is unknown, or the same function is already there.

        Example:
            >>> from quantsim_kernels import Backend, Registry, Scheme
            >>> mine = Registry()
            >>> @mine.register(op="double", scheme=Scheme.AFFINE, backend=Backend.REFERENCE)
            ... def double(x):
            ...     "Twice x."
            ...     return 2 * x
            >>> mine.select("double", Scheme.AFFINE, 3)(3)
            6
        """
        if not op:
            raise ValueError("register(op): got an empty name, expected the name of the op, for instance 'linear'")
        scheme, backend = Scheme(scheme), Backend(backend)

        def decorate(function: KernelFunction) -> KernelFunction:
            present = self._candidates.get((op, scheme), ())
            if any(kernel.function is function and kernel.backend is backend for kernel in present):
                raise ValueError(
                    f"register: {function!r} is already the {backend} kernel of op {op!r}, scheme {scheme}; "
                    "call unregister(function) before registering it again"
                )
            kernel = Kernel(
                op=op,
                scheme=scheme,
                backend=backend,
                function=function,
                predicate=predicate,
                priority=priority,
                description=description if description is not None else _first_line(function),
                screen=screen,
                on_request=on_request,
            )
            ordered = sorted((*present, kernel), key=lambda candidate: -candidate.priority)
            self._candidates[(op, scheme)] = tuple(ordered)
            self._schemes[op] = self.schemes(op) | {scheme}
            return function

        return decorate

    def unregister(self, function: Callable[..., Any]) -> int:
        """Remove every kernel that runs ``function``; returns how many there were."""
        removed = 0
        for key, kernels in list(self._candidates.items()):
            kept = tuple(kernel for kernel in kernels if kernel.function is not function)
            removed += len(kernels) - len(kept)
            if kept:
                self._candidates[key] = kept
            else:
                del self._candidates[key]
                op = key[0]
                self._schemes[op] = frozenset(scheme for scheme in Scheme if (op, scheme) in self._candidates)
        return removed

    def schemes(self, op: str) -> frozenset[Scheme]:
        """The schemes in which ``op`` has kernels: one dictionary look-up."""
        return self._schemes.get(op, _NO_SCHEMES)

    def has_kernels(self, op: str, scheme: Scheme | str) -> bool:
        """Whether any kernel is registered for the pair: one dictionary look-up, no predicate is asked."""
        return (op, scheme) in self._candidates

    def may_select(self, op: str, scheme: Scheme | str, *inputs: Any) -> bool:
        """Whether :meth:`select` could choose a kernel, judged before operands are prepared.

        Args:
            op: name of the op.
            scheme: family of formats.
            *inputs: the op's inputs, not quantized.
        """
        # A loop, as a generator would double the time, and this runs in each forward of a quantized module.
        for kernel in self._candidates.get((op, scheme), ()):  # noqa: SIM110
            if kernel.screen is None or kernel.screen(*inputs):
                return True
        return False

    def candidates(self, op: str, scheme: Scheme | str) -> tuple[Kernel, ...]:
        """The kernels of the pair, from the highest priority down."""
        return self._candidates.get((op, scheme), ())

    def select(self, op: str, scheme: Scheme | str, *operands: Any, **arguments: Any) -> Kernel | None:
        """The kernel to run on these operands, or ``None`` when no kernel may run.

        Args:
            op: name of the op.
            scheme: family of formats.
            *operands: the operands as the kernel will get them; predicates look at them.
            **arguments: the keyword arguments as the kernel will get them.
        """
        forced = _FORCED.get()
        for kernel in self._candidates.get((op, scheme), ()):
            if (forced is not None and kernel.backend is not forced) or kernel.waits_for(forced):
                continue
            if kernel.predicate is None or kernel.predicate(*operands, **arguments) is None:
                return kernel
        return None

    def require(self, op: str, scheme: Scheme | str, *operands: Any, **arguments: Any) -> Kernel:
        """Like :meth:`select`, but raises where there is no kernel.

        Raises:
            KernelUnavailableError: no kernel may run; the text holds :meth:`explain`'s reasons.
        """
        kernel = self.select(op, scheme, *operands, **arguments)
        if kernel is not None:
            return kernel
        decisions = self.explain(op, scheme, *operands, **arguments)
        found = "; ".join(map(str, decisions)) or "no kernel is registered for this pair"
        raise KernelUnavailableError(
            f"op {op!r}, scheme {scheme}: no kernel can run. Candidates: {found}. "
            "Leave the force_backend(...) block, or move the operands to a device that one of the candidates serves."
        )

    def explain(self, op: str, scheme: Scheme | str, *operands: Any, **arguments: Any) -> tuple[Decision, ...]:
        """What :meth:`select` would do with these operands, candidate by candidate, and why."""
        forced = _FORCED.get()
        decisions: list[Decision] = []
        chosen: Kernel | None = None
        for kernel in self.candidates(op, scheme):
            if forced is not None and kernel.backend is not forced:
                reason = f"force_backend({forced.value!r}) is active"
            elif kernel.waits_for(forced):
                reason = f"it runs on request only: force_backend({kernel.backend.value!r})"
            elif (objection := kernel.objection(*operands, **arguments)) is not None:
                reason = objection
            elif chosen is not None:
                reason = f"the {chosen.backend} kernel comes first (priority {chosen.priority})"
            else:
                chosen = kernel
                reason = "the first candidate that accepts these operands"
            decisions.append(Decision(kernel=kernel, chosen=kernel is chosen, reason=reason))
        return tuple(decisions)

    def backends(self, op: str) -> tuple[Backend, ...]:
        """The backends that serve ``op`` in any scheme, in the order of :class:`Backend`."""
        present = {
            kernel.backend for (name, _), kernels in self._candidates.items() if name == op for kernel in kernels
        }
        return tuple(backend for backend in Backend if backend in present)

    def ops(self) -> tuple[str, ...]:
        """The names of all ops with at least one kernel, sorted."""
        return tuple(sorted({name for name, _ in self._candidates}))

    def kernels(self) -> tuple[Kernel, ...]:
        """Every kernel, sorted by op and scheme, then by falling priority."""
        return tuple(kernel for key in sorted(self._candidates) for kernel in self._candidates[key])


def _first_line(function: Callable[..., Any]) -> str:
    """The first line of a docstring, or nothing."""
    text = (function.__doc__ or "").strip()
    return text.splitlines()[0] if text else ""


registry = Registry()
"""The registry that quantsim's own kernels are in and that quantized modules ask."""

register = registry.register
unregister = registry.unregister
select = registry.select
explain = registry.explain
backends = registry.backends
has_kernels = registry.has_kernels
ops = registry.ops
