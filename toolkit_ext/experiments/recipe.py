"""What every recipe script shares: its command line, around one pinned experiment.

A recipe is ``EXPERIMENT = Experiment(...)`` under a docstring that states the claim it is to reproduce, and
``recipe(EXPERIMENT, __doc__)``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from toolkit_ext.cli import console, guarded
from toolkit_ext.cli.options import place_options, take_place
from toolkit_ext.experiments.experiment import Experiment, run, smoke


def command(experiment: Experiment, text: str | None) -> click.Command:
    """The command that runs ``experiment``; ``text`` is what its ``--help`` says."""

    @click.command(help=text, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
    @click.option("--seed", default=0, show_default=True, help="seed of weights, batches and attacks")
    @click.option("--data", default=experiment.data, show_default=True, help="another data set than the source's")
    @click.option("--resume", is_flag=True, help="go on from the checkpoint of the same run")
    @click.option("--smoke", "small", is_flag=True, help="the same on digits in seconds, to see that everything works")
    @place_options
    def main(seed: int, data: str, small: bool, **values: Any) -> None:
        place = take_place(values)
        chosen = replace(experiment, seed=seed, data=data)
        record = run(smoke(chosen) if small else chosen, place)
        console.show_table(console.results_table([record]))

    return main


def recipe(experiment: Experiment, text: str | None) -> None:
    """Run ``experiment`` with the process's arguments; bad input ends in one line and exit code 2."""
    guarded(command(experiment, text))
