"""FGSM, PGD and MIM: one vocabulary over torchattacks and ART.

``eps`` is the radius of the budget and ``alpha`` the step size, both in units of inputs in [0, 1]; ``norm`` is
``Linf`` or ``L2``. ``backend`` chooses the library that does the work: torchattacks by default, because ART computes
weight gradients in every step and goes through NumPy.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal, Self

from torch import Tensor, nn

from toolkit_ext.attacks import _art, _torchattacks
from toolkit_ext.errors import UserError, check_choice, check_positive
from toolkit_ext.types import NORMS, Norm, Perturbed
from toolkit_ext.units import Eps, parse_eps

Backend = Literal["torchattacks", "art"]


def _option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class _Gradient:
    """What every attack here shares: the budget, its checks, and the change of ``eps`` during training."""

    eps: Eps = _option(8 / 255, "radius of the budget, in units of [0, 1] inputs; 8/255 is accepted as text")
    norm: Norm = _option("Linf", "norm of the budget: Linf or L2")
    backend: Backend = _option("torchattacks", "library that crafts the examples: torchattacks or art")

    def __post_init__(self) -> None:
        check_choice("norm", self.norm, NORMS)
        check_choice("backend", self.backend, ("torchattacks", "art"))
        object.__setattr__(self, "eps", parse_eps(self.eps, self.norm))

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Perturbed:
        """Craft against ``model``; ``x`` is ``[N, C, H, W]`` in [0, 1], ``y`` holds index labels ``[N]``."""
        if self.eps == 0:
            return Perturbed(x.detach())
        library = _torchattacks if self.backend == "torchattacks" else _art
        name, options = self._torchattacks() if self.backend == "torchattacks" else self._art()
        return Perturbed(library.craft(name, model, x, y, **options))

    def at(self, *, eps: float, step: int = 0) -> Self:
        """The same attack with another radius; an ``alpha`` that was given scales along."""
        if eps == self.eps:
            return self
        alpha = getattr(self, "alpha", None)
        if alpha is None or self.eps == 0:
            return replace(self, eps=eps)
        return replace(self, eps=eps, alpha=alpha * eps / self.eps or None)  # type: ignore[call-arg]

    def _torchattacks(self) -> tuple[str, dict[str, Any]]:
        raise UserError(f"backend: 'torchattacks' has no {type(self).__name__} attack in {self.norm}; use backend art")

    def _art(self) -> tuple[str, dict[str, Any]]:
        raise UserError(f"backend: 'art' has no {type(self).__name__} attack; use backend torchattacks")


@dataclass(frozen=True)
class NoAttack:
    """The clean inputs, for methods that train on them alone."""

    @property
    def eps(self) -> float:
        return 0.0

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> Perturbed:
        return Perturbed(x.detach())

    def at(self, *, eps: float, step: int = 0) -> Self:
        return self


@dataclass(frozen=True)
class FGSM(_Gradient):
    """Fast gradient sign method: ``x' = clip(x + eps sign ∇_x L)``; in L2, the normalised gradient.

    Goodfellow, Shlens, Szegedy: Explaining and harnessing adversarial examples. ICLR 2015.
    """

    def _torchattacks(self) -> tuple[str, dict[str, Any]]:
        if self.norm == "Linf":
            return "FGSM", {"eps": self.eps}
        # torchattacks has no L2 FGSM; one step of its L2 PGD from the clean image is the same map.
        return "PGDL2", {"eps": self.eps, "alpha": self.eps, "steps": 1, "random_start": False}

    def _art(self) -> tuple[str, dict[str, Any]]:
        return "FGSM", {"eps": self.eps, "eps_step": self.eps, "norm": _art.NORMS[self.norm]}


@dataclass(frozen=True)
class RandomFGSM(_Gradient):
    """One gradient step from a random start in the Linf ball, step size ``fast_alpha * eps``.

    Wong, Rice, Kolter: Fast is better than free. ICLR 2020, algorithm 3.
    """

    fast_alpha: float = _option(1.25, "step size of random-start FGSM as a multiple of eps")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("fast_alpha", self.fast_alpha)

    def _torchattacks(self) -> tuple[str, dict[str, Any]]:
        if self.norm == "Linf":
            return "FFGSM", {"eps": self.eps, "alpha": self.fast_alpha * self.eps}
        return super()._torchattacks()


@dataclass(frozen=True)
class _Iterated(_Gradient):
    """An attack of several steps of size ``alpha``; ``None`` is ``2.5 eps / steps``, which can cross the ball."""

    alpha: Eps | None = _option(None, "step size of the attack; none is 2.5 eps / steps")
    steps: int = _option(10, "number of steps of the attack")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha is not None:
            object.__setattr__(self, "alpha", check_positive("alpha", parse_eps(self.alpha, None, "alpha")))
        if self.steps < 1:
            raise UserError(f"steps: {self.steps} is not allowed; at least 1")

    @property
    def step_size(self) -> float:
        """``alpha``, or the default that goes with ``eps`` and ``steps``."""
        return 2.5 * self.eps / self.steps if self.alpha is None else self.alpha

    def _steps(self) -> dict[str, Any]:
        return {"eps": self.eps, "alpha": self.step_size, "steps": self.steps}

    def _art_steps(self) -> dict[str, Any]:
        norm = _art.NORMS[self.norm]
        return {"eps": self.eps, "eps_step": self.step_size, "max_iter": self.steps, "norm": norm}


@dataclass(frozen=True)
class PGD(_Iterated):
    """Projected gradient descent: ``x_{t+1} = Π(x_t + alpha sign ∇_x L)``; in L2, the normalised gradient.

    Madry et al.: Towards deep learning models resistant to adversarial attacks. ICLR 2018, section 2.1.
    """

    random_start: bool = _option(True, "start from a random point of the budget")

    def _torchattacks(self) -> tuple[str, dict[str, Any]]:
        name = "PGD" if self.norm == "Linf" else "PGDL2"
        return name, {**self._steps(), "random_start": self.random_start}

    def _art(self) -> tuple[str, dict[str, Any]]:
        return "PGD", {**self._art_steps(), "num_random_init": int(self.random_start)}


@dataclass(frozen=True)
class MIM(_Iterated):
    """Momentum iterative method: PGD along ``g_{t+1} = decay g_t + ∇_x L / ‖∇_x L‖_1``.

    Dong et al.: Boosting adversarial attacks with momentum. CVPR 2018, algorithm 1.
    """

    decay: float = _option(1.0, "decay of the momentum in MIM")

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive("decay", self.decay, zero=True)

    def _torchattacks(self) -> tuple[str, dict[str, Any]]:
        if self.norm == "Linf":
            return "MIFGSM", {**self._steps(), "decay": self.decay}
        return super()._torchattacks()

    def _art(self) -> tuple[str, dict[str, Any]]:
        return "MIM", {**self._art_steps(), "decay": self.decay}


@dataclass(frozen=True)
class TPGD(_Iterated):
    """PGD on the divergence ``KL(f(x) ‖ f(x'))`` from the clean prediction: the inner maximisation of TRADES.

    Zhang et al.: Theoretically principled trade-off between robustness and accuracy. ICML 2019, algorithm 1.
    """

    def _torchattacks(self) -> tuple[str, dict[str, Any]]:
        if self.norm == "Linf":
            return "TPGD", self._steps()
        return super()._torchattacks()
