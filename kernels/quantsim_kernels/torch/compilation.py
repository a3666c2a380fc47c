"""Kernels compiled on their first use: a switch, off by default, and the wrapper that obeys it.

A chain of element-wise ops costs one pass over memory for each op; compiled, it costs one in all. Compiling takes
seconds and a C++ compiler, so nothing is compiled unless it is asked for, and where it fails the ops run as they are.
"""

from __future__ import annotations

import functools
import itertools
import os
import types
import warnings
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["COMPILED_ELEMENTS", "compiled_kernels", "compiled_kernels_enabled", "lazily_compiled", "serves_compiled"]

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

VARIABLE = "QUANTSIM_COMPILED_KERNELS"

_numbers = itertools.count()

COMPILED_ELEMENTS = 2**16
"""Smaller tensors run eagerly: there the guards of a compiled function cost as much as what it saves."""


def _from_environment(text: str | None) -> bool:
    """Whether the environment variable asks for compiled kernels."""
    value = (text or "").strip().lower()
    if value in ("", "0", "false", "no", "off"):
        return False
    if value in ("1", "true", "yes", "on"):
        return True
    raise ValueError(f"environment variable {VARIABLE}: got {text!r}, expected 1 or 0")


class _State:
    """Process-wide, because autograd runs backwards in threads of its own."""

    enabled = _from_environment(os.environ.get(VARIABLE))
    failed = False
    worked = False


class compiled_kernels:  # noqa: N801 - called like a function, as torch.set_grad_enabled is
    """Switch compiled kernels on or off: at once, or within a ``with`` block.

    Large CPU tensors then run kernels that ``torch.compile`` makes on their first use, once for each format, law of
    rounding and dtype; the numbers are the same. Off unless the environment variable ``QUANTSIM_COMPILED_KERNELS`` is
    1 when quantsim_kernels is imported. Without a working C++ compiler the kernels stay eager, with one warning.

    Args:
        enabled: on or off.

    Example:
        >>> from quantsim_kernels.torch.compilation import compiled_kernels_enabled
        >>> with compiled_kernels():
        ...     compiled_kernels_enabled()
        True
        >>> compiled_kernels_enabled()
        False
    """

    def __init__(self, enabled: bool = True) -> None:
        if not isinstance(enabled, bool):
            raise TypeError(f"compiled_kernels(enabled): got {enabled!r}, expected True or False")
        self._before = _State.enabled
        _State.enabled = enabled

    def __enter__(self) -> compiled_kernels:
        return self

    def __exit__(self, *exception: object) -> None:
        _State.enabled = self._before


def compiled_kernels_enabled() -> bool:
    """Whether large CPU tensors run compiled kernels here and now."""
    return _State.enabled and not _State.failed and not torch.compiler.is_compiling()


def serves_compiled(x: Tensor) -> bool:
    """Whether a kernel on ``x`` runs compiled: the switch is on and ``x`` is a large CPU tensor."""
    return _State.enabled and x.is_cpu and x.numel() >= COMPILED_ELEMENTS and compiled_kernels_enabled()


def lazily_compiled(function: Callable[Parameters, Result]) -> Callable[Parameters, Result]:
    """``function``, compiled on its first call where :class:`compiled_kernels` asks for it.

    Tensors are what the compiled code takes; every other argument is a constant of it, so there is one compilation for
    each combination of constants, and no limit on their number. The compiled form runs where the switch is on and the
    first tensor is on the CPU with at least ``COMPILED_ELEMENTS`` elements; everywhere else the function itself.

    Args:
        function: takes positional arguments, tensors or hashable constants; neither changes its tensors nor makes
            gradients (it runs under ``torch.no_grad``).

    Returns:
        A function with the same arguments and results.

    Example:
        >>> import torch
        >>> double = lazily_compiled(lambda x, factor: x * factor)
        >>> double(torch.ones(2), 3.0).tolist()
        [3.0, 3.0]
    """
    forms: dict[tuple[Any, ...], Callable[..., Any]] = {}

    @functools.wraps(function)
    def run(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Result:
        if not _State.enabled or kwargs or not _serves(args):
            return function(*args, **kwargs)
        # Code for another number of dimensions or dtype is other code: its own entry keeps it from counting as a
        # recompilation.
        key = tuple((a.dtype, a.dim()) if isinstance(a, Tensor) else (type(a), a) for a in args)
        form = forms.get(key)
        if form is None:
            form = forms[key] = _compiled(function, args)
        tensors = [a.detach() for a in args if isinstance(a, Tensor)]
        try:
            with torch.no_grad():
                result = form(*tensors)
            _State.worked = True
            return result
        except Exception as error:
            # An error of the function's own comes again here, and is the caller's.
            result = function(*args, **kwargs)
            # Without a compiler nothing ever works; else only this form does not.
            forms[key] = _of_tensors(function, args)
            _State.failed = not _State.worked
            reason = str(error).strip().splitlines()
            warnings.warn(
                f"compiled kernels: torch.compile failed ({type(error).__name__}: {reason[0] if reason else ''}); "
                "the eager kernels run instead. Install a C++ compiler, or unset QUANTSIM_COMPILED_KERNELS",
                RuntimeWarning,
                stacklevel=2,
            )
            return result

    return run


def _serves(args: tuple[Any, ...]) -> bool:
    first = next((a for a in args if isinstance(a, Tensor)), None)
    return first is not None and serves_compiled(first)


def _of_tensors(function: Callable[..., Any], args: tuple[Any, ...]) -> Callable[..., Any]:
    """``function`` of its tensors alone, the other arguments bound to those of ``args``."""
    bound = [None if isinstance(a, Tensor) else a for a in args]
    places = [i for i, a in enumerate(args) if isinstance(a, Tensor)]

    def form(*tensors: Tensor) -> Any:
        full = list(bound)
        for place, tensor in zip(places, tensors, strict=True):
            full[place] = tensor
        return function(*full)

    return form


def _compiled(function: Callable[..., Any], args: tuple[Any, ...]) -> Callable[..., Any]:
    """The same, to be compiled on its first call."""
    form = _of_tensors(function, args)
    assert isinstance(form, types.FunctionType)
    # Torch limits recompilations by code object, and turns a number that differs between two of them into a variable by
    # the name of the code: a copy under a name of its own gives each combination of constants both for itself.
    code = form.__code__.replace(co_name=f"{form.__name__}_{next(_numbers)}")
    own = types.FunctionType(code, form.__globals__, code.co_name, None, form.__closure__)
    return torch.compile(own, fullgraph=True)
