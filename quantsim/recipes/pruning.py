"""Pruning: N of M weights by magnitude, and gradual magnitude pruning with regrowth by gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from quantsim.errors import ConfigurationError
from quantsim.nn.pruning_masks import pruning_mask, set_pruning_mask
from quantsim.quantization.sharded_tensors import whole

__all__ = ["GradualPruning", "n_of_m_mask", "prunable_modules", "prune_n_of_m", "sparsity"]

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)

Selection = Callable[[str, nn.Module], bool]
"""Says of a path and a module whether its weight is to be pruned."""


def prunable_modules(model: nn.Module, select: Selection | None = None) -> Iterator[tuple[str, nn.Module]]:
    """Yields path and module of each linear layer and convolution, float or quantized.

    Args:
        model: Any model, or a simulation's.
        select: Which of them; all by default.
    """
    seen: set[int] = set()
    for path, module in model.named_modules():
        weight = module._parameters.get("weight")
        if isinstance(module, _KINDS) and weight is not None and id(weight) not in seen:
            seen.add(id(weight))
            if select is None or select(path, module):
                yield path, module


def sparsity(model: nn.Module, select: Selection | None = None) -> float:
    """Share of the weights of `prunable_modules` that are exactly 0."""
    found = (module._parameters["weight"] for _, module in prunable_modules(model, select))
    weights = [None if weight is None else whole(weight.detach()) for weight in found]
    total = sum(weight.numel() for weight in weights if weight is not None)
    zeros = sum(int((weight == 0).sum()) for weight in weights if weight is not None)
    return zeros / total if total else 0.0


# ---------------------------------------------------------------- N of M


def n_of_m_mask(weight: Tensor, keep: int = 2, of: int = 4) -> Tensor:
    """True at the ``keep`` weights of largest magnitude among each ``of`` neighbours along the inputs (dimension 1).

    Args:
        weight: Shape (outputs, inputs, ...). Inputs that are left over form a shorter group, of which as many are kept.
        keep: N.
        of: M.

    Raises:
        ConfigurationError: If not 0 < N <= M, or the weight has no inputs.

    Example:
        >>> n_of_m_mask(torch.tensor([[0.1, -3.0, 2.0, 0.5]])).tolist()
        [[False, True, True, False]]
    """
    if not 0 < keep <= of:
        raise ConfigurationError(where="n_of_m_mask(keep, of)", got=f"{keep} of {of}", expected="0 < keep <= of")
    if weight.dim() < 2:
        raise ConfigurationError(
            where="n_of_m_mask(weight)", got=f"shape {tuple(weight.shape)}", expected="(outputs, inputs, ...)"
        )
    magnitude = weight.detach().abs().movedim(1, -1)
    inputs = magnitude.shape[-1]
    padded = nn.functional.pad(magnitude, (0, -inputs % of), value=-1.0)
    groups = padded.unflatten(-1, (-1, of))
    kept = torch.zeros_like(groups, dtype=torch.bool).scatter_(-1, groups.topk(keep, dim=-1).indices, True)
    return kept.flatten(-2)[..., :inputs].movedim(-1, 1).contiguous()


def prune_n_of_m(model: nn.Module, keep: int = 2, of: int = 4, *, select: Selection | None = None) -> list[str]:
    """Gives all linear layers and convolutions masks of `n_of_m_mask`, see `set_pruning_mask` for how they hold.

    Layers with less than M inputs to a group (depthwise convolutions) are left alone.

    Args:
        model: Any model, or a simulation's.
        keep: N.
        of: M.
        select: Which layers; all by default.

    Returns:
        Paths of the pruned layers.

    Example:
        >>> model = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> prune_n_of_m(model), sparsity(model)
        (['0', '2'], 0.5)
    """
    pruned: list[str] = []
    for path, module in prunable_modules(model, select):
        weight = module._parameters["weight"]
        assert weight is not None
        if weight.shape[1] >= of:
            set_pruning_mask(module, n_of_m_mask(weight, keep, of))
            pruned.append(path)
    return pruned


# ---------------------------------------------------------------- gradual, with regrowth


class GradualPruning:
    """Prunes little by little while a model trains, and lets weights grow again (Liu et al. 2021, "GraNet").

    The sparsity rises from ``initial`` to ``final`` as ``final + (initial - final) (1 - t)^3`` (Zhu and Gupta 2017). At
    each update the smallest magnitudes of the whole model go; then in every layer a share of what is left, ``regrowth``
    in the beginning and by a cosine less until 0 in the end, is exchanged: the smallest of it against as many pruned
    weights with the largest gradients, which start at 0. Call `step` after each backward, before gradients are
    cleared. The masks hold by themselves (see `set_pruning_mask`); without this object they stay as they are.

    Args:
        model: Any model, or a simulation's.
        final: Sparsity in the end.
        steps: Calls of `step` until then.
        initial: Sparsity in the beginning.
        every: Calls of `step` from one update to the next.
        regrowth: Share of a layer's weights exchanged at first.
        select: Which layers; all linear ones and convolutions by default.

    Raises:
        ConfigurationError: If a number is out of range, or there is nothing to prune.

    Example:
        >>> model = nn.Linear(16, 16)
        >>> pruning = GradualPruning(model, 0.75, steps=20, every=5)
        >>> optimizer = torch.optim.Adam(model.parameters())
        >>> for _ in range(20):
        ...     optimizer.zero_grad()
        ...     model(torch.randn(4, 16)).square().sum().backward()
        ...     optimizer.step()
        ...     pruning.step()
        >>> sparsity(model)
        0.75
    """

    def __init__(
        self,
        model: nn.Module,
        final: float,
        *,
        steps: int,
        initial: float = 0.0,
        every: int = 100,
        regrowth: float = 0.5,
        select: Selection | None = None,
    ) -> None:
        if not 0.0 <= initial <= final < 1.0 or not 0.0 <= regrowth < 1.0 or steps < 1 or every < 1:
            raise ConfigurationError(
                "out of range",
                where="GradualPruning",
                got=f"initial={initial}, final={final}, regrowth={regrowth}, steps={steps}, every={every}",
                expected="0 <= initial <= final < 1, 0 <= regrowth < 1, steps and every from 1 on",
            )
        self.modules = dict(prunable_modules(model, select))
        if not self.modules:
            raise ConfigurationError(
                "there is nothing to prune",
                where="GradualPruning",
                got="no layer",
                expected="linear layers, convolutions",
            )
        self.final, self.initial, self.steps, self.every, self.regrowth = final, initial, steps, every, regrowth
        self.done = 0
        if initial > 0:
            self._prune_to(initial)

    def target(self, step: int) -> float:
        """The sparsity after so many steps."""
        progress = min(1.0, step / self.steps)
        return self.final + (self.initial - self.final) * (1.0 - progress) ** 3

    @torch.no_grad()
    def step(self) -> None:
        """Counts one step of training; at every ``every``-th one, and at the last one, the masks change.

        Raises:
            ConfigurationError: If a layer has no gradient to choose by; nothing has changed then.
        """
        done = self.done + 1
        if done > self.steps or (done % self.every and done != self.steps):
            self.done = done
            return
        share = self.regrowth * 0.5 * (1.0 + math.cos(math.pi * done / self.steps)) if done < self.steps else 0.0
        if share > 0.0:
            for path, module in self.modules.items():
                self._require_gradient(path, module)
        self._prune_to(self.target(done))
        for module in self.modules.values():
            self._exchange(module, share)
        self.done = done

    def _require_gradient(self, path: str, module: nn.Module) -> None:
        weight = module._parameters["weight"]
        assert weight is not None
        if weight.grad is None:
            raise ConfigurationError(
                "there is no gradient to choose the weights by that grow again",
                where=f"GradualPruning.step ({path})",
                got="weight.grad is None",
                expected="a gradient",
                fix="call step() after backward() and before zero_grad(); or regrowth=0",
            )

    def _weight(self, module: nn.Module) -> Tensor:
        weight = module._parameters["weight"]
        assert weight is not None
        return whole(weight.detach())

    def _mask(self, module: nn.Module) -> Tensor:
        mask = pruning_mask(module)
        return torch.ones_like(self._weight(module), dtype=torch.bool) if mask is None else mask

    def _prune_to(self, share: float) -> None:
        """Takes the smallest magnitudes of all layers away; what is pruned stays so."""
        # Pruned ones come first, whatever an optimizer has made of them since.
        magnitudes = [
            torch.where(self._mask(module), self._weight(module).abs().float(), -1.0).flatten().cpu()
            for module in self.modules.values()
        ]
        together = torch.cat(magnitudes)
        count = round(share * together.numel())
        kept = torch.ones(together.numel(), dtype=torch.bool)
        kept[together.argsort(stable=True)[:count]] = False
        sizes = [len(values) for values in magnitudes]
        for module, part in zip(self.modules.values(), kept.split(sizes), strict=True):
            set_pruning_mask(module, part.reshape(self._weight(module).shape))

    def _exchange(self, module: nn.Module, share: float) -> None:
        mask = self._mask(module).flatten()
        weight = self._weight(module)
        parameter = module._parameters["weight"]
        gradient = None if parameter is None else parameter.grad
        count = min(int(share * int(mask.sum())), int((~mask).sum()))
        if count == 0 or gradient is None:  # which step() has asked for
            return
        magnitude = torch.where(mask, weight.abs().float().flatten(), math.inf)
        growth = torch.where(mask, -math.inf, whole(gradient.detach()).abs().float().flatten())
        changed = mask.clone()
        changed[magnitude.argsort(stable=True)[:count]] = False
        changed[growth.argsort(descending=True, stable=True)[:count]] = True
        set_pruning_mask(module, changed.reshape(weight.shape))
