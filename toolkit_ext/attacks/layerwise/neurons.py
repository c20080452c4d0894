"""The objective of the layer-wise attack, with its gradient for all layers from one forward and backward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from toolkit_ext.attacks.layerwise.layers import replaced
from toolkit_ext.attacks.layerwise.penalty import Penalty, lengths, per_example

if TYPE_CHECKING:
    from toolkit_ext.attacks.layerwise.attack import Deep

Cost = Callable[[Tensor, Tensor], Tensor]
_FLOOR = 1e-6  # keeps the budget of a layer with all-zero output above 0


def cross_entropy(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy of every example, ``[N]``."""
    return nn.functional.cross_entropy(logits, y, reduction="none")


@dataclass(frozen=True, eq=False)
class Target:
    """The target of the attack: ``model``, its chosen ``layers``, inputs, labels and the ``cost`` per example."""

    model: nn.Module
    layers: Mapping[str, nn.Module]
    x: Tensor
    y: Tensor
    cost: Cost


class Objective:
    """``c(y, s(w_L n_{L−1})) + Σ_l ρ_l(d_l)``, ``n_0 = x + d_0``, ``n_l = f_l(w_l, n_{l−1}) + d_l``, per example.

    The unknowns are the perturbations ``d_l`` (equation 9) or, if ``decoupled``, the neurons ``n_l`` (equation 11):
    these replace the output of each chosen module, and only the penalties couple the layers.

    The unknowns form one tensor ``z`` ``[N, Σ_l D_l]`` in units of the budgets ``r_l``: ``d_l = r_l z_l``, or
    ``n_l = n̂_l + r_l z_l`` with ``n̂`` chosen such that ``d_l = r_l z_l`` at the first evaluation. In these units the
    Hessian of quadratic penalties in the perturbations is ``−2λ`` times the identity.

    Args:
        target: what is attacked.
        radii: ``r_l`` of every example, ``[N]`` each, above 0; the input's first.
        penalties: ``ρ_l`` in the same order.
        decoupled: the unknowns are the neurons.
    """

    def __init__(
        self, target: Target, radii: Sequence[Tensor], penalties: Sequence[Penalty], *, decoupled: bool
    ) -> None:
        self.target, self.penalties, self.decoupled = target, penalties, decoupled
        self.radii = [per_example(r, len(p.shape)) for r, p in zip(radii, penalties, strict=True)]
        # The penalties are −λ ‖z‖² in all: they and their gradient then read z once, not layer by layer.
        self._quadratic = not decoupled and all(p.quadratic and p.weight == penalties[0].weight for p in penalties)
        self._sizes = [penalty.shape[1:].numel() for penalty in penalties]
        self._last: Tensor | None = None
        self._base: dict[int, Tensor] = {}
        self._predicted: dict[int, Tensor] = {}
        self._z: list[Tensor] = []
        self._edges: dict[int, GradientEdge] = {}
        self._slopes: dict[int, Tensor] = {}

    def start(self, fraction: float) -> Tensor:
        """Random unknowns in ``fraction`` of every layer's ball."""
        return torch.cat([p.flat(p.random(self.target.x) * fraction) for p in self.penalties], dim=1)

    def split(self, z: Tensor) -> list[Tensor]:
        """Views of ``z`` or its gradient in the shapes of the layers; the input's first."""
        return [p.shaped(part) for part, p in zip(torch.split(z, self._sizes, dim=1), self.penalties, strict=True)]

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """The objective ``[N]`` and its gradient with respect to ``z``, shaped like ``z``."""
        with torch.enable_grad():
            cost = self._forward(z, [part.detach().requires_grad_() for part in self.split(z)])
        penalty, outside = self._penalty(z)
        gradient = self._penalty_gradient(z, outside)
        slopes = self._backward(cost, outside)
        for part, radius, slope in zip(self.split(gradient), self.radii, slopes, strict=True):
            if slope is not None:
                part.addcmul_(slope, radius)
        return cost.detach() + penalty, gradient

    @torch.no_grad()
    def value(self, z: Tensor) -> Tensor:
        """The objective ``[N]`` from one forward pass."""
        return self._forward(z, self.split(z)) + self._penalty(z)[0]

    def _penalty(self, z: Tensor) -> tuple[Tensor, Sequence[Tensor]]:
        """``Σ ρ_l`` ``[N]`` and ``z_l − Π(z_l)`` of every layer."""
        if self._quadratic:
            return -self.penalties[0].weight * lengths(z) ** 2, self._z
        values, outside = zip(*(p(part) for p, part in zip(self.penalties, self._z, strict=True)), strict=True)
        return sum(values, torch.zeros_like(values[0])), outside

    def _penalty_gradient(self, z: Tensor, outside: Sequence[Tensor]) -> Tensor:
        if self._quadratic:
            return z * (-2 * self.penalties[0].weight)
        gradient = torch.empty_like(z)
        for part, penalty, u in zip(self.split(gradient), self.penalties, outside, strict=True):
            torch.mul(u, -2 * penalty.weight, out=part)
        return gradient

    def _backward(self, cost: Tensor, outside: Sequence[Tensor]) -> Sequence[Tensor | None]:
        """Gradients in every ``n_l`` of the cost, and of ``ρ_l`` through ``f_l`` in ``d_l = n_l − f_l``; None for 0."""
        outputs, seeds = [cost], [torch.ones_like(cost)]
        for i, predicted in self._predicted.items():
            if predicted.requires_grad:
                outputs.append(predicted)
                seeds.append((2 * self.penalties[i].weight / self.radii[i] * outside[i]).to(predicted.dtype))
        self._predicted = {}
        edges = [self._edges[layer] for layer in range(len(self.penalties))]
        slopes = torch.autograd.grad(outputs, edges, seeds, allow_unused=True)
        return [self._slopes.pop(layer, slope) for layer, slope in enumerate(slopes)]

    def perturbations(self, z: Tensor) -> list[Tensor]:
        """``d_l / r_l`` at ``z`` for every layer, the input's first; neurons need a forward pass for a new ``z``."""
        if not self.decoupled:
            return self.split(z)
        if z is not self._last:
            with torch.no_grad():
                self._forward(z, self.split(z))
        return self._z

    def _forward(self, z: Tensor, parts: list[Tensor]) -> Tensor:
        """Cost per example; stores ``d_l / r_l`` and the predictions."""
        target, place = self.target, self._free if self.decoupled else self._shifted
        self._last, self._z = z, [part.detach() for part in parts]
        with replaced(target.model, target.layers, lambda i, output: place(i + 1, output, parts[i + 1])):
            return target.cost(target.model(self._shifted(0, target.x, parts[0])), target.y)

    def _shifted(self, layer: int, predicted: Tensor, part: Tensor) -> Tensor:
        """``f_l + r_l z_l`` as a new tensor, which the network may overwrite; stores its gradient edge."""
        shifted = torch.addcmul(predicted, self.radii[layer].to(predicted.dtype), part.to(predicted.dtype))
        if shifted.requires_grad:
            self._edges[layer] = get_gradient_edge(shifted)
            if self.penalties[layer].memory_format == torch.channels_last:
                # Not a method of this object, which holds the graph: the reference cycle would never be freed.
                shifted.register_hook(partial(_laid, self._slopes, layer))
        return shifted

    def _free(self, layer: int, predicted: Tensor, part: Tensor) -> Tensor:
        """``n̂_l + r_l z_l`` in place of the prediction; stores ``d_l / r_l``."""
        base = self._base.setdefault(layer, predicted.detach().clone())
        self._predicted[layer] = predicted
        self._z[layer] = (base - predicted.detach()).div_(self.radii[layer]).add_(part.detach())
        return self._shifted(layer, base, part)


def _laid(kept: dict[int, Tensor], layer: int, slope: Tensor) -> Tensor:
    """Store ``slope`` in ``kept`` and return it in channels last, which a flatten behind the layer changes."""
    kept[layer] = slope.contiguous(memory_format=torch.channels_last)
    return kept[layer]


def objective_of(attack: Deep, target: Target) -> Objective:
    """The objective of ``attack`` on ``target``, with budgets and penalties of the input and every chosen layer."""
    x, ball = target.x, attack.deep_rho == "ball"
    root = math.sqrt(x[0].numel()) if attack.norm == "Linf" else 1.0
    radii = [x.new_full((len(x),), max(attack.eps * root, _FLOOR))]
    radius = per_example(radii[0], x.dim())
    box = (-x / radius, (1 - x) / radius) if ball else None
    penalties = [Penalty(x.shape, attack.norm, attack.weight, ball, box, _order(x))]
    for shape, order, length in _sizes(target):
        radii.append(attack.deep_hidden_eps * length)
        penalties.append(Penalty(shape, attack.deep_norm, attack.weight, ball, memory_format=order))
    decoupled = attack.deep_variables == "neurons" and attack.deep_solver != "pgd"
    return Objective(target, radii, penalties, decoupled=decoupled)


def _order(output: Tensor) -> torch.memory_format:
    """The memory format of ``output``; perturbations in another would be copied in every pass."""
    last = output.dim() == 4 and output.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last and not output.is_contiguous() else torch.contiguous_format


@torch.no_grad()
def _sizes(target: Target) -> list[tuple[torch.Size, torch.memory_format, Tensor]]:
    """Shape and memory format of every layer's clean output, and its length ``[N]``."""
    found: dict[int, tuple[torch.Size, torch.memory_format, Tensor]] = {}

    def look(layer: int, output: Tensor) -> Tensor:
        floor = _FLOOR * math.sqrt(output[0].numel())
        found[layer] = output.shape, _order(output), lengths(output.detach().to(target.x.dtype)).clamp_min(floor)
        return output

    if target.layers:
        with replaced(target.model, target.layers, look):
            target.model(target.x)
    return [found[layer] for layer in range(len(target.layers))]
