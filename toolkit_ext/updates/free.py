"""Free adversarial training: one backward pass moves the weights and the inputs, and each batch is replayed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolkit_ext.bounds import COUNT, CheckedOptions
from toolkit_ext.errors import UserError
from toolkit_ext.types import (
    AdversarialInputs,
    GradientReducer,
    InputUpdate,
    StepReport,
    TrainingStep,
    no_exchange,
    option,
)
from toolkit_ext.updates.rules import check_no_scaler

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.amp import GradScaler
    from torch.optim import Optimizer


@dataclass(frozen=True)
class FreeRule(CheckedOptions):
    """``m = free_replays`` steps on each batch, each of which moves the weights and the perturbation ``δ``::

        θ ← optimiser(θ, ∇_θ L(x + δ)),   δ ← clip(δ + eps sign ∇_x L(x + δ), −eps, eps)

    with both gradients from one backward pass. The first ``δ`` of a batch is the last one of the batch before. The
    attack gives ``eps`` alone. The learning rate moves on once a batch; divide the epochs by ``m``, as the paper does.

    Shafahi et al.: Adversarial training for free! NeurIPS 2019, algorithm 1.

    Raises:
        UserError: ``free_replays`` below 1.
    """

    free_replays: int = option(8, "steps of free adversarial training on each batch", COUNT)

    def bind(self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None) -> Free:
        check_no_scaler("free", scaler)
        return Free(optimizer, self.free_replays)


class Free(InputUpdate):
    """The update of :class:`FreeRule`; ``delta`` ``[N, C, H, W]`` is kept from batch to batch and saved."""

    total_only = True

    def __init__(self, optimizer: Optimizer, replays: int) -> None:
        self.optimizer, self.replays = optimizer, replays
        self.exchange: GradientReducer = no_exchange
        self.delta: Tensor | None = None

    @property
    def optimizers(self) -> Sequence[Optimizer]:
        return [self.optimizer]

    def share(self, exchange: GradientReducer, ascent: GradientReducer) -> None:
        """See :class:`~toolkit_ext.types.Shareable`; each process moves the inputs of its own part."""
        self.exchange = exchange

    def step_inputs(self, step: TrainingStep) -> StepReport:
        """``free_replays`` steps; reports the loss terms of the first.

        Raises:
            UserError: a budget that is not in Linf, or an objective without a gradient at the perturbed inputs.
        """
        if (norm := getattr(step.attack, "norm", "Linf")) != "Linf":
            raise UserError(f"norm: {norm} is not allowed with the update free; it must be Linf")
        delta, eps, reports = self._recalled(step), step.attack.eps, []
        for _ in range(self.replays):
            report, gradient = self._replay(step, delta)
            reports.append(report)
            delta = (delta + eps * gradient.sign()).clamp(-eps, eps)
        self._keep(step, delta)
        return reports[0]

    def _recalled(self, step: TrainingStep) -> Tensor:
        """The perturbation of the batch before, for this process's part; zeros for examples that it did not have."""
        import torch

        x, eps = step.batch.x, step.attack.eps
        if self.delta is None:
            return torch.zeros_like(x)
        before = self.delta.to(x.device)[step.batch.part.rows][: len(x)].clamp(-eps, eps)
        return torch.cat([before, torch.zeros_like(x[len(before) :])])

    def _replay(self, step: TrainingStep, delta: Tensor) -> tuple[StepReport, Tensor]:
        from toolkit_ext.updates.plain import detached, gradients

        delta = delta.detach().requires_grad_()
        self.optimizer.zero_grad()
        losses = step.losses(AdversarialInputs((step.batch.x + delta).clamp(0, 1)))
        if losses.total.requires_grad:
            losses.total.backward()  # type: ignore[no-untyped-call]
        if delta.grad is None:
            terms = ", ".join(losses.terms)
            raise UserError(
                f"update free: the objective (terms {terms}) has no gradient at the perturbed inputs; use adversarial"
            )
        self.exchange(gradients(self.optimizer))
        self.optimizer.step()
        return StepReport(detached(losses)), delta.grad

    def _keep(self, step: TrainingStep, delta: Tensor) -> None:
        import torch

        whole = step.batch.part.gather(delta)
        rest = whole[:0] if self.delta is None else self.delta.to(whole.device)[len(whole) :]
        self.delta = torch.cat([whole, rest])

    def state_dict(self) -> dict[str, Any]:
        return {"optimizer": self.optimizer.state_dict(), "delta": self.delta}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.optimizer.load_state_dict(state["optimizer"])
        self.delta = state["delta"]
