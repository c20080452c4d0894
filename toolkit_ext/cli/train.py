"""``toolkit-ext train [METHOD]``."""

from __future__ import annotations

import json
from typing import Any

import click

from toolkit_ext.cli import console
from toolkit_ext.cli.options import CommaSeparated, given, hyper_parameter_options, place_options, take_place
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.experiment import Experiment, run
from toolkit_ext.experiments.presets import winner


def parse_backbone_args(pairs: tuple[str, ...]) -> dict[str, Any]:
    found = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals:
            raise UserError(f"backbone-arg: {pair!r} is not allowed; write NAME=VALUE, such as width=8")
        try:
            found[name] = json.loads(value)
        except json.JSONDecodeError:
            found[name] = value
    return found


def experiment_of(method: str, values: dict[str, Any]) -> Experiment:
    """The experiment that ``values``, the options of ``train`` but for those of its place, describe."""
    values = dict(values)
    args = parse_backbone_args(values.pop("backbone_arg"))
    fixed = {name: values.pop(name) for name in Experiment.__dataclass_fields__ if name in values}
    return Experiment(method=method, backbone_args=args, hyper_parameters=given(values), **fixed)


@click.command("train")
@click.argument("method", required=False)
@click.option("--data", default="digits", show_default=True, help="digits, mnist, cifar10, ..., folder:PATH")
@click.option("--backbone", default="lenet", show_default=True, help="any timm classifier, or lenet, resnet18_w, ...")
@click.option("--backbone-arg", multiple=True, metavar="NAME=VALUE", help="argument of the backbone, such as width=8")
@click.option("--epochs", default=20, show_default=True, help="passes over the training data")
@click.option("--batch-size", default=128, show_default=True, help="examples in a step")
@click.option("--n-train", type=int, help="use the first N training examples only")
@click.option("--n-test", type=int, default=1000, show_default=True, help="attack the first N test examples")
@click.option("--protocol", help="evaluation; by default the usual one of the data set at the attack's eps")
@click.option("--attacks", type=CommaSeparated(str), default=(), help="columns to evaluate instead of the protocol's")
@click.option("--seed", default=0, show_default=True, help="seed of weights, batches and attacks")
@click.option("--resume", is_flag=True, help="go on from the checkpoint of the same run")
@place_options
def train_command(method: str | None, **values: Any) -> None:
    """Train METHOD on a data set and report its AutoAttack accuracy.

    Without METHOD, the combination is taken that did best on the data set in the leaderboards of results/CLAIMS.md;
    options that are given come before its own.

    Hyper-parameters of the method's attack, objective, update and schedule, and of the training loop, are options;
    --attack, --objective, --update and --schedule combine methods.
    """
    place = take_place(values)
    if method is None:
        best = winner(values["data"])
        console.say(f"method: {best.name}, the best of {best.board} in results/CLAIMS.md ({best.method})")
        method, values = best.method, best.with_options(values)
    console.show_table(console.results_table([run(experiment_of(method, values), place)]))


train_command.params.extend(hyper_parameter_options())
