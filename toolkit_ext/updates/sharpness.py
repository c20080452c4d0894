"""SAM and ASAM: the gradient at the point of a ball around the weights that the first-order loss is largest at."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from toolkit_ext.updates.perturbed import PerturbedOptimizer
from toolkit_ext.updates.rules import BatchNormPasses, check_sam


class SAM(PerturbedOptimizer):
    """Sharpness-aware minimisation around a base optimiser, for any training loop.

    With ``g = ∇L(θ)`` the base optimiser steps from θ with ``∇L(θ + Δ)``, where::

        Δ = ρ g / ‖g‖₂                       (SAM)
        Δ = ρ T² g / ‖T g‖₂,  T = |θ| + η    (adaptive: ASAM)

    ``T`` is elementwise, and 1 for parameters outside of ``weights``. A step costs two forward and backward passes.
    With ``rho=0`` it is the base optimiser, bit for bit.

    Foret, Kleiner, Mobahi, Neyshabur: Sharpness-aware minimization for efficiently improving generalization. ICLR 2021,
    equation 2. Kwon, Kim, Park, Choi: ASAM: adaptive sharpness-aware minimization. ICML 2021, algorithm 1.

    Args:
        base: the optimiser that moves the weights; parameter groups and state are shared.
        rho: radius ρ ≥ 0 of the ball, in units of the weights (SAM) or relative to them (ASAM).
        adaptive: ASAM instead of SAM.
        eta: constant η ≥ 0 of the adaptive form.
        weights: the parameters that the adaptive form scales; by default those with more than one dimension.
        batch_norm: the pass that updates running batch-norm statistics; see :data:`.rules.BatchNormPasses`.
        model: the model whose statistics to hold; needed only if it is compiled with ``torch.compile``.

    Raises:
        UserError: an option outside its range, or a base that cannot step without a closure.

    Example::

        optimizer = SAM(torch.optim.SGD(model.parameters(), lr=0.1), rho=0.05)

        def closure():
            optimizer.zero_grad()
            loss = F.cross_entropy(model(x), y)
            loss.backward()
            return loss

        optimizer.step(closure)

    With a ``GradScaler``, ``first_step`` and ``second_step`` as for :class:`.AMP`.
    """

    rho: float
    adaptive: bool
    eta: float
    weights: list[Tensor] | None

    def __init__(
        self,
        base: Optimizer,
        rho: float = 0.05,
        *,
        adaptive: bool = False,
        eta: float = 0.01,
        weights: Iterable[Tensor] | None = None,
        batch_norm: BatchNormPasses = "once",
        model: nn.Module | None = None,
    ) -> None:
        check_sam("SAM ", rho, eta, batch_norm)
        chosen = None if weights is None else list(weights)
        super().__init__(base, batch_norm, model, rho=rho, adaptive=adaptive, eta=eta, weights=chosen)

    @property
    def rounds(self) -> int:
        """One step of ascent, or none if ρ = 0."""
        return int(self.rho > 0)

    def _ascend(self, delta: list[Tensor] | None, grads: list[Tensor], origin: list[Tensor]) -> list[Tensor]:
        scaled, factors = list(grads), self._factors(origin)
        if factors is not None:
            scaled = list(torch._foreach_mul(grads, factors))
        # A zero gradient gives a zero Δ, not 0/0. Nothing waits for the device.
        size = get_total_norm(scaled)
        radius = self.rho / size.clamp(min=torch.finfo(size.dtype).tiny)
        moved = list(torch._foreach_mul(scaled, radius))
        return moved if factors is None else list(torch._foreach_mul(moved, factors))

    def _factors(self, origin: list[Tensor]) -> list[Tensor] | None:
        """``T`` of every parameter; None for SAM."""
        if not self.adaptive:
            return None
        # By identity: == on tensors compares their entries.
        chosen = None if self.weights is None else {id(weight) for weight in self.weights}
        held = [weight.ndim > 1 if chosen is None else id(weight) in chosen for weight in self._weights()]
        return [w.abs() + self.eta if scaled else torch.ones_like(w) for w, scaled in zip(origin, held, strict=True)]
