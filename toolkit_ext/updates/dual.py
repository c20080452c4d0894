"""The dual update: SGD along the gradient of the clean loss, Adam along that of the adversarial loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from toolkit_ext.errors import UserError
from toolkit_ext.types import Closure, GradientReducer, Losses, StepReport, no_exchange
from toolkit_ext.updates.plain import NO_CLOSURE, WrappedOptimizer, check_inner, detached
from toolkit_ext.updates.rules import GammaSchedule

Pair = tuple[Tensor, Tensor]


def _parameters(optimizer: Optimizer) -> list[Tensor]:
    return [p for group in optimizer.param_groups for p in group["params"]]


def _gradients(loss: Tensor, parameters: list[Tensor], *, retain: bool) -> list[Tensor | None]:
    for parameter in parameters:
        parameter.grad = None
    # autograd.grad would not run hooks on accumulated gradients, such as DDP's.
    torch.autograd.backward(loss, retain_graph=retain)
    return [parameter.grad for parameter in parameters]


class DualOptimizer(WrappedOptimizer):
    """Two optimisers on the same weights, each with its own loss, both at θ_t.

    ``θ_{t+1} = θ_t − η ∇L_clean(θ_t) − γ Adam(∇L_adversarial(θ_t))`` for ``clean`` an SGD of rate η and
    ``adversarial`` an Adam of rate γ. In general θ_{t+1} = θ_t + u + v, with u and v the steps of each optimiser from
    θ_t. γ = 0 is ``clean`` alone, bit for bit.

    Weight decay acts once, through ``clean``. ``param_groups`` lists the groups of both, so a torch scheduler on this
    object scales both rates; to scale one, give it ``clean`` or ``adversarial``. After a step, ``figures`` holds
    ``clean_grad_norm``, ``adversarial_grad_norm``, ``grad_cosine``, ``clean_step_norm`` = ‖u‖₂ and
    ``adversarial_step_norm`` = ‖v‖₂, over all weights and before clipping by hooks.

    Args:
        clean: optimiser of the clean loss.
        adversarial: optimiser of the adversarial loss, over the same parameters, without weight decay.

    Raises:
        UserError: other parameters, weight decay in ``adversarial``, or optimisers that need a closure themselves.

    Example::

        optimizer = DualOptimizer(
            clean=torch.optim.SGD(model.parameters(), lr=0.1),
            adversarial=torch.optim.Adam(model.parameters(), lr=1e-3),
        )
        optimizer.step(lambda: (F.cross_entropy(model(x), y), F.cross_entropy(model(x_adv), y)))
    """

    clean: Optimizer
    adversarial: Optimizer
    exchange: GradientReducer
    figures: dict[str, Tensor]

    def __init__(self, clean: Optimizer, adversarial: Optimizer) -> None:
        check_inner("DualOptimizer clean", clean)
        check_inner("DualOptimizer adversarial", adversarial)
        ours, theirs = _parameters(clean), _parameters(adversarial)
        if {id(p) for p in ours} != {id(p) for p in theirs} or clean is adversarial:
            given = f"{len(theirs)} parameters, clean has {len(ours)}"
            raise UserError(f"DualOptimizer adversarial: {given}; two optimisers of the same parameters are needed")
        decay = [group["weight_decay"] for group in adversarial.param_groups if group.get("weight_decay")]
        if decay:
            raise UserError(f"DualOptimizer adversarial: weight_decay {decay[0]} is not allowed; set it in clean only")
        inner = {"clean": clean, "adversarial": adversarial}
        super().__init__(defaults=dict(clean.defaults), exchange=no_exchange, figures={}, **inner)

    @property
    def param_groups(self) -> list[dict[str, Any]]:  # type: ignore[override]
        """The parameter groups of both optimisers, those of ``clean`` first."""
        return [*self.clean.param_groups, *self.adversarial.param_groups]

    @property
    def state(self) -> dict[Tensor, dict[str, Any]]:  # type: ignore[override]
        """The state of each parameter, under ``clean`` and ``adversarial``; to read only."""
        found: dict[Tensor, dict[str, Any]] = {}
        for name, optimizer in (("clean", self.clean), ("adversarial", self.adversarial)):
            for parameter, values in optimizer.state.items():
                found.setdefault(parameter, {})[name] = values
        return found

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Raises :class:`UserError`: add the group to both optimisers."""
        raise UserError("DualOptimizer.add_param_group: not allowed; add the group to clean and to adversarial")

    def state_dict(self) -> dict[str, Any]:
        return {"clean": self.clean.state_dict(), "adversarial": self.adversarial.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.clean.load_state_dict(state_dict["clean"])
        self.adversarial.load_state_dict(state_dict["adversarial"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Pair] | None = None) -> Pair:  # type: ignore[override]
        """One step; ``closure`` returns (clean loss, adversarial loss) without ``backward()``; they may share a graph.

        Returns both, detached. If anything raises, the weights are θ_t.

        Raises:
            UserError: there is no closure.
        """
        if closure is None:
            raise UserError(f"DualOptimizer.step: {NO_CLOSURE}")
        with torch.enable_grad():
            clean, adversarial = closure()
        parameters = [p for p in _parameters(self.clean) if p.requires_grad]
        grads = (_gradients(clean, parameters, retain=True), _gradients(adversarial, parameters, retain=False))
        self.exchange([grad for each in grads for grad in each if grad is not None])
        self.figures = _compare(*grads) | self._move(parameters, *grads)
        return clean.detach(), adversarial.detach()

    def _move(
        self, parameters: list[Tensor], clean: list[Tensor | None], adversarial: list[Tensor | None]
    ) -> dict[str, Tensor]:
        start = [p.detach().clone() for p in parameters]
        try:
            _step(self.clean, parameters, clean)
            moved = [p.detach().clone() for p in parameters]
            torch._foreach_copy_(parameters, start)
            _step(self.adversarial, parameters, adversarial)
        except BaseException:
            torch._foreach_copy_(parameters, start)
            raise
        second = torch._foreach_sub(parameters, start)
        torch._foreach_copy_(parameters, moved)
        torch._foreach_add_(parameters, second)
        first = torch._foreach_sub(moved, start)
        return {"clean_step_norm": get_total_norm(first), "adversarial_step_norm": get_total_norm(second)}


def _step(optimizer: Optimizer, parameters: list[Tensor], grads: list[Tensor | None]) -> None:
    for parameter, grad in zip(parameters, grads, strict=True):
        parameter.grad = grad
    optimizer.step()


def _compare(clean: list[Tensor | None], adversarial: list[Tensor | None]) -> dict[str, Tensor]:
    """Norms and cosine (0 for a zero gradient) of the two gradients, without waiting for the device."""
    norms = [get_total_norm([g for g in grads if g is not None]) for grads in (clean, adversarial)]
    both = [(a, b) for a, b in zip(clean, adversarial, strict=True) if a is not None and b is not None]
    dot = torch.stack([(a * b).sum() for a, b in both]).sum() if both else torch.zeros_like(norms[0])
    cosine = dot / (norms[0] * norms[1]).clamp(min=torch.finfo(dot.dtype).tiny)
    return {"clean_grad_norm": norms[0], "adversarial_grad_norm": norms[1], "grad_cosine": cosine}


def _split(losses: Losses) -> Pair:
    """The weighted sum of all terms but ``adversarial``, and the weighted ``adversarial``."""
    if not {"clean", "adversarial"} <= losses.terms.keys():
        terms = ", ".join(losses.terms)
        raise UserError(f"update dual: the objective gives the terms {terms}; it needs one with clean and adversarial")
    others = {name: term for name, term in losses.terms.items() if name != "adversarial"}
    adversarial = losses.weights.get("adversarial", 1.0) * losses.terms["adversarial"]
    return Losses(others, losses.weights).total, adversarial


class DualUpdate:
    """The dual rule bound to its two optimisers, and whether the learning-rate schedule moves the second too."""

    def __init__(self, optimizer: DualOptimizer, gamma_schedule: GammaSchedule = "constant") -> None:
        self.optimizer, self.gamma_schedule = optimizer, gamma_schedule

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        """The clean optimiser (rate η), then Adam (rate γ)."""
        return [self.optimizer.clean, self.optimizer.adversarial]

    @property
    def scheduled(self) -> Sequence[Optimizer]:
        """See :class:`~toolkit_ext.types.PartlyScheduled`."""
        return self.optimizers if self.gamma_schedule == "as_lr" else [self.optimizer.clean]

    def share(self, exchange: GradientReducer, ascent: GradientReducer) -> None:
        """See :class:`~toolkit_ext.types.Shareable`; one exchange for both gradients, and no ascent."""
        self.optimizer.exchange = exchange

    def step(self, closure: Closure) -> StepReport:
        """One step; reports the loss terms and ``DualOptimizer.figures``."""
        reported: list[Losses] = []

        def pair() -> Pair:
            reported.append(closure())
            return _split(reported[0])

        self.optimizer.step(pair)
        return StepReport(detached(reported[0]), dict(self.optimizer.figures))

    def state_dict(self) -> dict[str, Any]:
        return self.optimizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state)
