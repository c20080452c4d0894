"""What the deep attack reaches for what it costs.

``deep_objective.csv``: the objective of equation 9 at the perturbations that every solver returns, after the same
number of gradient evaluations. ``deep_cost.csv``: the time of crafting, and of a whole training step, over that of
PGD with as many gradient evaluations, the two alternating in one process.

    python benchmarks/deep.py --data-root data
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import pandas as pd
import torch
from torch import Tensor, nn

from toolkit_ext import backbones, data
from toolkit_ext.attacks import PGD, generate
from toolkit_ext.attacks.layerwise import Deep, choose, cross_entropy
from toolkit_ext.attacks.layerwise.neurons import Target
from toolkit_ext.io import atomic_write
from toolkit_ext.results.records.environment import environment
from toolkit_ext.types import Attack

RESULTS = Path(__file__).parent / "results"
SOLVERS = (
    ("cg", "perturbations"),
    ("ga", "perturbations"),
    ("cg", "neurons"),
    ("ga", "neurons"),
    ("pgd", "perturbations"),
)
SIZE, TRAINING_STEPS, EPS = 28, 150, 0.1


def load(root: Path | None) -> tuple[str, Tensor, Tensor]:
    """MNIST if there is a folder with it, else digits enlarged to its size: the name, images and labels."""
    name = "digits" if root is None else "mnist"
    dataset = data.load(name, root=root or "data")
    x = data.to_unit(dataset.x_train[:10_000])
    x = nn.functional.interpolate(x, size=(SIZE, SIZE), mode="bilinear").clamp(0, 1)
    return name if root else "digits enlarged to 28x28", x, dataset.y_train[: len(x)]


def trained(name: str, x: Tensor, y: Tensor) -> nn.Module:
    """A classifier trained for ``TRAINING_STEPS`` steps on clean images, so that its gradients mean something."""
    torch.manual_seed(0)
    model = backbones.create(name, num_classes=10, in_chans=1, image_size=SIZE)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for _ in range(TRAINING_STEPS):
        batch = torch.randint(len(x), (64,))
        train_step(model, optimizer, lambda batch=batch: cross_entropy(model(x[batch]), y[batch]))  # type: ignore[misc]
    return model.eval().requires_grad_(False)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, losses: Callable[[], Tensor]) -> None:
    """One step down the mean of ``losses``, in training mode."""
    model.train()
    optimizer.zero_grad()
    losses().mean().backward()
    optimizer.step()


def reached(attack: Deep, model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Mean loss, and mean objective, at what ``attack`` returns; the loss alone where a ball holds."""
    torch.manual_seed(0)
    found = attack(model, x, y)
    objective = attack.objective(Target(model, choose(model, attack.deep_layers), x, y, cross_entropy))
    with torch.no_grad():
        loss = cross_entropy(found.logits(model), y)
    d = [found.inputs - x, *found.hidden.perturbations.values()]  # type: ignore[attr-defined]
    parts = zip(objective.penalties, objective.radii, d, strict=True)
    value = loss if attack.deep_rho == "ball" else loss + sum(p(part / radius)[0] for p, radius, part in parts)
    return {"objective": float(value.mean()), "loss": float(loss.mean())}


def objectives(name: str, model: nn.Module, x: Tensor, y: Tensor, evaluations: list[int]) -> Iterator[dict[str, Any]]:
    """A row for every penalty, solver and number of gradient evaluations (odd: two a step, and one at the start)."""
    with torch.no_grad():
        clean = float(cross_entropy(model(x), y).mean())
    for rho, (solver, variables), count in itertools.product(("quadratic", "ball"), SOLVERS, evaluations):
        steps = count if solver == "pgd" else (count - 1) // 2
        attack = Deep(eps=EPS, deep_rho=rho, deep_solver=solver, deep_variables=variables, deep_steps=steps)
        row = {"model": name, "rho": rho, "solver": solver, "variables": variables, "evaluations": count}
        yield row | {"clean_loss": clean} | reached(attack, model, x, y)


def costs(name: str, model: nn.Module, x: Tensor, y: Tensor, rounds: int) -> Iterator[dict[str, Any]]:
    """A row for every variant: seconds of crafting and of a training step, and their ratio to PGD's."""
    deep = Deep(eps=EPS)
    peer = PGD(eps=EPS, steps=2 * deep.deep_steps + 1)
    variants = [
        replace(deep, deep_rho=r, deep_variables=v) for r in ("quadratic", "ball") for v in ("perturbations", "neurons")
    ]
    times = pd.DataFrame(timed([peer, *variants], model, x, y) for _ in range(rounds + 1)).iloc[1:]
    for i, attack in enumerate(variants, start=1):
        row = {"model": name, "batch": len(x), "evaluations": peer.steps}
        row |= {"rho": attack.deep_rho, "variables": attack.deep_variables, "rounds": rounds}
        for part in ("craft", "step"):
            ratio = times[f"{part}{i}"] / times[f"{part}0"]
            row |= {f"{part}_seconds": times[f"{part}{i}"].median(), f"pgd_{part}_seconds": times[f"{part}0"].median()}
            row |= {f"{part}_ratio": ratio.median(), f"{part}_ratio_q1": ratio.quantile(0.25)}
            row |= {f"{part}_ratio_q3": ratio.quantile(0.75)}
        yield row


def timed(attacks: list[Attack], model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Seconds to craft with every attack, and with the weight step after it (learning rate 0: nothing drifts)."""
    found = {}
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    for i, attack in enumerate(attacks):
        model.requires_grad_(True)
        started = time.perf_counter()
        perturbed = generate(attack, model, x, y)
        found[f"craft{i}"] = time.perf_counter() - started
        train_step(model, optimizer, lambda perturbed=perturbed: cross_entropy(perturbed.logits(model), y))  # type: ignore[misc]
        found[f"step{i}"] = time.perf_counter() - started
    return found


@click.command()
@click.option("--model", "models", multiple=True, default=("lenet", "resnet18"), show_default=True, help="backbones")
@click.option("--batch", default=64, show_default=True, help="examples attacked at once")
@click.option("--rounds", default=9, show_default=True, help="alternating rounds of which the times are medians")
@click.option("--data-root", type=click.Path(path_type=Path), help="folder with MNIST; without it, enlarged digits")
@click.option("--quick", is_flag=True, help="few evaluations and rounds, to see that it runs")
@click.option(
    "--output", default=RESULTS, type=click.Path(path_type=Path), show_default=True, help="folder of the tables"
)
def main(models: tuple[str, ...], batch: int, rounds: int, data_root: Path | None, quick: bool, output: Path) -> None:
    """Measure the deep attack's objective per gradient evaluation, and its cost beside PGD."""
    evaluations, rounds = ([3, 5], 2) if quick else ([3, 5, 7, 11, 21, 41], rounds)
    name, x, y = load(data_root)
    here = environment()
    about = {"data": name, "cpu": here["hardware"]["cpu"], "threads": here["hardware"]["threads"]}
    about["torch"] = here["versions"]["torch"] or ""
    tables: dict[str, list[dict[str, Any]]] = {"deep_objective": [], "deep_cost": []}
    for model_name in models:
        model = trained(model_name, x, y)
        attacked = x[-batch:], y[-batch:]
        tables["deep_objective"] += objectives(model_name, model, *attacked, evaluations)
        tables["deep_cost"] += costs(model_name, model, *attacked, rounds)
    for table, rows in tables.items():
        frame = pd.DataFrame([row | about for row in rows])
        path = atomic_write(output / f"{table}.csv", frame.to_csv(index=False, float_format="%.5g"))
        click.echo(frame.drop(columns=list(about)).to_string(index=False, float_format="%.4g"))
        click.echo(f"wrote {path}")


if __name__ == "__main__":
    from toolkit_ext.cli import guarded

    guarded(main)
