"""Probes: further measurements of a trained model, each with its own record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import wraps
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from toolkit_ext import backbones
from toolkit_ext.attacks import PGD, Deep, generate
from toolkit_ext.data import Dataset, to_unit
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Ensemble, Evaluation, Protocol, evaluate, load_protocol
from toolkit_ext.experiments.presets import protocol_of
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.landscape import batch_gradients, gradient_jumps, perturbation_similarity, random_direction
from toolkit_ext.landscape.adversarial_loss import measure
from toolkit_ext.landscape.subject import Subject
from toolkit_ext.trainers import TRAINERS
from toolkit_ext.trainers.compose import compose
from toolkit_ext.types import Attack


@dataclass(frozen=True)
class Trained:
    """A finished training: experiment, folder of checkpoints, data, and the device to compute on.

    Evaluations of it are resumed from ``state_dir``.
    """

    experiment: Experiment
    folder: Path
    dataset: Dataset
    device: torch.device
    state_dir: Path | None = None

    def model(self, name: str = "best") -> backbones.Normalized:
        """The checkpoint ``best``, ``last`` or ``snapshot-NNN``; :class:`UserError` if it is missing."""
        if not (self.folder / name).is_dir():
            raise UserError(f"output: {self.folder / name} is missing; remove the run's record to train it again")
        return backbones.load_model(self.folder / name, device=self.device)

    def budget(self) -> dict[str, Any]:
        """``eps`` and ``norm`` of the training."""
        attack = compose(TRAINERS[self.experiment.method].method, self.experiment.hyper_parameters).attack
        return {"eps": attack.eps, "norm": getattr(attack, "norm", "Linf")}

    def protocol(self, attacks: tuple[str, ...] = ()) -> Protocol:
        """How the run was evaluated, with these ``attacks`` (by default the protocol's own)."""
        chosen = self.experiment
        return protocol_of(chosen.data, chosen.hyper_parameters, chosen.protocol, attacks)


@dataclass(frozen=True)
class Found:
    """What a probe found: facts (``*_acc`` and ``*_err`` as fractions) and perhaps an evaluation."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Evaluation | None = None


Probe = Callable[[Trained], Found]
Settings = ParamSpec("Settings")


def _probe(take: Callable[Concatenate[Trained, Settings], Found]) -> Callable[Settings, Probe]:
    """Bind the settings first and the trained model later: ``hessian(500)`` is a :data:`Probe`."""

    @wraps(take)
    def settings(*args: Settings.args, **kwargs: Settings.kwargs) -> Probe:
        return lambda trained: take(trained, *args, **kwargs)

    return settings


@_probe
def other_budget(trained: Trained, protocol: str, attacks: tuple[str, ...] = ("clean", "aa")) -> Found:
    """AutoAttack at the budget of ``protocol``."""
    return Found(evaluation=_evaluated(trained, trained.model(), load_protocol(protocol).at(attacks=attacks)))


@_probe
def last_epoch(trained: Trained) -> Found:
    """Clean accuracy and APGD-CE alone on the model of the last epoch; an arm has it as its probe ``last``.

    Where the run is not attacked, the clean accuracy alone.
    """
    attacks = ("clean",) if trained.experiment.attacks == ("clean",) else ("clean", "apgd_ce")
    return Found(evaluation=_evaluated(trained, trained.model("last"), trained.protocol(attacks)))


@_probe
def full_autoattack(trained: Trained, n: int) -> Found:
    """The run's attacks and all of AutoAttack on the first ``n`` test images."""
    return other_attacks(n, (*trained.experiment.attacks, "aa"))(trained)


@_probe
def other_attacks(trained: Trained, n: int, attacks: tuple[str, ...]) -> Found:
    """``attacks`` on the first ``n`` test images."""
    first = replace(trained, dataset=trained.dataset.subset(None, min(n, len(trained.dataset.y_test))))
    return Found(evaluation=_evaluated(first, trained.model(), trained.protocol(attacks)))


@_probe
def ensemble(trained: Trained) -> Found:
    """The attacks of the run on the ensemble of the schedule's snapshots and the last model."""
    chosen = trained.experiment
    names = [path.name for path in sorted(trained.folder.glob("snapshot-*"))] + ["last"]
    schedule = compose(TRAINERS[chosen.method].method, chosen.hyper_parameters).schedule
    if len(names) != (periods := len(schedule.resets(chosen.epochs)) - 1):
        raise UserError(f"output: {trained.folder} has {len(names) - 1} snapshots; it must have {periods - 1}")
    model = Ensemble([trained.model(name) for name in names]).to(trained.device)
    return Found({"members": len(names)}, _evaluated(trained, model, trained.protocol(chosen.attacks)))


def _evaluated(trained: Trained, model: nn.Module, protocol: Protocol) -> Evaluation:
    data = trained.dataset
    settings: dict[str, Any] = {"num_classes": data.num_classes, "seed": trained.experiment.seed, "progress": False}
    settings["state_dir"] = trained.state_dir
    return evaluate(model, data.x_test, data.y_test, protocol, **settings)


@_probe
def hessian(trained: Trained, n: int, tol: float = 1e-2) -> Found:
    """``eigenvalue``: the largest of the Hessian of the adversarial loss on ``n`` training images."""
    pairs = _subject(trained, n).eigenpairs(1, tol)
    facts = {"eigenvalue": float(pairs.values[0]), "residual": float(pairs.residuals[0])}
    return Found({**facts, "converged": bool(pairs.converged[0]), "images": n})


@_probe
def similarity(trained: Trained, n: int, distances: Sequence[float], tol: float = 1e-2, on_test: bool = False) -> Found:
    """``cosine_eigenvector_<a>``, ``cosine_random_<a>``: mean cosine of the perturbations at θ ± av, ‖v‖ = 1.

    Also the robust error there, ``robust_eigenvector_<a>_err``, and the top ``eigenvalue``. The perturbations are those
    of training images or, if ``on_test``, of test images; the eigenvector is always of the training loss.
    """
    on, seed = _subject(trained, n), trained.experiment.seed
    pairs = on.eigenpairs(1, tol)
    directions = {"eigenvector": pairs.vectors[0], "random": random_direction(on.model, seed=seed)}
    facts = {"eigenvalue": float(pairs.values[0]), "residual": float(pairs.residuals[0]), "images": float(n)}
    images = (on.x_test, on.y_test) if on_test else (on.x, on.y)
    test: dict[str, Any] = {"x_test": on.x_test, "y_test": on.y_test}
    for name, direction in directions.items():
        table = perturbation_similarity(on.model, on.attack, *images, direction, distances, **test, seed=seed)
        for a, cosine, error in zip(distances, table["cosine"], table["robust_error"], strict=True):
            facts |= {f"cosine_{name}_{a:g}": float(cosine), f"robust_{name}_{a:g}_err": float(error)}
    return Found(facts)


@_probe
def smoothness(trained: Trained, n: int, distances: Sequence[float], gamma: float = 3.0) -> Found:
    """The bounds (11) and (12) of Liu et al. on ``n`` training images, along a random direction.

    The facts of :func:`~toolkit_ext.landscape.gradient_jumps`, and ``above``, the share of the last batches of training
    whose gradient is longer than ``gamma · ε L_θx``.
    """
    on, seed = _subject(trained, n), trained.experiment.seed
    eps, direction = trained.budget()["eps"], random_direction(on.model, seed=seed)
    facts = gradient_jumps(on.model, on.attack, on.x, on.y, direction, distances, eps=eps, seed=seed)
    batches = batch_gradients({"run": trained.folder})
    last = batches[batches["part"] == "last"]["grad_norm"]
    return Found({**facts, "above": float((last > gamma * eps * facts["lipschitz_inputs"]).mean())})


@_probe
def generalisation(trained: Trained, n: int) -> Found:
    """``train_err``, ``test_err`` of ``n`` images under the PGD of the training, and ``gap``, test minus train, points.

    Of the last epoch; at an eps of 0 the images are clean.
    """
    on = _subject(trained, n)
    pairs = ((on.x, on.y), (on.x_test, on.y_test))
    errors = [measure(on.model, on.attack, *pair, seed=trained.experiment.seed)["adv_error"] for pair in pairs]
    return Found({"train_err": errors[0], "test_err": errors[1], "gap": 100 * (errors[1] - errors[0])})


def _subject(trained: Trained, n: int) -> Subject:
    data, attack = trained.dataset, PGD(steps=10, **trained.budget())
    images = data.x_train[:n], data.y_train[:n], data.x_test[:n], data.y_test[:n]
    return Subject([trained.model("last")], attack, *images, seed=trained.experiment.seed)


@_probe
def layerwise(
    trained: Trained, n: int, steps: Sequence[int], hidden_eps: float = 0.02, more: Mapping[str, Any] | None = None
) -> Found:
    """Error and mean loss of ``n`` test images under PGD-20 and under the deep attack for each number of ``steps``.

    ``pgd_err``, ``pgd_loss``; ``deep<k>_err``, ``deep<k>_loss`` with the perturbations of hidden layers;
    ``deep<k>_input_err`` with that of the input only, in the same ball as PGD's (``deep_rho="ball"``). ``more`` are
    other options of the deep attack.
    """
    ball = trained.budget()
    attacks: dict[str, Attack] = {"pgd": PGD(steps=20, **ball)}
    deep: dict[str, Any] = {"deep_rho": "ball", "deep_hidden_eps": hidden_eps, **ball, **(more or {})}
    attacks |= {f"deep{k}": Deep(deep_steps=k, **deep) for k in steps}
    x, y = to_unit(trained.dataset.x_test[:n]).to(trained.device), trained.dataset.y_test[:n].to(trained.device)
    model = trained.model().eval()
    facts: dict[str, float] = {}
    for name, attack in attacks.items():
        torch.manual_seed(trained.experiment.seed)
        made = generate(attack, model, x, y)
        with torch.no_grad():
            under, at_input = made.logits(model), model(made.inputs)
        facts |= {f"{name}_err": _error(under, y), f"{name}_loss": float(cross_entropy(under, y))}
        if name != "pgd":
            facts[f"{name}_input_err"] = _error(at_input, y)
    return Found(facts)


def _error(logits: Tensor, y: Tensor) -> float:
    return float((logits.argmax(dim=1) != y).float().mean())
