"""Train three methods on the digits of scikit-learn, evaluate each by AutoAttack, and print one table.

    python recipes/quickstart.py

Standard training, PGD training, and training on clean and adversarial examples together, with a small timm backbone.
Takes under two minutes on two CPU cores. Writes a record for each run, a table and a plot to ``outputs/quickstart``,
and says in three sentences what the plot shows.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click
import torch

from toolkit_ext import results
from toolkit_ext.cli import console, guarded
from toolkit_ext.experiments.experiment import run
from toolkit_ext.experiments.recipe import digits, script, smoke
from toolkit_ext.experiments.settings import Experiment, RunContext

METHODS = ("standard", "pgd", "clean_adv")
EPS = 0.1
COLUMNS = ("clean", "fgsm", "pgd20", "mim", "aa")


def experiment(method: str, seed: int) -> Experiment:
    """The quickstart's run of ``method``."""
    attack: dict[str, Any] = {} if method == "standard" else {"eps": EPS, "steps": 7}
    usual = {"lr": 0.05, "measure_every": 5, "epochs": 15, "n_test": 100, "protocol": "linf_0.1_digits"}
    return digits(method, **usual, **attack, attacks=COLUMNS, seed=seed)


def sentences(records: list[results.Record]) -> list[str]:
    """What the plot of ``records`` (in the order of :data:`METHODS`) shows."""
    shown = [(record["metrics"]["clean_acc"], record["metrics"]["aa_acc"]) for record in records]
    (clean, broken), (pgd_clean, pgd), (both_clean, both) = shown
    low, high = records[1]["intervals"]["aa_acc"]
    return [
        f"Without a defence, {clean:.0%} of the test images are classified correctly, and {broken:.0%} still are when "
        f"AutoAttack may change every pixel by {EPS:.0%} of its range.",
        f"PGD training raises that to {pgd:.0%}, with {pgd_clean:.0%} on clean images; training on clean and "
        f"adversarial images together gives {both:.0%} and {both_clean:.0%}.",
        f"On {records[1]['n_examples']} images the 95% interval of the {pgd:.0%} is {low:.0%} to {high:.0%}, so "
        "smaller differences between methods mean little here.",
    ]


@script(__doc__, results="outputs/quickstart", output="outputs/quickstart")
@click.option("--seed", default=0, show_default=True, help="seed of weights, batches and attacks")
@click.option("--resume/--no-resume", default=True, help="continue runs that were interrupted")
def main(context: RunContext, small: bool, seed: int) -> None:
    torch.set_num_threads(1)  # on images this small, threads wait for each other longer than they work
    context = replace(context, tables=("quickstart",))
    experiments = [experiment(method, seed) for method in METHODS]
    records = [run(smoke(chosen) if small else chosen, context) for chosen in experiments]
    for path in results.rebuild(context.results):
        console.say(f"table: {path}")
    picture = context.results / "figures" / "quickstart.png"
    metrics = [f"{column}_acc" for column in COLUMNS if f"{column}_acc" in records[0]["metrics"]]
    results.plot_bars(results.frame(records), metrics, picture)
    console.say(f"plot: {picture}")
    console.show_table(console.results_table(records))
    if "aa_acc" in records[0]["metrics"]:
        console.show("\n" + "\n".join(sentences(records)))


if __name__ == "__main__":
    guarded(main)
