"""``toolkit-ext evaluate CHECKPOINT...``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit_ext.cli.config import config_options
from toolkit_ext.cli.help import Command
from toolkit_ext.cli.model_options import loading_options
from toolkit_ext.cli.options import (
    NATURAL,
    SEED_NUMBER,
    CommaSeparated,
    attack_arg_option,
    data_option,
    reading_options,
    run_context_options,
    take_run_context,
)


@click.command("evaluate", cls=Command, headings=dict.fromkeys(("eps", "batch_size", "seed"), "Evaluation"))
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option(
    "--protocol",
    help="name in eval/protocols, or a JSON file; by default the usual one of the data set; several give their union",
)
@data_option
@reading_options
@click.option("--n", "n_test", type=NATURAL, default=1000, show_default=True, help="attack the first N test examples")
@click.option(
    "--eps",
    type=CommaSeparated(str),
    default=(),
    help="radius instead of the protocol's, such as 8/255; several, such as 2/255,8/255, give a curve",
)
@click.option(
    "--attacks",
    type=CommaSeparated(str),
    default=(),
    help="columns instead of the protocol's, such as clean,pgd20,aa; also torchattacks:NAME, art:NAME, FILE.py:NAME",
)
@attack_arg_option
@click.option("--version", help="AutoAttack's version: standard, plus, or rand for randomised models")
@click.option("--errors", is_flag=True, help="print errors instead of accuracies")
@click.option("--details", is_flag=True, help="print the images that each attack broke, and its time")
@click.option("--audit", "audited", is_flag=True, help="check, at the middle eps, that attacks work on this model")
@click.option("--audit-n", type=NATURAL, default=100, show_default=True, help="test examples for the audit")
@click.option(
    "--corruptions",
    metavar="SOURCE",
    help="also measure accuracy under 15 common corruptions at 5 severities: corrupted (made from the test images), or "
    "the files of cifar10-c or cifar100-c",
)
@click.option("--transfer-from", metavar="CHECKPOINT", help="model that columns such as transfer:pgd20 craft on")
@click.option("--transfer", metavar="CHECKPOINT", help="model whose adversarial examples the audit tries too")
@loading_options
@click.option(
    "--batch-size",
    show_default="250, and fewer of images larger than 3 x 64 x 64",
    help="examples attacked at once; auto measures which of several is fastest (random numbers depend on it)",
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    help="of AutoAttack: fp32, bf16-verified (faster; every success is checked in fp32), fp32-reference (the unchanged "
    "code of pyautoattack)",
)
@click.option("--seed", type=SEED_NUMBER, default=0, show_default=True, help="seed of the attacks")
@click.option(
    "--save-examples",
    type=click.Path(path_type=Path),
    help="write adversarial examples to this .safetensors file, or to this folder under the name of the run",
)
@click.option(
    "--store-logits",
    type=click.Path(path_type=Path),
    help="write the logits of every image, clean and under each attack, to this .safetensors file or folder; the "
    "record then has ECE, NLL, Brier score and margins",
)
@click.option(
    "--max-time",
    type=float,
    metavar="MINUTES",
    help="stop between batches; the record, in results/partial, is about the images judged so far; the same command "
    "goes on",
)
@click.option("--fresh", is_flag=True, help="repeat attacks that an earlier evaluation has finished")
@run_context_options
@config_options
def evaluate_command(checkpoints: tuple[str, ...], **values: Any) -> None:
    """Evaluate a model by AutoAttack and write a record.

    CHECKPOINT is the folder of a checkpoint, timm:NAME or your own FILE.py:FACTORY with --weights, robustbench:NAME, a
    TorchScript file (.pt) or a torch.export file (.pt2); several are evaluated as one ensemble. An interrupted
    evaluation continues with the batch it was at.

    TorchScript and torch.export files are programs, and loading one runs its code, as do Python files, --import and
    RobustBench: use only those of people you trust. Checkpoint folders and files of weights are data.
    """
    from toolkit_ext.cli.jobs.evaluate import evaluate_checkpoints

    evaluate_checkpoints(checkpoints, take_run_context(values), values)
