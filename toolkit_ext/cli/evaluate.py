"""``toolkit-ext evaluate CHECKPOINT``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit_ext import backbones, console, data, results
from toolkit_ext.cli._options import _Words, place_options, take_place
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import evaluate, load_protocol
from toolkit_ext.experiment import check_device, protocol_for, record_of


@click.command("evaluate")
@click.argument("checkpoint", type=click.Path(path_type=Path))
@click.option("--protocol", help="name in eval/protocols or a JSON file; by default the usual one of the data set")
@click.option("--data", "data_name", help="data set; by default the one the checkpoint was trained on")
@click.option("--n", "n_test", type=int, default=1000, show_default=True, help="attack the first N test examples")
@click.option("--eps", help="another radius than the protocol's; 8/255 is accepted")
@click.option(
    "--attacks", type=_Words(str), default=(), help="columns instead of the protocol's, such as clean,pgd20,aa"
)
@click.option("--batch-size", default=250, show_default=True, help="examples attacked at once")
@click.option("--seed", default=0, show_default=True, help="seed of the attacks")
@click.option("--save-examples", type=click.Path(path_type=Path), help="write adversarial examples to this file")
@place_options
def evaluate_command(checkpoint: Path, **values: Any) -> None:
    """Evaluate the model in the folder CHECKPOINT by AutoAttack and write a record.

    An evaluation that was stopped goes on with the batch it was at.
    """
    place = take_place(values)
    device = check_device(place.device)
    about = dict(backbones.read_config(checkpoint).get("toolkit_ext", {}))
    name = values["data_name"] or about.get("data", {}).get("name")
    if name is None:
        raise UserError("data: the checkpoint does not say what it was trained on; give --data")
    dataset = data.load(name, root=place.data_root, download=place.download)
    dataset = dataset.subset(None, min(values["n_test"], len(dataset.y_test)))
    model = backbones.load_model(checkpoint, device=device)
    named = values["protocol"]
    protocol = load_protocol(named) if named else protocol_for(name, about.get("hyper_parameters", {}))
    changes = {key: values[key] for key in ("eps", "attacks") if values[key]}
    protocol = protocol.at(**changes) if changes else protocol
    evaluation = evaluate(
        model,
        dataset.x_test,
        dataset.y_test,
        protocol,
        seed=values["seed"],
        batch_size=values["batch_size"],
        num_classes=dataset.num_classes,
        state_dir=place.output
        / "evaluations"
        / results.slug(f"{checkpoint.resolve().parent.name}-{checkpoint.name}-{protocol.name}"),
        save_examples=values["save_examples"],
        progress=place.progress,
    )
    record = record_of(_about(about, checkpoint, model, dataset), protocol, evaluation, {}, [])
    console.say(f"record: {results.write_record(record, place.results / 'runs')}")
    console.show_table(console.results_table([record]))


def _about(
    about: dict[str, Any], checkpoint: Path, model: backbones.Normalized, dataset: data.Dataset
) -> dict[str, Any]:
    """The record's facts: the training as the checkpoint tells it, the data as evaluated."""
    known = {key: value for key, value in about.items() if key != "weights_sha256"}
    sizes = known.get("data", {"train": 0, "validation": 0})
    parameters = sum(weight.numel() for weight in model.parameters())
    facts = {
        "method": "unknown",
        "axes": None,
        "hyper_parameters": {},
        "backbone": {"name": model.name, "args": dict(model.model_args), "parameters": parameters},
        "seed": 0,
    } | known
    facts["hyper_parameters"] = {**facts["hyper_parameters"], "checkpoint": checkpoint.name}
    if sizes.get("name", dataset.name) != dataset.name:
        facts["hyper_parameters"]["trained_on"] = sizes["name"]
    facts["data"] = {**sizes, "name": dataset.name, "test": len(dataset.y_test), "num_classes": dataset.num_classes}
    return facts
