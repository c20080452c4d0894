"""Several norms as one threat: the worst perturbation of each example, or all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

from toolkit_ext.attacks.gradient import PGD
from toolkit_ext.attacks.multi_attack import worst_of
from toolkit_ext.bounds import COUNT, check_options
from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.types import NORMS, AdversarialInputs, Norm, option
from toolkit_ext.units import Eps, parse_eps

if TYPE_CHECKING:
    from torch import Tensor, nn

NormMode = Literal["max", "average"]


@dataclass(frozen=True)
class MultiNorm:
    """PGD in each of the ``norms``, with the radii ``norm_eps``.

    ``max`` keeps, for each example, the perturbation with the largest cross-entropy: ``max_i L(f(x + δ_i), y)``. With
    ``average`` the objective is computed for every norm and averaged: ``(1/n) Σ_i L(f(x + δ_i), y)``, which takes n
    forward and backward passes of the update. Here the average is over whatever terms the objective has.

    Tramèr, Boneh: Adversarial training and robustness for multiple perturbations. NeurIPS 2019, the
    training strategies "max" and "avg". Their L1 attack is SLIDE; here it is ART's PGD.

    ``eps`` and ``norm``, which schedules, the monitor and the update ``free`` read, are those of the first norm; all
    radii move together.

    Raises:
        UserError: an unknown norm, fewer than two or one twice, or another number of radii.
    """

    soft_labels: ClassVar[bool] = True

    norms: tuple[str, ...] = option(("Linf", "L2"), "multi_norm: norms of the perturbations: Linf, L2, L1")
    norm_eps: tuple[Eps, ...] = option(("8/255", 0.5), "multi_norm: radius in each of the norms, such as 8/255,0.5,12")
    norm_mode: NormMode = option("max", "multi_norm: max (the worst of each example) or average (all of them)")
    steps: int = option(10, "number of steps of the attack", COUNT)
    random_start: bool = option(True, "start from a random point of the budget")

    def __post_init__(self) -> None:
        check_options(self)
        for norm in self.norms:
            check_choice("norms", norm, NORMS)
        if len(self.norms) < 2 or len(set(self.norms)) < len(self.norms):
            raise UserError(f"norms: {','.join(self.norms) or 'none'} is not allowed; give two or three, each once")
        if len(self.norm_eps) != len(self.norms):
            raise UserError(f"norm_eps: {len(self.norm_eps)} radii for {len(self.norms)} norms; give one for each")
        radii = [parse_eps(eps, norm, "norm_eps") for eps, norm in zip(self.norm_eps, self.norms, strict=True)]
        object.__setattr__(self, "norm_eps", tuple(radii))

    @property
    def eps(self) -> float:
        """Radius in the first norm."""
        return float(self.norm_eps[0])

    @property
    def norm(self) -> Norm:
        """The first norm."""
        return self.norms[0]  # type: ignore[return-value]

    def at(self, *, eps: float, step: int = 0) -> Self:
        """The same attack with another radius in the first norm; the others scale with it."""
        if eps == self.eps or self.eps == 0:
            return self
        return replace(self, norm_eps=tuple(radius * eps / self.eps for radius in self.norm_eps))

    def members(self) -> list[PGD]:
        """The attack in each norm, in order."""
        return [
            PGD(
                eps=eps,
                norm=norm,  # type: ignore[arg-type]
                steps=self.steps,
                random_start=self.random_start,
                backend="art" if norm == "L1" else "torchattacks",
            )
            for norm, eps in zip(self.norms, self.norm_eps, strict=True)
        ]

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor) -> AdversarialInputs:
        """Craft against ``model``; ``x`` is ``[N, C, H, W]`` in [0, 1], ``y`` classes ``[N]`` or shares ``[N, K]``."""
        found = [member(model, x, y) for member in self.members()]
        if self.norm_mode == "max":
            return worst_of(found, model, y)
        return replace(found[0], others=tuple(found[1:]))
