"""The command line of the recipes of claims: ``recipe(GROUP, __doc__)``."""

from __future__ import annotations

from typing import Any

import click

from toolkit_ext.claims.claim import SCALES, Group
from toolkit_ext.claims.metrics import probed
from toolkit_ext.claims.runner import run_group
from toolkit_ext.cli import console, guarded
from toolkit_ext.cli.options import CommaSeparated, place_options, take_place
from toolkit_ext.results import Record


def command(group: Group, text: str | None) -> click.Command:
    """The command that runs ``group``; ``text`` is what its ``--help`` says."""
    arms = "; ".join(arm.name for arm in group.arms)

    @click.command(help=text, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
    @click.option("--scale", type=click.Choice(SCALES), default="small", show_default=True, help="how large")
    @click.option("--seeds", type=CommaSeparated(int), default="0,1,2", show_default=True, help="seeds of each arm")
    @click.option("--only", multiple=True, metavar="ARM", help=f"this arm alone (repeatable): {arms}")
    @click.option("--smoke", "small", is_flag=True, help="the same on digits in seconds, to see that everything works")
    @place_options
    def main(scale: str, seeds: tuple[int, ...], only: tuple[str, ...], small: bool, **values: Any) -> None:
        records = run_group(group, scale, seeds, take_place(values), only, small=small)
        evaluated = [_named(record) for record in records if record["metrics"]]
        for probe in dict.fromkeys(probed(record).get("name") for record in evaluated):
            console.show_table(console.results_table([r for r in evaluated if probed(r).get("name") == probe]))

    return main


def _named(record: Record) -> Record:
    """The record with its arm for the method's name: many arms are of one method."""
    arm, probe = record["details"]["claim"]["arm"], probed(record).get("name")
    return {**record, "method": f"{arm}, {probe}" if probe else arm}


def recipe(group: Group, text: str | None) -> None:
    """Run ``group`` with the process's arguments; bad input ends in one line and exit code 2."""
    guarded(command(group, text))
