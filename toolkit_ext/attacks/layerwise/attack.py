"""The deep adversarial attack: a perturbation of the input and of every chosen hidden layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self, get_args

from toolkit_ext.bounds import COUNT, NOT_NEGATIVE, POSITIVE, check_options
from toolkit_ext.errors import check_choice
from toolkit_ext.types import AdversarialInputs, HiddenNorm, Norm, option
from toolkit_ext.units import Eps, parse_eps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from toolkit_ext.attacks.layerwise.neurons import Cost, Objective, Target

# Default weights. With the ball's, the maximiser leaves the ball by a few per cent of its radius.
_LAMBDA = {"quadratic": 1.0, "ball": 10.0}


@dataclass(frozen=True)
class Deep:
    """Perturbs the input and hidden layers: ``n_0 = x + d_0``, ``n_l = f_l(w_l, n_{l−1}) + d_l``, for every example::

        max_d  c(y, h(w, x, d)) + Σ_l ρ_l(d_l)                                                        (9)
        max_n  c(y, s(w_L n_{L−1})) + ρ_0(n_0 − x) + Σ_{l≥1} ρ_l(n_l − f_l(w_l, n_{l−1}))               (11)

    which have the same maximiser and the same cost per step. ``deep_variables`` chooses ``perturbations`` (9) or
    ``neurons`` (11), where the layers decouple. The Hessian of (11) is that of (9) times ``(I − J)ᵀ(I − J)``, ``J``
    the Jacobian of the layers: the loss reaches one layer further down in each step
    (``benchmarks/results/deep_objective.csv`` compares both; ``deep_neurons.csv`` has what was tried to help (11)).

    ``ρ_l(d)`` is ``−λ ‖d‖² / r_l²`` (``quadratic``), or ``−λ ‖relu(g(d))‖² / r_l²`` for the ball ``g(d) ≤ 0`` of
    radius ``ε_l`` (``ball``; for the input also outside [0, 1]). ``r_l`` is the ball's Euclidean radius: ``ε_l`` in
    L2, ``ε_l √D_l`` in Linf. ``ε_0`` is ``eps``; a hidden ``ε_l`` is ``deep_hidden_eps`` times the length (L2) or the
    root mean square (Linf) of the example's clean output of the layer. At the end, ``ball`` projects ``d`` onto the
    balls, and ``x + d_0`` is clipped to [0, 1].

    Passes: for ``cg`` and ``ga``, ``2 deep_steps + 1`` forward and ``2 deep_steps`` backward; for ``pgd``,
    ``deep_steps`` of each; one more forward pass for the scale of the layers, and often one for ``d`` with neurons.

    Chinchilla: Deep adversarial training. 2020, equations 6 to 11 and algorithm 1.
    """

    looks_inside: ClassVar[bool] = True  # needs the outputs of all layers, so no folded batch norm
    soft_labels: ClassVar[bool] = True

    eps: Eps = option(8 / 255, "radius of the budget, in units of [0, 1] inputs; 8/255 is accepted as text")
    norm: Norm = option("Linf", "norm of the budget: Linf, L2, or with backend art L1")
    deep_layers: str = option("auto", "hidden layers: auto, none, or a comma-separated list of names and patterns")
    deep_hidden_eps: float = option(
        0.02, "budget of a hidden layer, as a fraction of the size of its clean output", NOT_NEGATIVE
    )
    deep_norm: HiddenNorm = option("L2", "norm of the budgets of hidden layers: Linf or L2")
    deep_rho: str = option("quadratic", "what bounds a perturbation: quadratic (a penalty) or ball (its budget)")
    deep_lambda: float | None = option(
        None, "loss per squared budget; none is 1 for quadratic and 10 for ball", POSITIVE
    )
    deep_solver: str = option("cg", "maximiser: cg (conjugate gradient), ga (gradient ascent) or pgd")
    deep_variables: str = option("perturbations", "unknowns of cg and ga: perturbations (coupled) or neurons")
    deep_steps: int = option(
        5, "steps of the maximiser; each is two gradient evaluations for cg and ga, one for pgd", COUNT
    )
    deep_start: float = option(
        0.1, "size of the random start, as a fraction of the budget; 0 starts from d = 0", NOT_NEGATIVE
    )

    def __post_init__(self) -> None:
        check_options(self)
        check_choice("norm", self.norm, get_args(HiddenNorm))
        check_choice("deep_rho", self.deep_rho, _LAMBDA)
        check_choice("deep_solver", self.deep_solver, ("cg", "ga", "pgd"))
        check_choice("deep_variables", self.deep_variables, ("perturbations", "neurons"))
        object.__setattr__(self, "eps", parse_eps(self.eps, self.norm))

    def at(self, *, eps: float, step: int = 0) -> Self:
        """The same attack with another radius; the hidden budgets scale with it."""
        if eps == self.eps or self.eps == 0:
            return replace(self, eps=eps)
        return replace(self, eps=eps, deep_hidden_eps=self.deep_hidden_eps * eps / self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, cost: Cost | None = None) -> AdversarialInputs:
        """Craft against ``model``; ``x`` is ``[N, C, H, W]`` in [0, 1], ``cost(logits, y)`` ``[N]`` the cross-entropy.

        Raises:
            UserError: a layer that does not exist, is called twice or never, or does not return one tensor.
        """
        from toolkit_ext.attacks.layerwise.layers import Hidden, choose
        from toolkit_ext.attacks.layerwise.neurons import Target, cross_entropy

        x = x.detach()
        layers = choose(model, self.deep_layers) if self.deep_hidden_eps > 0 else {}
        if self.eps == 0 and not layers:
            return AdversarialInputs(x)
        objective = self.objective(Target(model, layers, x, y, cost or cross_entropy))
        z = objective.perturbations(self._solve(objective))
        parts = zip(objective.penalties, objective.radii, z, strict=True)
        d = [radius * penalty.project(part) for penalty, radius, part in parts]
        inputs = (x + d[0]).clamp(0, 1) if self.eps > 0 else x
        return AdversarialInputs(inputs, Hidden(dict(zip(layers, d[1:], strict=True))))

    def objective(self, target: Target) -> Objective:
        from toolkit_ext.attacks.layerwise.neurons import objective_of

        return objective_of(self, target)

    def _solve(self, objective: Objective) -> Tensor:
        from toolkit_ext.attacks.layerwise.solvers import ascend, maximise

        start = objective.start(self.deep_start)
        if self.deep_solver == "pgd":
            return ascend(objective, start, self.deep_steps, 2.5 / self.deep_steps)
        return maximise(objective, start, self.deep_steps, conjugate=self.deep_solver == "cg")

    @property
    def weight(self) -> float:
        """``λ``: ``deep_lambda`` or the default of ``deep_rho``."""
        return _LAMBDA[self.deep_rho] if self.deep_lambda is None else self.deep_lambda
