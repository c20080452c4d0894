"""Attacks of one gradient step in Linf that no library has: N-FGSM, NuAT's, and FGSM from a remembered start."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Self

from toolkit_ext.bounds import BELOW_ONE, COUNT, NOT_NEGATIVE, POSITIVE, check_options
from toolkit_ext.errors import UserError
from toolkit_ext.types import AdversarialInputs, Attack, Norm, Resources, option
from toolkit_ext.units import Eps, parse_eps

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class SingleStep:
    """Base of the attacks in this file: the radius in Linf."""

    eps: Eps = option(8 / 255, "radius of the budget, in units of [0, 1] inputs; 8/255 is accepted as text")
    norm: ClassVar[Norm] = "Linf"
    soft_labels: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self)
        object.__setattr__(self, "eps", parse_eps(self.eps, self.norm))

    def at(self, *, eps: float, step: int = 0) -> Self:
        """The same attack with another radius."""
        return replace(self, eps=eps)


@dataclass(frozen=True)
class NoiseFGSM(SingleStep):
    """``x' = clip(x + η + α sign ∇L(x + η))`` with ``η`` uniform in ``[−k eps, k eps]``, clipped to [0, 1] alone.

    ``k = n_fgsm_noise`` and ``α = n_fgsm_alpha eps``. The perturbation is not projected, so it may be as large as
    ``(k + 1) eps``; the paper finds that projecting it brings catastrophic overfitting back.

    De Jorge et al.: Make some noise: reliable and efficient single-step adversarial training. NeurIPS 2022.

    Raises:
        UserError: an option outside its range.
    """

    n_fgsm_noise: float = option(2.0, "half-width of the uniform noise of N-FGSM as a multiple of eps", NOT_NEGATIVE)
    n_fgsm_alpha: float = option(1.0, "step size of N-FGSM as a multiple of eps", POSITIVE)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
        from toolkit_ext.attacks.steps import signed_gradient, uniform

        start = (x.detach() + uniform(x, self.n_fgsm_noise * self.eps)).clamp(0, 1)
        step = self.n_fgsm_alpha * self.eps * signed_gradient(model, start, y)
        return AdversarialInputs((start + step).clamp(0, 1), start=start)


@dataclass(frozen=True)
class NuclearFGSM(SingleStep):
    """``x' = Π(x + b + eps sign ∇(L + λ ‖f(x + b) − f(x)‖_* / N))`` with ``b = ± nuat_start eps``, drawn per pixel.

    ``‖·‖_*`` is the nuclear norm of the ``[N, K]`` difference of logits and ``λ = nuat_lambda``. As in the authors'
    code, every other step leaves the nuclear norm out.

    Sriramanan et al.: Towards efficient and effective adversarial training. NeurIPS 2021.

    Raises:
        UserError: an option outside its range.
    """

    nuat_start: float = option(0.5, "size of the random start of NuAT's attack as a multiple of eps", NOT_NEGATIVE)
    nuat_lambda: float = option(4.5, "NuAT: weight of the nuclear norm in the loss and in its attack", NOT_NEGATIVE)
    _step: int = field(default=0, repr=False, metadata={"hidden": True})

    def at(self, *, eps: float, step: int = 0) -> Self:
        return replace(self, eps=eps, _step=step)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
        from toolkit_ext.attacks.steps import nuclear_ascent, project, signed_gradient, uniform

        x = x.detach()
        start = (x + self.nuat_start * self.eps * uniform(x, 1.0).sign()).clamp(0, 1)
        term = nuclear_ascent(model, x, self.nuat_lambda) if self._step % 2 else None
        moved = start + self.eps * signed_gradient(model, start, y, term)
        return AdversarialInputs(project(moved, x, self.eps), start=start)


@dataclass(frozen=True)
class PriorGuidedFGSM(SingleStep):
    """FGSM from a start ``η`` that is remembered for every example and moved along a momentum of its gradients.

    With the example's gradient ``g_c`` at ``x + η_t``, scaled to ``‖g_c‖₁ = 1``, and ``α = pgi_alpha eps``::

        δ = Π(η_t + α sign g_c),   g_{t+1} = μ g_t + g_c,   η_{t+1} = Π(η_t + α sign g_{t+1})

    and ``x' = x + δ``. ``μ = pgi_decay``. Every ``pgi_reset`` visits of an example, ``η = ± eps`` is drawn anew for
    each pixel and ``g = 0``. As in the authors' code, ``η`` belongs to the pixels that the network sees: augmentation
    moves the image beneath it. They scale ``g_c`` by the norm of the whole batch.

    Jia et al.: Prior-guided adversarial initialization for fast adversarial training. ECCV 2022, FGSM-MEP.

    Raises:
        UserError: an option outside its range; training data that is not numbered (:meth:`bind`).
    """

    pgi_alpha: float = option(1.0, "step size of the prior-guided FGSM as a multiple of eps", POSITIVE)
    pgi_decay: float = option(0.3, "decay of the momentum that moves the remembered start, in [0, 1)", BELOW_ONE)
    pgi_reset: int = option(40, "visits of an example after which its start is drawn anew", COUNT)

    def bind(self, model: nn.Module, resources: Resources) -> Attack:
        """The attack with its memory of the run's examples."""
        from toolkit_ext.attacks.prior import PriorGuided

        if resources.examples is None:
            raise UserError("attack: fgsm_pgi remembers examples; it is not allowed with data that has no numbers")
        return PriorGuided(self, resources.examples)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
        """The attack without memory: from a start that is drawn anew."""
        from toolkit_ext.attacks.steps import signed_gradient, uniform

        x = x.detach()
        start = (x + self.eps * uniform(x, 1.0).sign()).clamp(0, 1)
        return AdversarialInputs(self.moved(x, start, signed_gradient(model, start, y)), start=start)

    def moved(self, x: Tensor, start: Tensor, sign: Tensor) -> Tensor:
        """``start + α sign`` projected: within eps of ``x``, and in [0, 1]."""
        from toolkit_ext.attacks.steps import project

        return project(start + self.pgi_alpha * self.eps * sign, x, self.eps)
