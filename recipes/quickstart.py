"""Train three methods on the digits that ship with scikit-learn, evaluate each by AutoAttack, print one table.

    python recipes/quickstart.py

Standard training, PGD training and training on clean and adversarial examples together, with a small timm backbone:
under two minutes on two CPU cores. Writes a record for each run, a table and a plot.
"""

from __future__ import annotations

from typing import Any

import click
import torch

from toolkit_ext import results
from toolkit_ext.cli import console, guarded
from toolkit_ext.cli.options import place_options, take_place
from toolkit_ext.experiments.experiment import Experiment, run
from toolkit_ext.experiments.recipe import smoke

METHODS = ("standard", "pgd", "clean_adv")
EPS = 0.1
COLUMNS = ("clean", "fgsm", "pgd20", "mim", "aa")


def experiment(method: str, seed: int) -> Experiment:
    """The quickstart's run of ``method``."""
    attack: dict[str, Any] = {} if method == "standard" else {"eps": EPS, "steps": 7}
    return Experiment(
        method=method,
        data="digits",
        backbone="lenet",
        backbone_args={"width": 8},
        hyper_parameters={"lr": 0.05, "measure_every": 5, **attack},
        epochs=15,
        batch_size=64,
        n_test=100,
        protocol="linf_0.1_digits",
        attacks=COLUMNS,
        seed=seed,
    )


@click.command(help=__doc__)
@click.option("--seed", default=0, show_default=True, help="seed of weights, batches and attacks")
@click.option("--resume/--no-resume", default=True, help="go on with runs that were stopped")
@click.option("--smoke", "small", is_flag=True, help="the same in seconds, to see that everything works")
@place_options
def main(seed: int, small: bool, **values: Any) -> None:
    torch.set_num_threads(1)  # on images this small, threads wait for each other longer than they work
    place = take_place({**values, "tables": ("quickstart",)})
    experiments = [experiment(method, seed) for method in METHODS]
    records = [run(smoke(chosen) if small else chosen, place) for chosen in experiments]
    for path in results.rebuild(place.results):
        console.say(f"table: {path}")
    picture = place.results / "figures" / "quickstart.png"
    metrics = [f"{column}_acc" for column in COLUMNS if f"{column}_acc" in records[0]["metrics"]]
    results.plot_bars(results.frame(records), metrics, picture)
    console.say(f"plot: {picture}")
    console.show_table(console.results_table(records))


if __name__ == "__main__":
    guarded(main)
