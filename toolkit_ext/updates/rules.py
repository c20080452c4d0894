"""The rules of the update axis: hyper-parameters, without torch; the arithmetic is in the optimisers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from toolkit_ext.bounds import BELOW_ONE, NOT_NEGATIVE, POSITIVE, CheckedOptions, check_options
from toolkit_ext.errors import UserError, check_choice, check_positive
from toolkit_ext.types import Update, option

if TYPE_CHECKING:
    from torch import nn
    from torch.amp import GradScaler
    from torch.optim import Optimizer

AMPScope = Literal["global", "per_tensor"]
GammaSchedule = Literal["constant", "as_lr"]
BatchNormPasses = Literal["once", "last", "every"]
"""The pass over a batch that updates running batch-norm statistics.

``once`` (default) is the first, at θ, as in evaluation; ``last`` the last, at θ + Δ (the code of AWP's authors);
``every`` counts each batch several times (the code of AMP's authors). Other state of forward passes (random
generators, the power iteration of spectral norm) is not held.
"""
_BATCH_NORM_HELP = "pass that updates running batch-norm statistics: once (first), last or every"


def check_amp(prefix: str, epsilon: float, inner_lr: float, inner_iter: int, scope: str, batch_norm: str) -> None:
    """Raise :class:`UserError` if an option of AMP, named with ``prefix``, is outside its range."""
    check_positive(f"{prefix}epsilon", epsilon, zero=True)
    check_positive(f"{prefix}inner_lr", inner_lr)
    check_choice(f"{prefix}scope", scope, get_args(AMPScope))
    NOT_NEGATIVE.check(f"{prefix}inner_iter", inner_iter, int)
    check_choice(f"{prefix}batch_norm", batch_norm, get_args(BatchNormPasses))


def check_awp(prefix: str, gamma: float, steps: int, inner_lr: float | None, batch_norm: str) -> None:
    """Raise :class:`UserError` if an option of AWP, named with ``prefix``, is outside its range."""
    check_positive(f"{prefix}gamma", gamma, zero=True)
    if inner_lr is not None:
        check_positive(f"{prefix}inner_lr", inner_lr)
    NOT_NEGATIVE.check(f"{prefix}steps", steps, int)
    check_choice(f"{prefix}batch_norm", batch_norm, get_args(BatchNormPasses))


def check_sam(prefix: str, rho: float, eta: float, batch_norm: str) -> None:
    """Raise :class:`UserError` if an option of SAM or ASAM, named with ``prefix``, is outside its range."""
    check_positive(f"{prefix}rho", rho, zero=True)
    check_positive(f"{prefix}eta", eta, zero=True)
    check_choice(f"{prefix}batch_norm", batch_norm, get_args(BatchNormPasses))


def check_no_scaler(update: str, scaler: GradScaler | None) -> None:
    """Raise :class:`UserError` for a gradient scaler, which can scale only one gradient per step."""
    if scaler is not None:
        raise UserError(f"precision: fp16-mixed is not allowed with the update {update}; use bf16-mixed or fp32")


@dataclass(frozen=True)
class PlainRule:
    """θ ← optimiser(θ, ∇L(θ)) with L the weighted sum of the objective's terms."""

    def bind(self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None) -> Update:
        """Bind to ``optimizer`` and, in fp16, to ``scaler``; ``model`` is not used."""
        from toolkit_ext.updates.plain import PlainUpdate

        return PlainUpdate(optimizer, scaler)


@dataclass(frozen=True)
class DualRule(CheckedOptions):
    """θ_{t+1} = θ_t − η ∇L_clean − γ Adam(∇L_adversarial), both at θ_t; η is the rate of the bound optimiser.

    The objective must give ``clean`` and ``adversarial``; other terms (``penalty``) are added to ``clean``.

    The learning-rate schedule and its warm-up move η. γ = ``dual_gamma`` stays as it is
    (``dual_gamma_schedule="constant"``), as in the source, which schedules η alone; ``as_lr`` multiplies it by the same
    factors as η, which is what runs did before this option.
    """

    dual_gamma: float = option(
        1e-3, "learning rate of Adam on the adversarial loss; small beside the main rate", NOT_NEGATIVE
    )
    dual_beta1: float = option(0.9, "decay of Adam's first moment, in [0, 1)", BELOW_ONE)
    dual_beta2: float = option(0.999, "decay of Adam's second moment, in [0, 1)", BELOW_ONE)
    dual_adam_eps: float = option(1e-8, "constant in the denominator of Adam", POSITIVE)
    dual_gamma_schedule: GammaSchedule = option(
        "constant", "rate of Adam: constant, or as_lr (scheduled and warmed up like the main rate)", earlier="as_lr"
    )

    def bind(self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None) -> Update:
        from torch.optim import Adam

        from toolkit_ext.updates.dual import DualOptimizer, DualUpdate

        check_no_scaler("dual", scaler)
        groups = [{"params": list(group["params"])} for group in optimizer.param_groups]
        betas = (self.dual_beta1, self.dual_beta2)
        # Fused like the main optimiser, so the check for non-finite values need not wait for the device.
        fused = all(group.get("fused") for group in optimizer.param_groups) or None
        adam = Adam(groups, lr=self.dual_gamma, betas=betas, eps=self.dual_adam_eps, fused=fused)
        return DualUpdate(DualOptimizer(optimizer, adam), self.dual_gamma_schedule)


@dataclass(frozen=True)
class AMPRule:
    """Hyper-parameters of adversarial model perturbation (:class:`.AMP`), on the weighted sum of all loss terms."""

    amp_epsilon: float = option(0.5, "radius of the L2 ball around the weights in which AMP raises the loss; 0: off")
    amp_inner_lr: float = option(1.0, "step size of AMP's ascent on the weights")
    amp_inner_iter: int = option(1, "steps of AMP's ascent; each costs a forward and a backward pass more")
    amp_scope: AMPScope = option("global", "one ball over all weights (global) or one for each tensor (per_tensor)")
    amp_batch_norm: BatchNormPasses = option("once", _BATCH_NORM_HELP)

    def __post_init__(self) -> None:
        check_options(self)
        ball = (self.amp_epsilon, self.amp_inner_lr, self.amp_inner_iter, self.amp_scope)
        check_amp("amp_", *ball, self.amp_batch_norm)

    def bind(self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None) -> Update:
        from toolkit_ext.updates.perturbed import PerturbedUpdate
        from toolkit_ext.updates.weight_perturbation import AMP

        check_no_scaler("amp", scaler)
        ball = (self.amp_epsilon, self.amp_inner_lr, self.amp_inner_iter, self.amp_scope)
        return PerturbedUpdate(AMP(optimizer, *ball, batch_norm=self.amp_batch_norm, model=model))


@dataclass(frozen=True)
class AWPRule:
    """Hyper-parameters of adversarial weight perturbation (:class:`.AWP`), on the weighted sum of all loss terms.

    As in the authors' code it perturbs parameters with ``weight`` in their name and more than one dimension.
    """

    awp_gamma: float = option(0.005, "size of AWP's weight perturbation relative to each layer's norm; 0: off")
    awp_steps: int = option(1, "steps of AWP's ascent; each costs a forward and a backward pass more")
    awp_inner_lr: float | None = option(
        None, "step size of AWP's ascent relative to each layer's norm; default: awp_gamma"
    )
    awp_batch_norm: BatchNormPasses = option("once", _BATCH_NORM_HELP)

    def __post_init__(self) -> None:
        check_options(self)
        check_awp("awp_", self.awp_gamma, self.awp_steps, self.awp_inner_lr, self.awp_batch_norm)

    def bind(self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None) -> Update:
        from toolkit_ext.updates.perturbed import PerturbedUpdate
        from toolkit_ext.updates.weight_perturbation import AWP

        check_no_scaler("awp", scaler)
        weights = [p for name, p in model.named_parameters() if "weight" in name and p.ndim > 1]
        ball = (self.awp_gamma, self.awp_steps, self.awp_inner_lr)
        return PerturbedUpdate(AWP(optimizer, *ball, weights=weights, batch_norm=self.awp_batch_norm, model=model))


@dataclass(frozen=True)
class SAMRule:
    """Hyper-parameters of sharpness-aware minimisation (:class:`.SAM`), on the weighted sum of all loss terms."""

    sam_rho: float = option(0.05, "radius of the L2 ball around the weights in which SAM raises the loss; 0: off")
    sam_batch_norm: BatchNormPasses = option("once", _BATCH_NORM_HELP)

    def __post_init__(self) -> None:
        check_options(self)
        check_sam("sam_", self.sam_rho, 0.0, self.sam_batch_norm)

    def bind(self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None) -> Update:
        from toolkit_ext.updates.perturbed import PerturbedUpdate
        from toolkit_ext.updates.sharpness import SAM

        check_no_scaler("sam", scaler)
        return PerturbedUpdate(SAM(optimizer, self.sam_rho, batch_norm=self.sam_batch_norm, model=model))


@dataclass(frozen=True)
class ASAMRule:
    """Hyper-parameters of adaptive SAM (:class:`.SAM` with ``adaptive``), on the weighted sum of all loss terms.

    As in the authors' code it scales parameters with ``weight`` in their name, those of batch norm among them.
    """

    asam_rho: float = option(0.5, "radius of ASAM's ball, relative to the size of each weight; 0: off")
    asam_eta: float = option(0.01, "constant added to the size of each weight in ASAM's scaling")
    asam_batch_norm: BatchNormPasses = option("once", _BATCH_NORM_HELP)

    def __post_init__(self) -> None:
        check_options(self)
        check_sam("asam_", self.asam_rho, self.asam_eta, self.asam_batch_norm)

    def bind(self, model: nn.Module, optimizer: Optimizer, scaler: GradScaler | None = None) -> Update:
        from toolkit_ext.updates.perturbed import PerturbedUpdate
        from toolkit_ext.updates.sharpness import SAM

        check_no_scaler("asam", scaler)
        scaled = [p for name, p in model.named_parameters() if "weight" in name]
        how: dict[str, Any] = {"adaptive": True, "eta": self.asam_eta, "weights": scaled}
        return PerturbedUpdate(SAM(optimizer, self.asam_rho, **how, batch_norm=self.asam_batch_norm, model=model))
