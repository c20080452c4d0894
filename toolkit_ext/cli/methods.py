"""``toolkit-ext methods [METHOD]``."""

from __future__ import annotations

import math
from inspect import cleandoc

import click
from rich import box
from rich.table import Table

from toolkit_ext.cli import console
from toolkit_ext.cli.help import Command, shown
from toolkit_ext.errors import check_choice
from toolkit_ext.experiments.costs import recorded_passes
from toolkit_ext.trainers.compose import AXES, compose, options
from toolkit_ext.trainers.methods import METHODS
from toolkit_ext.types import Method


@click.command("methods", cls=Command)
@click.argument("method", required=False)
def methods_command(method: str | None) -> None:
    """List the methods with their choice on each axis, their cost and their paper, or explain METHOD.

    The cost is the mean number of forward and backward passes of a batch in a training step, rounded up. It was
    counted while the method trained a small model with its default number of attack steps.
    """
    if method is None:
        console.show_table(_overview())
    else:
        _explain(METHODS[check_choice("METHOD", method, METHODS)])


def _overview() -> Table:
    costs = recorded_passes()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_lines=False)
    table.add_column("method", no_wrap=True)
    table.add_column("attack, objective, update, schedule", ratio=3)
    for name in ("forward", "backward"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("what it does", ratio=3)
    table.add_column("paper", ratio=4)
    for name, method in METHODS.items():
        passes = (str(math.ceil(number)) for number in (costs[name].forward, costs[name].backward))
        table.add_row(name, ", ".join(_choices(method)), *passes, method.summary, str(method.paper))
    return table


def _choices(method: Method) -> tuple[str, ...]:
    return method.attack, method.objective, method.update, method.schedule


def _explain(method: Method) -> None:
    """Print the formula, the paper, the cost, when to use the method, and its options with their defaults."""
    cost = recorded_passes()[method.name]
    console.show(f"{method.name}: {method.summary}\n\n{cleandoc(method.formula).replace('``', '')}\n")
    console.show(f"When to use it. {method.use}\n")
    console.show(f"Paper. {method.paper}" + (f"\n       {method.paper.url}" if method.paper.url else "") + "\n")
    console.show(
        f"Cost of a step. {cost.forward:.3g} forward and {cost.backward:.3g} backward passes of the batch; plain "
        "training takes 1 and 1.\n"
    )
    console.show_table(_options(method))


def _options(method: Method) -> Table:
    """The options of the choices that the method makes on the axes; ``train METHOD --help`` shows all."""
    values = compose(method, {}).hyper_parameters()
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for name in ("axis", "choice", "option", "default", "what it is"):
        table.add_column(name, no_wrap=name != "what it is")
    for (axis, kinds), choice in zip(AXES.items(), _choices(method), strict=True):
        rows = [
            (f"--{name.replace('_', '-')}", shown(name, values.get(name, entry.default)), entry.metadata["help"])
            for name, entry in options(kinds[choice]).items()
        ]
        for number, row in enumerate(rows or [("", "", "no options")]):
            table.add_row(*((axis, choice) if number == 0 else ("", "")), *row)
    return table
