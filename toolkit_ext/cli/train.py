"""``toolkit-ext train [METHOD]``."""

from __future__ import annotations

import json
from typing import Any

import click

from toolkit_ext.attacks.by_name import is_by_name, taken, trainable
from toolkit_ext.cli import console
from toolkit_ext.cli.config import config_options
from toolkit_ext.cli.help import TrainCommand
from toolkit_ext.cli.model_options import import_option, mean_option, std_option, weights_key_option
from toolkit_ext.cli.options import (
    CommaSeparated,
    attack_arg_option,
    backbone_arg_option,
    checkpoint_options,
    hyper_parameter_options,
    reading_options,
    run_context_options,
    take_reading,
    take_run_context,
    track_option,
)
from toolkit_ext.cli.preset import by_default
from toolkit_ext.cli.resume import RESUMED, check_same
from toolkit_ext.experiments.settings import Experiment, RunContext
from toolkit_ext.experiments.starting import as_checkpoint, fine_tuning
from toolkit_ext.trainers.methods import METHODS


def experiment_of(method: str, values: dict[str, Any]) -> Experiment:
    """The experiment that ``values``, options of ``train``, describe; without those of :func:`run_context_options`."""
    values = dict(values)
    args, reading, attack_args = values.pop("backbone_arg"), take_reading(values), values.pop("attack_arg")
    fixed = {name: values.pop(name) for name in Experiment.__dataclass_fields__ if name in values}
    given = {name: value for name, value in values.items() if value is not None}
    trained = [given.get("attack") or getattr(METHODS.get(method), "attack", ""), *given.get("multi_attacks", ())]
    if mine := taken(attack_args, [trainable(name) for name in trained if is_by_name(name)]):
        given["attack_args"] = mine
    # What has no prefix is for every attack of the command.
    shared = any(map(is_by_name, fixed["attacks"]))
    rest = {name: value for name, value in attack_args.items() if name not in mine or (shared and "." not in name)}
    options = {"backbone_args": args, "hyper_parameters": given, "attack_args": rest, "reading": reading}
    experiment = Experiment(method=method, **options, **fixed)
    return fine_tuning(experiment, METHODS[method].defaults if method in METHODS else {})


@click.command("train", cls=TrainCommand)
@click.argument("method", required=False)
@click.option("--data", default="digits", show_default=True, help="digits, mnist, ..., folder:PATH, npz:PATH, hf:NAME")
@reading_options
@click.option("--extra-data", metavar="SOURCE", help="mix the images of this source, such as npz:PATH, into each batch")
@click.option("--extra-fraction", type=float, help="share of extra images in each batch  [default: 0.7]")
@click.option("--backbone", default="lenet", show_default=True, help="timm name, lenet, resnet18_w or FILE.py:FACTORY")
@backbone_arg_option
@click.option("--weights", metavar="FILE", help="start from these weights: a file, or pretrained for timm's own")
@weights_key_option
@click.option("--init", metavar="FOLDER", help="start from this checkpoint, with other settings: outputs/RUN/best")
@mean_option
@std_option
@import_option
@click.option("--epochs", default=20, show_default=True, help="passes over the training data")
@click.option("--batch-size", default=128, show_default=True, help="examples in a step")
@click.option("--n-train", type=int, help="use the first N training examples only")
@click.option("--n-test", type=int, default=1000, show_default=True, help="attack the first N test examples")
@click.option("--protocol", help="evaluation; by default the usual one of the data set at the attack's eps")
@click.option("--attacks", type=CommaSeparated(str), default=(), help="columns to evaluate instead of the protocol's")
@attack_arg_option
@click.option("--seed", default=0, show_default=True, help="seed of weights, batches and attacks")
@click.option("--dry-run", is_flag=True, help="say what the run would be, cost and write, and stop")
@click.option("--resume", is_flag=True, help="continue from the checkpoint of the same run, or of the one named: RUN")
@click.option("--extend", metavar="RUN", help="begin with the epochs of RUN, a shorter run with the same settings")
@checkpoint_options
@track_option
@run_context_options
@config_options
def train_command(method: str, dry_run: bool, **values: Any) -> None:
    """Train METHOD on a data set and report its AutoAttack accuracy.

    Without METHOD, train takes the published settings of the data set's preset, and says whose they are
    (docs/presets.md); given options replace its own, and --print-config shows them all.

    All hyper-parameters of the method's attack, objective, update and schedule, and of the training loop, are options.
    --attack, --objective, --update and --schedule combine methods.
    """
    context = take_run_context(values)
    experiment = experiment_of(method, values)
    if experiment.init and by_default(click.get_current_context(), "backbone"):
        experiment = as_checkpoint(experiment)
    if "lr" in experiment.hyper_parameters and values["lr"] is None:
        console.say(f"fine-tuning: lr {experiment.hyper_parameters['lr']:g}, as none is given")
    if folder := click.get_current_context().meta[RESUMED]:
        check_same(experiment, context, folder)
    if dry_run:
        _preview(experiment, context)
        return
    from toolkit_ext.experiments.experiment import run

    record = run(experiment, context)
    if context.json_lines:
        console.show(json.dumps({"run_id": record["run_id"], **record["metrics"]}))
    else:
        console.show_table(console.results_table([record]))


def _preview(experiment: Experiment, context: RunContext) -> None:
    from toolkit_ext.experiments.preview import preview

    for name, text in preview(experiment, context):
        console.show(f"{name + ':':13}{text}")


train_command.params.extend(hyper_parameter_options())
