"""The command line of a recipe script, which runs one pinned experiment or its smoke test.

A recipe has a docstring that states the claim to reproduce, ``EXPERIMENT = Experiment(...)``, and
``recipe(EXPERIMENT, __doc__)``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from toolkit_ext.cli import CONTEXT_SETTINGS, console, guarded
from toolkit_ext.cli.options import place_options, take_place
from toolkit_ext.experiments.experiment import Experiment, run
from toolkit_ext.trainers import TRAINERS
from toolkit_ext.trainers.compose import known


def command(experiment: Experiment, text: str | None) -> click.Command:
    """The command that runs ``experiment``; ``text`` is what its ``--help`` says."""

    @click.command(help=text, context_settings=CONTEXT_SETTINGS)
    @click.option("--seed", default=0, show_default=True, help="seed of weights, batches and attacks")
    @click.option("--data", default=experiment.data, show_default=True, help="another data set than the source's")
    @click.option("--resume", is_flag=True, help="continue from the checkpoint of the same run")
    @click.option("--smoke", "small", is_flag=True, help="a test run on digits that takes seconds")
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


def smoke(experiment: Experiment) -> Experiment:
    """The same experiment at a size that runs in seconds: ``digits``, a narrow LeNet, an epoch, a few test images."""
    method = TRAINERS[experiment.method].method
    # One epoch is too short for several periods or a warm-up.
    one_epoch = {"lr_schedule": "constant", "warmup_epochs": 0.0, "periods": 1, "reset_epochs": ()}
    names = known(method, experiment.hyper_parameters)
    short = {name: value for name, value in {**method.smoke, **one_epoch}.items() if name in names}
    return replace(
        experiment,
        data="digits",
        backbone="lenet",
        backbone_args={"width": 2},
        hyper_parameters={**experiment.hyper_parameters, **short},
        epochs=1,
        batch_size=64,
        n_train=256,
        n_test=8,
        protocol="linf_0.1_digits",
        attacks=("clean", "fgsm", "pgd20"),
    )
