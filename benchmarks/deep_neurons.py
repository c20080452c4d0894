"""An honest try at the deep attack over the neurons (equation 11) with conjugate gradient: what would make it work?

``deep_neurons.csv``: the objective of equation 9, which has the same maximiser, and the loss, that each variant reaches
after the same number of gradient evaluations. LeNet on digits, trained by PGD at eps 0.1, takes a minute to train and
attack. The variants of equation 11, from the clean neurons unless they say so:

- ``random``: from a random start, as the attack has it by default;
- ``weight 0.1``, ``weight 0.01``: a smaller weight λ of the penalties, judged by the objective at λ = 1;
- ``rising weight``: λ = 0.01, 0.1 and 1 in turn, each from the neurons before it (a penalty method);
- ``scaled layers``: each layer in units of its curvature, ``1 + ‖J‖² r_l² / r_{l+1}²`` by random probes (Jacobi);
- ``inverse of the layers``: in unknowns ``(I − J)(n − n̂)``, ``J`` at the clean neurons: the exact preconditioner of the
  penalties there, for which each step goes back and forth through the network once more;
- ``perturbations first``: one step of equation 9, then equation 11 from the neurons that it gives.

    python benchmarks/deep_neurons.py
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
from torch import Tensor, nn

from toolkit_ext import backbones, data
from toolkit_ext.attacks.layerwise import Deep, choose, cross_entropy
from toolkit_ext.attacks.layerwise.layers import replaced
from toolkit_ext.attacks.layerwise.neurons import Objective, Target, objective_of
from toolkit_ext.attacks.layerwise.solvers import Evaluate, maximise
from toolkit_ext.io import atomic_write
from toolkit_ext.results.records.environment import environment
from toolkit_ext.trainers import PGDTrainer, as_classifier

RESULTS = Path(__file__).parent / "results"
Linear = Callable[[Tensor], Tensor]
EPS, PROBES = 0.1, 8
NEURONS = Deep(eps=EPS, deep_variables="neurons", deep_start=0.0)
PERTURBATIONS = replace(NEURONS, deep_variables="perturbations")


def trained(epochs: int) -> tuple[nn.Module, Tensor, Tensor]:
    """LeNet of width 8 after PGD training on digits, and the test images with their labels."""
    torch.manual_seed(0)
    digits = data.load("digits")
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=8)
    trainer = PGDTrainer(as_classifier(model, (1, 8, 8), 10), eps=EPS, steps=5, lr=0.05, measure_every=0)
    trainer.fit(digits.x_train, digits.y_train, batch_size=64, nb_epochs=epochs, progress=False)
    return model.eval().requires_grad_(False), digits.x_test, digits.y_test


class Changed:
    """``objective`` in unknowns ``u`` with ``z = P u``, for a linear ``P`` of each example."""

    def __init__(self, objective: Evaluate, forth: Linear, back: Linear) -> None:
        self.objective, self.forth, self.back = objective, forth, back  # P and its transpose

    def __call__(self, u: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = self.objective(self.forth(u))
        return value, self.back(gradient)

    def value(self, u: Tensor) -> Tensor:
        return self.objective.value(self.forth(u))


def neurons_of(objective: Objective, d: Tensor) -> Tensor:
    """The neurons ``n_l / r_l`` ``[N, Σ D_l]`` of the perturbations ``d`` (in units of the budgets), differentiable."""
    target, parts = objective.target, objective.split(d)
    found: list[Tensor] = [target.x / objective.radii[0] + parts[0]]

    def shift(layer: int, output: Tensor) -> Tensor:
        found.append(output / objective.radii[layer + 1] + parts[layer + 1])
        return found[-1] * objective.radii[layer + 1]

    with replaced(target.model, target.layers, shift):
        target.model(found[0] * objective.radii[0])
    return torch.cat([each.flatten(1) for each in found], dim=1)


def jacobi(target: Target) -> Linear:
    """Multiplies each layer by ``1 / sqrt(1 + h_l)``, ``h_l`` its mean curvature from the penalty of the next layer."""
    objective = objective_of(NEURONS, target)
    sizes = [penalty.shape[1:].numel() for penalty in objective.penalties]
    d, squares = torch.zeros(len(target.x), sum(sizes), requires_grad=True), torch.zeros(len(target.x), len(sizes))
    after = torch.split(neurons_of(objective, d), sizes, dim=1)
    for layer, output in enumerate(after[1:]):
        for _ in range(PROBES):
            signs = torch.randint_like(output, 2) * 2 - 1
            (slope,) = torch.autograd.grad(output, d, signs, retain_graph=True)
            squares[:, layer] += torch.split(slope, sizes, dim=1)[layer].square().mean(dim=1) / PROBES
    scale = torch.repeat_interleave((1 + squares).rsqrt(), torch.tensor(sizes), dim=1)
    return lambda u: u * scale


def inverse(target: Target) -> tuple[Linear, Linear]:
    """``(I − J)⁻¹``, with ``J`` the Jacobian of the layers at the clean neurons, and its transpose."""
    objective = objective_of(NEURONS, target)
    size = sum(penalty.shape[1:].numel() for penalty in objective.penalties)
    d = torch.zeros(len(target.x), size, requires_grad=True)
    neurons = neurons_of(objective, d)
    weights = torch.zeros_like(neurons, requires_grad=True)
    (there,) = torch.autograd.grad(neurons, d, weights, create_graph=True)  # linear in weights

    def forth(u: Tensor) -> Tensor:
        return torch.autograd.grad(there, weights, u, retain_graph=True)[0]

    def back(gradient: Tensor) -> Tensor:
        return torch.autograd.grad(neurons, d, gradient, retain_graph=True)[0]

    return forth, back


def flat(objective: Objective, z: Tensor) -> Tensor:
    """The perturbations at the unknowns ``z``, in units of the budgets, ``[N, Σ D_l]``."""
    return torch.cat([part.flatten(1) for part in objective.perturbations(z)], dim=1)


def solved(attack: Deep, target: Target, steps: int, start: Tensor | None = None) -> Tensor:
    """The perturbations after ``steps`` of conjugate gradient on the objective of ``attack``."""
    objective = objective_of(attack, target)
    return flat(objective, maximise(objective, objective.start(attack.deep_start) if start is None else start, steps))


def changed(target: Target, steps: int, forth: Linear, back: Linear) -> Tensor:
    """The same over the neurons ``n̂ + P u``, from the clean ones."""
    objective = objective_of(NEURONS, target)
    return flat(objective, forth(maximise(Changed(objective, forth, back), objective.start(0.0), steps)))


def rising(target: Target, steps: int) -> Tensor:
    """The perturbations after a third of ``steps`` at each of three weights, the first ones more."""
    found: Tensor | None = None
    for place, weight in enumerate((0.01, 0.1, 1.0)):
        share = steps // 3 + (place < steps % 3)
        found = solved(replace(NEURONS, deep_lambda=weight), target, share, found) if share else found
    assert found is not None
    return found


VARIANTS: dict[str, Callable[[Target, int], Tensor]] = {
    "equation 9": lambda target, steps: solved(PERTURBATIONS, target, steps),
    "equation 11": lambda target, steps: solved(NEURONS, target, steps),
    "random": lambda target, steps: solved(replace(NEURONS, deep_start=0.1), target, steps),
    "weight 0.1": lambda target, steps: solved(replace(NEURONS, deep_lambda=0.1), target, steps),
    "weight 0.01": lambda target, steps: solved(replace(NEURONS, deep_lambda=0.01), target, steps),
    "rising weight": rising,
    "scaled layers": lambda target, steps: changed(target, steps, *2 * (jacobi(target),)),
    "inverse of the layers": lambda target, steps: changed(target, steps, *inverse(target)),
    "perturbations first": lambda target, steps: solved(NEURONS, target, steps - 1, solved(PERTURBATIONS, target, 1)),
}


def measured(target: Target, steps: Sequence[int]) -> list[dict[str, Any]]:
    """A row for every variant and number of steps, each two gradient evaluations, and one more at the start."""
    judge = objective_of(PERTURBATIONS, target)
    rows = []
    for variant, solve in VARIANTS.items():
        for count in steps:
            torch.manual_seed(0)
            d = solve(target, count)
            penalty = -judge.penalties[0].weight * d.square().sum(dim=1)
            with torch.no_grad():
                value = judge.value(d)
            row = {"variant": variant, "steps": count, "objective": float(value.mean())}
            rows.append(row | {"loss": float((value - penalty).mean())})
    return rows


@click.command(help=__doc__)
@click.option("--epochs", default=20, show_default=True, help="epochs of the training")
@click.option("--quick", is_flag=True, help="one epoch and few steps, to see that everything works")
@click.option("--output", type=click.Path(path_type=Path), default=RESULTS, help="folder of the table")
def main(epochs: int, quick: bool, output: Path) -> None:
    model, x, y = trained(1 if quick else epochs)
    target = Target(model, choose(model, "auto"), x, y, cross_entropy)
    rows = measured(target, [2] if quick else [1, 2, 5, 10, 20, 50, 100])
    here = environment()
    about = {"cpu": here["hardware"]["cpu"], "torch": here["versions"]["torch"] or ""}
    frame = pd.DataFrame([row | about for row in rows])
    path = atomic_write(output / "deep_neurons.csv", frame.to_csv(index=False, float_format="%.5g"))
    click.echo(frame.pivot(index="variant", columns="steps", values="objective").loc[list(VARIANTS)].to_string())
    click.echo(frame.pivot(index="variant", columns="steps", values="loss").loc[list(VARIANTS)].to_string())
    click.echo(f"wrote {path}")


if __name__ == "__main__":
    from toolkit_ext.cli import guarded

    guarded(main)
