"""``toolkit-ext methods``."""

from __future__ import annotations

import click
from rich.table import Table

from toolkit_ext import console
from toolkit_ext.costs import count_passes
from toolkit_ext.trainers import TRAINERS


@click.command("methods")
@click.option("--papers/--no-papers", default=False, help="show where each method comes from")
def methods_command(papers: bool) -> None:
    """List the methods with their choice on each axis and their cost.

    The cost is counted while each method takes a step on a small model: forward and backward passes of the whole
    batch, at the method's default number of attack steps.
    """
    table = Table(title="methods", expand=False)
    for name in ("method", "attack", "objective", "update", "schedule", "forward", "backward", "what it does"):
        table.add_column(name, justify="right" if name in ("forward", "backward") else "left")
    for name, trainer in TRAINERS.items():
        method, cost = trainer.method, count_passes(name)
        text = str(method.paper) if papers else method.summary
        axes = (method.attack, method.objective, method.update, method.schedule)
        table.add_row(name, *axes, f"{cost.forward:g}", f"{cost.backward:g}", text)
    console.show_table(table)
