"""The deep adversarial attack: a perturbation of the input and of every chosen hidden layer."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Self

from toolkit_ext.errors import UserError, check_choice, check_positive
from toolkit_ext.types import NORMS, AdversarialInputs, Norm, option
from toolkit_ext.units import Eps, parse_eps

if TYPE_CHECKING:
    from torch import Tensor, nn

    from toolkit_ext.attacks.layerwise.neurons import Cost, Objective, Target

RHOS = ("quadratic", "ball")
SOLVERS = ("cg", "ga", "pgd")
VARIABLES = ("perturbations", "neurons")
# Loss per squared budget. The ball's is large enough that the maximiser leaves it by a few per cent of its radius.
_LAMBDA = {"quadratic": 1.0, "ball": 10.0}


@dataclass(frozen=True)
class Deep:
    """Perturbs the input and hidden layers: ``n_0 = x + d_0``, ``n_l = f_l(w_l, n_{l−1}) + d_l``, for every example::

        max_d  c(y, h(w, x, d)) + Σ_l ρ_l(d_l)                                                        (9)
        max_n  c(y, s(w_L n_{L−1})) + ρ_0(n_0 − x) + Σ_{l≥1} ρ_l(n_l − f_l(w_l, n_{l−1}))               (11)

    which have the same maximiser. ``deep_variables="neurons"`` solves (11), where the layers decouple: the module of
    every layer gets free neurons, so that one forward and one backward pass give the gradient of all of them.
    ``perturbations`` solves (9), at the same cost. They differ in condition: what the loss says reaches one layer
    further down in every step of (11), whose Hessian is that of (9) times ``(I − J)ᵀ(I − J)``, ``J`` the Jacobian of
    the layers; see ``benchmarks/results/deep_objective.csv`` for what this does.

    ``ρ_l(d) = −λ ‖d‖² / r_l²`` (``quadratic``), or ``−λ ‖relu(g(d))‖² / r_l²`` for the ball ``g(d) ≤ 0`` of radius
    ``ε_l`` (``ball``, in which leaving [0, 1] counts as leaving the ball of the input). ``r_l`` is the Euclidean
    radius of the budget, ``ε_l`` in L2 and ``ε_l √D_l`` in Linf. The input's ``ε_0`` is ``eps``; that of a hidden
    layer is ``deep_hidden_eps`` times the root mean square (Linf) or the length (L2) of the example's own clean
    output of that layer, so that one number fits layers of any scale.

    Afterwards ``d`` follows from its definition; with ``ball`` it is projected on the balls, and ``x + d_0`` is
    clipped to [0, 1]. No example influences another if none does in the model, as in evaluation mode.

    Passes: ``2 deep_steps + 1`` forward for ``cg`` and ``ga`` (:func:`.solvers.maximise`), all but the last with a
    backward pass, ``deep_steps`` of both for ``pgd``; one forward pass more for the scale of the layers, and with the
    neurons for unknowns often one for ``d``.

    Chinchilla: Deep adversarial training. 2020, equations 6 to 11 and algorithm 1.
    """

    # The copy it is shown has to have the outputs of all layers: no batch norm folded away.
    looks_inside: ClassVar[bool] = True

    eps: Eps = option(8 / 255, "radius of the budget, in units of [0, 1] inputs; 8/255 is accepted as text")
    norm: Norm = option("Linf", "norm of the budget: Linf or L2")
    deep_layers: str = option("auto", "hidden layers: auto, none, or a comma-separated list of names and patterns")
    deep_hidden_eps: float = option(0.02, "budget of a hidden layer, as a fraction of the size of its clean output")
    deep_norm: Norm = option("L2", "norm of the budgets of hidden layers: Linf or L2")
    deep_rho: str = option("quadratic", "what bounds a perturbation: quadratic (a penalty) or ball (its budget)")
    deep_lambda: float | None = option(None, "loss per squared budget; none is 1 for quadratic and 10 for ball")
    deep_solver: str = option("cg", "maximiser: cg (conjugate gradient), ga (gradient ascent) or pgd")
    deep_variables: str = option("perturbations", "unknowns of cg and ga: perturbations (coupled) or neurons")
    deep_steps: int = option(5, "steps of the maximiser; each is two gradient evaluations for cg and ga, one for pgd")
    deep_start: float = option(0.1, "size of the random start, as a fraction of the budget; 0 starts from d = 0")

    def __post_init__(self) -> None:
        for name, allowed in (("norm", NORMS), ("deep_norm", NORMS), ("deep_rho", RHOS)):
            check_choice(name, getattr(self, name), allowed)
        check_choice("deep_solver", self.deep_solver, SOLVERS)
        check_choice("deep_variables", self.deep_variables, VARIABLES)
        object.__setattr__(self, "eps", parse_eps(self.eps, self.norm))
        check_positive("deep_hidden_eps", self.deep_hidden_eps, zero=True)
        check_positive("deep_start", self.deep_start, zero=True)
        if self.deep_lambda is not None:
            check_positive("deep_lambda", self.deep_lambda)
        if self.deep_steps < 1:
            raise UserError(f"deep_steps: {self.deep_steps} is not allowed; at least 1")

    def at(self, *, eps: float, step: int = 0) -> Self:
        """The same attack with another radius; the budgets of the hidden layers scale along."""
        if eps == self.eps or self.eps == 0:
            return replace(self, eps=eps)
        return replace(self, eps=eps, deep_hidden_eps=self.deep_hidden_eps * eps / self.eps)

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, cost: Cost | None = None) -> AdversarialInputs:
        """Craft against ``model``; ``x`` is ``[N, C, H, W]`` in [0, 1], ``y`` what ``cost(logits, y)`` ``[N]`` takes.

        ``cost`` is the cross-entropy unless given.

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
        """What this attack maximises on ``target``."""
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
        """``λ``: ``deep_lambda``, or the default that goes with ``deep_rho``."""
        return _LAMBDA[self.deep_rho] if self.deep_lambda is None else self.deep_lambda
