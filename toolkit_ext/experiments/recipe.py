"""What recipe scripts share: their command line, and the settings that many of them start from.

A recipe is ``EXPERIMENT = ...`` under a docstring that states the claim to reproduce, and ``recipe(EXPERIMENT,
__doc__)``. It names what differs from one of the settings, :func:`cifar10`, :func:`cifar10_narrow`,
:func:`mnist`, :func:`digits` or :func:`cifar10_lenet`. Changing a setting changes the ``run_id`` of every recipe that
starts from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import click
import torch

from toolkit_ext import results
from toolkit_ext.cli import console, guarded
from toolkit_ext.cli.help import CONTEXT_SETTINGS, Command
from toolkit_ext.cli.options import (
    CommaSeparated,
    checkpoint_options,
    run_context_options,
    take_run_context,
    track_option,
)
from toolkit_ext.errors import check_choice
from toolkit_ext.experiments.experiment import run
from toolkit_ext.experiments.settings import Experiment, RunContext
from toolkit_ext.fast.formats import is_native
from toolkit_ext.trainers import TRAINERS
from toolkit_ext.trainers.compose import known

_SMALL: dict[str, Any] = {"batch_size": 64, "n_test": 200, "attacks": ("clean", "pgd20", "aa")}


def cifar10(method: str, *, milestones: tuple[int, ...] = (100, 150), **given: Any) -> Experiment:
    """ResNet-18 of width 16 on CIFAR-10: 200 epochs of SGD, the learning rate divided by 10 at the ``milestones``.

    Args:
        method: The method that is trained.
        milestones: Epochs at which the learning rate falls; none leave ``lr_schedule`` to the method.
        given: Fields of :class:`Experiment` and hyper-parameters; ``width`` is that of the backbone.

    Example:
        >>> cifar10("mim", eps=8 / 255, steps=10).hyper_parameters["lr"]
        0.1
    """
    usual = {"data": "cifar10", "backbone": "resnet18_w", "width": 16, "epochs": 200, "batch_size": 128}
    rates = {"lr_schedule": "multistep", "milestones": milestones} if milestones else {}
    return _setting(method, {**usual, "lr": 0.1, **rates, "weight_decay": 5e-4, "augment": "crop-flip"}, given)


def cifar10_narrow(method: str, **given: Any) -> Experiment:
    """ResNet-18 of width 4 on 15,000 images of CIFAR-10: 20 epochs of SGD at 0.1 with a cosine, passes in bf16.

    Evaluated by APGD-CE and APGD-T on 1,000 test images. ``given`` is as in :func:`cifar10`. PGD training takes about
    half an hour on one core.
    """
    usual: dict[str, Any] = {"width": 4, "n_train": 15_000, "epochs": 20, "n_test": 1_000, "measure_every": 4}
    how = {"precision": "bf16-mixed", "attacks": ("clean", "pgd20", "apgd_ce_t")}
    return cifar10(method, **{"milestones": (), **usual, **how, **given})


def cifar10_growing_eps(method: str, **given: Any) -> Experiment:
    """:func:`cifar10` with perturbed weights (``awp``), a rate of 0.2, and an eps that grows over all epochs."""
    growing = {"schedule": "warmup", "eps_warmup_epochs": 200.0, "eps": 8 / 255, "steps": 4, "alpha": 4 / 255}
    return cifar10(method, **{"update": "awp", "lr": 0.2, **growing, **given})


def mnist(method: str, **given: Any) -> Experiment:
    """LeNet of width 16 on MNIST: Adam at 0.001, no weight decay, batches of 128; ``given`` as in :func:`cifar10`."""
    usual = {"data": "mnist", "backbone": "lenet", "width": 16, "batch_size": 128}
    return _setting(method, {**usual, "optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0}, given)


def digits(method: str, **given: Any) -> Experiment:
    """LeNet of width 8 on digits: batches of 64, 200 images attacked; ``given`` as in :func:`cifar10`."""
    return _setting(method, {"data": "digits", "backbone": "lenet", "width": 8, **_SMALL}, given)


def cifar10_lenet(method: str, **given: Any) -> Experiment:
    """LeNet of width 8 on 4,000 images of CIFAR-10: SGD at 0.05, batches of 64, 200 images attacked.

    ``given`` is as in :func:`cifar10`. A run takes minutes on one core.
    """
    usual = {"data": "cifar10", "backbone": "lenet", "width": 8, "n_train": 4_000, **_SMALL}
    return _setting(method, {**usual, "lr": 0.05, "weight_decay": 5e-4}, given)


def _setting(method: str, usual: Mapping[str, Any], given: Mapping[str, Any]) -> Experiment:
    """The ``usual`` fields and hyper-parameters with those ``given`` in their place; another backbone has no width."""
    values = {**usual, **given}
    width = values.pop("width")
    if "width" in given or "backbone" not in given:
        values = {"backbone_args": {"width": width}, **values}
    chosen = {entry.name: values.pop(entry.name) for entry in fields(Experiment) if entry.name in values}
    return Experiment(method, hyper_parameters=values, **chosen)


def with_hyper_parameters(experiment: Experiment, more: Mapping[str, Any]) -> Experiment:
    """``experiment`` with ``more`` hyper-parameters; ``epochs`` among them sets its length."""
    values = {**experiment.hyper_parameters, **more}
    return replace(experiment, epochs=values.pop("epochs", experiment.epochs), hyper_parameters=values)


def script(text: str | None, **defaults: str) -> Callable[[Callable[..., None]], click.Command]:
    """Make a function the command of a recipe, with ``--smoke`` and the options that say where to run.

    The function is called with ``context`` (a :class:`RunContext`), ``small`` (whether ``--smoke`` was given), and its
    own options.

    Args:
        text: What ``--help`` says.
        defaults: Other defaults of options, such as ``device="cuda"``.
    """
    settings = {**CONTEXT_SETTINGS, "default_map": defaults}
    smoke_help = "the same on digits in seconds, to see that everything works"

    def decorate(main: Callable[..., None]) -> click.Command:
        @click.command(help=text, cls=Command, context_settings=settings)
        @click.option("--smoke", "small", is_flag=True, help=smoke_help)
        @checkpoint_options
        @track_option
        @run_context_options
        def command(**values: Any) -> None:
            context = take_run_context(values)
            main(context=context, **values)

        command.params[:0] = reversed(getattr(main, "__click_params__", []))
        return command

    return decorate


def recipe(experiment: Experiment, text: str | None, **small: Any) -> None:
    """Run ``experiment`` as a script whose ``--help`` says ``text``; bad input ends in one line and exit code 2.

    ``small`` are fields of the experiment that ``--smoke`` runs, such as another ``backbone``.
    """

    reduced = small

    @script(text)
    @click.option("--seed", default=0, show_default=True, help="seed of weights, batches and attacks")
    @click.option("--data", default=experiment.data, show_default=True, help="another data set than the source's")
    @click.option("--resume", is_flag=True, help="go on from the checkpoint of the same run")
    def main(context: RunContext, small: bool, seed: int, data: str) -> None:
        chosen = replace(experiment, seed=seed, data=data)
        record = run(replace(smoke(chosen), **reduced) if small else chosen, context)
        console.show_table(console.results_table([record]))

    guarded(main)


def compare(table: str, experiment: Callable[[str, int], Experiment], methods: Sequence[str], text: str | None) -> None:
    """Run ``experiment(method, seed)`` of all ``methods`` and seeds as a script, and make the ``table`` of their means.

    Recorded runs are skipped and an interrupted one resumes. ``text`` is what ``--help`` says.
    """

    @script(text)
    @click.option("--seeds", type=CommaSeparated(int), default="0,1,2", show_default=True, help="seeds of each method")
    @click.option(
        "--methods", "names", type=CommaSeparated(str), default="all", show_default=True, help="or some names"
    )
    def main(context: RunContext, small: bool, seeds: tuple[int, ...], names: tuple[str, ...]) -> None:
        context = replace(context, resume=True, tables=(table,))
        chosen = methods if names == ("all",) else [check_choice("methods", name, methods) for name in names]
        runs = [experiment(method, seed) for seed in seeds for method in chosen]
        records = [run(smoke(each) if small else each, context) for each in runs]
        for path in results.rebuild(context.results):
            console.say(f"table: {path}")
        console.show_table(console.results_table(records))

    guarded(main)


def smoke(experiment: Experiment) -> Experiment:
    """The same experiment at a size that runs in seconds: ``digits``, a narrow LeNet, an epoch, a few test images."""
    method = TRAINERS[experiment.method].method
    # One epoch is too short for several periods or a warm-up.
    one_epoch = {"lr_schedule": "constant", "warmup_epochs": 0.0, "periods": 1, "reset_epochs": ()}
    names = known(method, experiment.hyper_parameters)
    short = {name: value for name, value in {**method.smoke, **one_epoch}.items() if name in names}
    if not is_native("cpu", torch.bfloat16):  # a smoke test runs on every machine
        short |= {name: "fp32" for name in ("precision", "craft_precision") if name in experiment.hyper_parameters}
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
