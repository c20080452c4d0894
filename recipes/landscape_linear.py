"""Good and bad directions of the linear classifier on digits, in closed form: the source's section 3.1.

    python recipes/landscape_linear.py

Liu, Salzmann, Lin, Tomioka, Süsstrunk: On the loss landscape of adversarial training. NeurIPS 2020. Claim: as eps grows
the set of good directions V_ε shrinks and the set of bad ones T_ε grows, until past some ε̄ every direction is bad and
the zero classifier minimises the adversarial loss. Writes tables/linear_spaces.csv, figures/linear_spaces.png and
figures/linear_1d.png; the closed forms are derived in ``toolkit_ext.landscape.linear``.
"""

from __future__ import annotations

from pathlib import Path

import click
import pandas as pd
import torch

from toolkit_ext import data, results
from toolkit_ext.cli import console, guarded
from toolkit_ext.landscape import figures, linear


def shares(x: torch.Tensor, y: torch.Tensor, classes: int, directions: int, seed: int, points: int) -> pd.DataFrame:
    """Share of random directions in V_ε and T_ε of one example (mean over examples), and in T_ε of the whole set."""
    weights = linear.random_directions(directions, classes, x[0].numel(), seed=seed)
    version = torch.cat([linear.version_radius(part, x, y) for part in weights.split(50)]).flatten()
    trap = torch.cat([linear.trap_radius(part, x, y) for part in weights.split(50)]).flatten()
    whole = linear.dataset_trap_radius(weights, x, y)
    rows = [
        {
            "eps": eps,
            "in V of an example": float((version >= eps).double().mean()),
            "in T of an example": float((trap <= eps).double().mean()),
            "in T of all examples": float((whole <= eps).double().mean()),
        }
        for eps in torch.linspace(0, 1.05, points, dtype=torch.float64).tolist()
    ]
    return pd.DataFrame(rows)


@click.command(help=__doc__)
@click.option("--directions", default=1000, show_default=True, help="random directions")
@click.option("--points", default=211, show_default=True, help="values of eps")
@click.option("--seed", default=0, show_default=True, help="seed of the directions")
@click.option("--results", "folder", type=click.Path(path_type=Path), default="results", help="folder to write into")
def main(directions: int, points: int, seed: int, folder: Path) -> None:
    digits = data.load("digits")
    x, y = digits.x_train.flatten(1).double(), digits.y_train
    table = shares(x, y, digits.num_classes, directions, seed, points)
    marks = {
        "ε̄ of all examples": linear.critical_eps(x, y, digits.num_classes),
        "ε̄ of an example, at most": float(x.abs().amax()),
    }
    for name, eps in marks.items():
        console.say(f"{name}: from eps {eps:.4f} on, every direction is in T")
    console.say(f"table: {results.write_table('linear_spaces', table, folder / 'tables')}")
    console.say(f"figure: {figures.plot_linear_spaces(table, folder / 'figures' / 'linear_spaces.png', marks)}")
    console.say(f"figure: {figures.plot_linear_1d((0.6, 1.2), folder / 'figures' / 'linear_1d.png')}")


if __name__ == "__main__":
    guarded(main)
