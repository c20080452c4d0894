"""``toolkit-ext methods``."""

from __future__ import annotations

import math

import click
from rich import box
from rich.table import Table

from toolkit_ext.cli import console
from toolkit_ext.experiments.costs import count_passes
from toolkit_ext.trainers import TRAINERS


@click.command("methods")
def methods_command() -> None:
    """List the methods with their choice on each axis, their cost and their paper.

    The cost is the mean number of forward and backward passes of a batch in a training step, rounded
    up, counted while the method
    trains a small model at its default number of attack steps.
    """
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=False)
    table.add_column("method", no_wrap=True)
    table.add_column("attack, objective, update, schedule", ratio=3)
    table.add_column("forward", justify="right", no_wrap=True)
    table.add_column("backward", justify="right", no_wrap=True)
    table.add_column("what it does", ratio=3)
    table.add_column("paper", ratio=4)
    for name, trainer in TRAINERS.items():
        method, cost = trainer.method, count_passes(name)
        axes = ", ".join((method.attack, method.objective, method.update, method.schedule))
        table.add_row(
            name, axes, f"{math.ceil(cost.forward)}", f"{math.ceil(cost.backward)}", method.summary, str(method.paper)
        )
    console.show_table(table)
