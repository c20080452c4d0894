"""FGSM, PGD and MIM: one vocabulary over torchattacks and ART.

The default ``backend`` is torchattacks; ART also computes weight gradients in each step and works through NumPy.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from toolkit_ext.bounds import COUNT, NOT_NEGATIVE, POSITIVE, check_options
from toolkit_ext.errors import UserError, check_positive
from toolkit_ext.types import AdversarialInputs, Norm, option
from toolkit_ext.units import Eps, parse_eps

if TYPE_CHECKING:
    from torch import Tensor, nn

Backend = Literal["torchattacks", "art"]
TPGDStart = Literal["clamped", "unclamped"]
Call = tuple[str, dict[str, Any]]  # an attack's name and options in its library
_ART_NORMS = {"Linf": math.inf, "L2": 2, "L1": 1}


@dataclass(frozen=True)
class GradientAttack:
    """Base of the attacks: the budget, its checks and the choice of the library."""

    soft_labels: ClassVar[bool] = True  # both libraries leave them to torch's cross-entropy, which takes probabilities

    eps: Eps = option(8 / 255, "radius of the budget, in units of [0, 1] inputs; 8/255 is accepted as text")
    norm: Norm = option("Linf", "norm of the budget: Linf, L2, or with backend art L1")
    backend: Backend = option("torchattacks", "library that crafts the examples: torchattacks or art")

    def __post_init__(self) -> None:
        check_options(self)
        object.__setattr__(self, "eps", parse_eps(self.eps, self.norm))
        if self.norm == "L1" and self.backend == "torchattacks":
            raise UserError("norm: 'L1' is not allowed with backend torchattacks; use backend art, or Linf or L2")

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
        """Craft against ``model``; ``x`` is ``[N, C, H, W]`` in [0, 1], ``y`` classes ``[N]`` or shares ``[N, K]``."""
        from toolkit_ext.attacks.adapters import run_art, run_torchattacks

        if self.eps == 0:
            return AdversarialInputs(x.detach())
        calls, run = self._calls(), run_art if self.backend == "art" else run_torchattacks
        wanted = "art" if self.backend == "art" else f"torchattacks {self.norm}"
        if wanted not in calls:
            missing = f"{self.backend!r} has no {type(self).__name__} attack in {self.norm}"
            raise UserError(f"backend: {missing}; allowed: {', '.join(calls)}")
        name, options = calls[wanted]
        return AdversarialInputs(run(name, model, x, y, **options))

    def at(self, *, eps: float, step: int = 0) -> Self:
        """The same attack with another radius; a given ``alpha`` scales with it."""
        if eps == self.eps:
            return self
        alpha = getattr(self, "alpha", None)
        if alpha is None or self.eps == 0:
            return replace(self, eps=eps)
        return replace(self, eps=eps, alpha=alpha * eps / self.eps or None)  # type: ignore[call-arg]

    def _calls(self) -> dict[str, Call]:
        """This attack in the libraries, by ``art`` (all norms), ``torchattacks Linf`` and ``torchattacks L2``."""
        return {}


@dataclass(frozen=True)
class NoAttack:
    """The clean inputs, for methods without an attack."""

    eps: ClassVar[float] = 0.0
    soft_labels: ClassVar[bool] = True

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
        return AdversarialInputs(x.detach())

    def at(self, *, eps: float, step: int = 0) -> Self:
        return self


@dataclass(frozen=True)
class FGSM(GradientAttack):
    """Fast gradient sign method: ``x' = clip(x + eps sign ∇_x L)``; in L2, the normalised gradient.

    Goodfellow, Shlens, Szegedy: Explaining and harnessing adversarial examples. ICLR 2015.
    """

    def _calls(self) -> dict[str, Call]:
        art = "FastGradientMethod", {"eps": self.eps, "eps_step": self.eps, "norm": _ART_NORMS[self.norm]}
        # torchattacks has no L2 FGSM; one step of its L2 PGD from the clean image is equivalent.
        step = "PGDL2", {"eps": self.eps, "alpha": self.eps, "steps": 1, "random_start": False}
        return {"torchattacks Linf": ("FGSM", {"eps": self.eps}), "torchattacks L2": step, "art": art}


@dataclass(frozen=True)
class RandomFGSM(GradientAttack):
    """One gradient step from a random start in the Linf ball, step size ``fast_alpha * eps``.

    Wong, Rice, Kolter: Fast is better than free. ICLR 2020, algorithm 3.
    """

    fast_alpha: float = option(1.25, "step size of random-start FGSM as a multiple of eps", POSITIVE)

    def _calls(self) -> dict[str, Call]:
        return {"torchattacks Linf": ("FFGSM", {"eps": self.eps, "alpha": self.fast_alpha * self.eps})}


@dataclass(frozen=True)
class IteratedAttack(GradientAttack):
    """An attack of several steps of size ``alpha``; None is ``2.5 eps / steps``, enough to cross the ball."""

    alpha: Eps | None = option(None, "step size of the attack; none is 2.5 eps / steps")
    steps: int = option(10, "number of steps of the attack", COUNT)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha is not None:
            object.__setattr__(self, "alpha", check_positive("alpha", parse_eps(self.alpha, None, "alpha")))

    @property
    def step_size(self) -> float:
        """``alpha`` or its default."""
        return 2.5 * self.eps / self.steps if self.alpha is None else self.alpha

    def _steps(self) -> dict[str, Any]:
        return {"eps": self.eps, "alpha": self.step_size, "steps": self.steps}

    def _art_steps(self) -> dict[str, Any]:
        norm, step = _ART_NORMS[self.norm], self.step_size
        return {"eps": self.eps, "eps_step": step, "norm": norm, "max_iter": self.steps, "verbose": False}


@dataclass(frozen=True)
class PGD(IteratedAttack):
    """Projected gradient descent: ``x_{t+1} = Π(x_t + alpha sign ∇_x L)``; in L2, the normalised gradient.

    Madry et al.: Towards deep learning models resistant to adversarial attacks. ICLR 2018, section 2.1.
    """

    random_start: bool = option(True, "start from a random point of the budget")

    def _calls(self) -> dict[str, Call]:
        options = {**self._steps(), "random_start": self.random_start}
        art = "ProjectedGradientDescentPyTorch", {**self._art_steps(), "num_random_init": int(self.random_start)}
        return {"torchattacks Linf": ("PGD", options), "torchattacks L2": ("PGDL2", options), "art": art}


@dataclass(frozen=True)
class MIM(IteratedAttack):
    """Momentum iterative method: PGD along ``g_{t+1} = decay g_t + ∇_x L / ‖∇_x L‖_1``.

    Dong et al.: Boosting adversarial attacks with momentum. CVPR 2018, algorithm 1.
    """

    decay: float = option(1.0, "decay of the momentum in MIM", NOT_NEGATIVE)

    def _calls(self) -> dict[str, Call]:
        art = "MomentumIterativeMethod", {**self._art_steps(), "decay": self.decay}
        return {"torchattacks Linf": ("MIFGSM", {**self._steps(), "decay": self.decay}), "art": art}


@dataclass(frozen=True)
class TPGD(IteratedAttack):
    """PGD on the divergence ``KL(f(x) ‖ f(x'))`` from the clean prediction: the inner maximisation of TRADES.

    It starts from ``x + 0.001 N(0, I)``, by default clamped to [0, 1] as torchattacks does. The authors' code takes the
    first gradient at the point as it was drawn, which may lie outside: ``tpgd_start="unclamped"``.

    Zhang et al.: Theoretically principled trade-off between robustness and accuracy. ICML 2019, algorithm 1.

    Raises:
        UserError: an unknown ``tpgd_start``.
    """

    tpgd_start: TPGDStart = option(
        "clamped", "random start of TRADES' attack: clamped to [0, 1], or unclamped as in its authors' code",
        earlier="clamped",
    )  # fmt: skip

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
        own = self.tpgd_start == "unclamped" and self.norm == "Linf" and self.backend == "torchattacks"
        if not own or self.eps == 0:
            return super().__call__(model, x, y)
        from toolkit_ext.attacks.steps import trades_pgd

        return AdversarialInputs(trades_pgd(model, x, self.eps, self.step_size, self.steps))

    def _calls(self) -> dict[str, Call]:
        return {"torchattacks Linf": ("TPGD", self._steps())}
