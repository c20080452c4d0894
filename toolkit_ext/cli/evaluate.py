"""``toolkit-ext evaluate CHECKPOINT...``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import torch

from toolkit_ext import data, results
from toolkit_ext.cli import console
from toolkit_ext.cli.evaluation_options import audit_table, details_table, facts_of, figures_table
from toolkit_ext.cli.options import CommaSeparated, place_options, take_place
from toolkit_ext.cli.train import parse_backbone_args
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import (
    Audit,
    Evaluation,
    Loaded,
    Protocol,
    Shape,
    audit,
    evaluate,
    evaluate_budgets,
    load_protocol,
    protocol_for,
)
from toolkit_ext.evaluation import load as load_model
from toolkit_ext.evaluation.loading.models import TIMM, describe, ensemble
from toolkit_ext.evaluation.protocol import budgets
from toolkit_ext.evaluation.settings import parse_batch_size
from toolkit_ext.experiments.experiment import Place, check_device, record_of
from toolkit_ext.io import make_folder
from toolkit_ext.ranks import Ranks, start
from toolkit_ext.results import Record
from toolkit_ext.trainers.state import digest


@click.command("evaluate")
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option("--protocol", help="name in eval/protocols or a JSON file; by default the usual one of the data set")
@click.option("--data", "data_name", help="data set; by default the one the checkpoint was trained on")
@click.option("--n", "n_test", type=int, default=1000, show_default=True, help="attack the first N test examples")
@click.option(
    "--eps",
    type=CommaSeparated(str),
    default=(),
    help="another radius than the protocol's, 8/255; several, 2/255,8/255, a curve",
)
@click.option(
    "--attacks", type=CommaSeparated(str), default=(), help="columns instead of the protocol's, such as clean,pgd20,aa"
)
@click.option("--version", help="AutoAttack's version: standard, plus, or rand for randomised models")
@click.option("--errors", is_flag=True, help="print errors instead of accuracies")
@click.option("--details", is_flag=True, help="print what each attack broke, and its time")
@click.option("--audit", "audited", is_flag=True, help="check (at the middle eps) that attacks work on this model")
@click.option("--audit-n", type=int, default=100, show_default=True, help="test examples for the audit")
@click.option("--transfer", metavar="CHECKPOINT", help="another model, whose adversarial examples the audit tries too")
@click.option(
    "--weights", multiple=True, type=click.Path(path_type=Path), help="weights of timm:NAME, one for each in order"
)
@click.option("--backbone-arg", multiple=True, metavar="NAME=VALUE", help="argument of timm:NAME, such as width=8")
@click.option(
    "--mean", type=CommaSeparated(float), default=(), help="normalisation of timm:NAME, by default timm's own"
)
@click.option("--std", type=CommaSeparated(float), default=(), help="normalisation of timm:NAME, likewise")
@click.option(
    "--batch-size",
    default="250",
    show_default=True,
    help="examples attacked at once; auto: the fastest of several, by measurement (random numbers depend on it)",
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    help="of AutoAttack: fp32, bf16-verified (faster; every success checked in fp32), fp32-reference (pixel by pixel"
    " pyautoattack's own code)",
)
@click.option("--seed", default=0, show_default=True, help="seed of the attacks")
@click.option(
    "--save-examples",
    type=click.Path(path_type=Path),
    help="write adversarial examples to this .safetensors file, or into this folder under the name of the run",
)
@click.option("--fresh", is_flag=True, help="attack anew what an earlier evaluation has finished")
@place_options
def evaluate_command(checkpoints: tuple[str, ...], **values: Any) -> None:
    """Evaluate a model by AutoAttack and write a record.

    CHECKPOINT is the folder of a checkpoint, timm:NAME with --weights, a TorchScript file (.pt) or a torch.export file
    (.pt2); several are evaluated as one ensemble. An evaluation that was stopped goes on with the batch it was at.
    """
    place = take_place(values)
    ranks, device = start(check_device(place.device))
    values["batch_size"] = parse_batch_size(values["batch_size"])
    if values["transfer"] and not values["audited"]:
        raise UserError("transfer: has no effect without --audit")
    told = [describe(source) for source in checkpoints]
    dataset = _dataset(told, values, place)
    loaded = _load([*checkpoints, *filter(None, [values["transfer"]])], values, dataset, device)
    other = loaded.pop() if values["transfer"] else None
    job = _Job(ensemble(loaded), other, dataset, _protocol(told, dataset, values), values, place, ranks)
    job.run(checkpoints)


def _dataset(told: Sequence[dict[str, Any]], values: dict[str, Any], place: Place) -> data.Dataset:
    known = sorted({name for about in told if (name := about.get("data", {}).get("name"))})
    chosen = values["data_name"] or (known[0] if len(known) == 1 else None)
    if chosen is None and known:
        raise UserError(f"data: the checkpoints were trained on {' and '.join(known)}; give --data")
    if chosen is None:
        raise UserError("data: the checkpoint does not say what it was trained on; give --data")
    dataset = data.load(chosen, root=place.data_root, download=place.download)
    return dataset.subset(None, min(values["n_test"], len(dataset.y_test)))


def _load(sources: Sequence[str], values: dict[str, Any], dataset: data.Dataset, device: torch.device) -> list[Loaded]:
    shape = Shape(dataset.num_classes, dataset.in_chans, dataset.image_size)
    named = [source for source in sources if source.startswith(TIMM)]
    if len(values["weights"]) != len(named):
        given = len(values["weights"])
        raise UserError(f"weights: {given} files for {len(named)} models named {TIMM}NAME; give one for each")
    options = {
        "backbone_args": parse_backbone_args(values["backbone_arg"]),
        "mean": values["mean"],
        "std": values["std"],
    }
    if not named and (extra := next((name for name, value in options.items() if value), None)):
        raise UserError(f"{extra.removesuffix('s').replace('_', '-')}: has no effect without {TIMM}NAME")
    options = {name: value or None for name, value in options.items()}
    files = iter(values["weights"])
    return [
        load_model(source, shape, device=device, **({"weights": next(files), **options} if source in named else {}))
        for source in sources
    ]


def _protocol(told: Sequence[dict[str, Any]], dataset: data.Dataset, values: dict[str, Any]) -> Protocol:
    trained = told[0].get("hyper_parameters", {})
    usual = protocol_for(dataset.name, trained.get("norm"), trained.get("eps"))
    protocol = load_protocol(values["protocol"] or usual)
    changes: dict[str, Any] = {"version": values["version"]} if values["version"] else {}
    if values["attacks"]:
        # The union of everything that runs is always there.
        changes["attacks"] = tuple(name for name in values["attacks"] if name != "union")
    if len(values["eps"]) == 1:
        changes["eps"] = values["eps"][0]
    return protocol.at(**changes) if changes else protocol


@dataclass(frozen=True)
class _Job:
    """One model, or one ensemble, to evaluate by ``protocol``."""

    loaded: Loaded
    other: Loaded | None
    dataset: data.Dataset
    protocol: Protocol
    values: dict[str, Any]
    place: Place
    ranks: Ranks

    def run(self, checkpoints: Sequence[str]) -> None:
        """Evaluate at every radius, write the records, print the tables."""
        name = self._digest(checkpoints)
        start = f"{Path(checkpoints[0]).resolve().parent.name}-{self.loaded.name}-{self.protocol.name}"
        folder = self.place.output / "evaluations" / f"{results.slug(start)[:100]}-{name}"
        several = len(self.values["eps"]) > 1
        radii = budgets(self.protocol, self.values["eps"]) if several else (self.protocol,)
        # First, because it takes less time and may say that the rest is not worth it.
        middle = radii[(len(radii) - 1) // 2]
        audited = self._audit(folder / "audit", middle) if self.values["audited"] else None
        found = self._evaluate(folder)
        records = [self._record(one, audited, name, found) for one in found]
        for one, record in zip(found, records, strict=True):
            self._write(one, record)
            for warning in record["warnings"]:
                console.say(f"warning: {warning}")
        self._show(records, audited)

    def _write(self, one: Evaluation, record: Record) -> None:
        folder = self.place.results / "runs"
        console.say(f"record: {self.ranks.first(lambda: results.write_record(record, folder))}")
        if (kept := self.values["save_examples"]) and not kept.suffix:
            file = kept / f"{record['run_id']}.safetensors"
            console.say(f"examples: {self.ranks.first(lambda: one.examples.save(make_folder(kept) / file.name))}")

    def _digest(self, checkpoints: Sequence[str]) -> str:
        """A name for all that is evaluated, so that each has a folder of its own to go on from."""
        rules = self.protocol.to_dict()
        if len(self.values["eps"]) < 2:
            del rules["attacks"]  # attacks can be added to an evaluation, but what a curve carries over is by attack
        sources = [str(source) for source in (*checkpoints, *self.values["weights"])]
        numbers = [len(self.dataset.y_test), *(self.values[key] for key in ("seed", "batch_size", "eps", "precision"))]
        return digest(rules, sources, numbers, self.dataset.name)[:8]

    def _options(self) -> dict[str, Any]:
        values = {key: self.values[key] for key in ("seed", "fresh")}
        return {**values, "num_classes": self.dataset.num_classes, "progress": self.place.progress}

    def _evaluate(self, folder: Path) -> Sequence[Evaluation]:
        kept = self.values["save_examples"]
        # In a folder they are named after the records, which are not there yet.
        options = {"save_examples": kept if kept and kept.suffix else None, **self._options()}
        options |= {key: self.values[key] for key in ("batch_size", "precision")}
        given = (self.loaded.model, self.dataset.x_test, self.dataset.y_test, self.protocol)
        if len(self.values["eps"]) > 1:
            return evaluate_budgets(*given, self.values["eps"], state_dir=folder, **options)
        return [evaluate(*given, state_dir=folder / "evaluation", **options)]

    def _audit(self, folder: Path, protocol: Protocol) -> Audit:
        n, size = self.values["audit_n"], self.values["batch_size"]
        if n < 1:
            raise UserError(f"audit-n: {n} is not allowed; at least 1")
        return audit(
            self.loaded.model,
            self.dataset.x_test[:n],
            self.dataset.y_test[:n],
            protocol,
            transfer=self.other and self.other.model,
            state_dir=folder / f"n{n}",
            **self._options(),
            **({} if size == "auto" else {"batch_size": size}),
        )

    def _record(self, one: Evaluation, audited: Audit | None, name: str, found: Sequence[Evaluation]) -> Record:
        about = facts_of(self.loaded.tells, self.loaded.name, self.loaded.backbone, self.dataset)
        record = record_of(about, one.protocol, one, {}, [])
        if len(found) > 1:
            record["details"]["curve"] = {"id": name, "eps": [other.protocol.eps for other in found]}
        if audited:
            settings = audited.to_dict()
            record["details"] |= {"audit": settings.pop("checks"), "audit_settings": settings}
            record["warnings"] += [str(flag) for flag in audited.flags()]
        return record

    def _show(self, records: Sequence[Record], audited: Audit | None) -> None:
        console.show_table(figures_table(records, errors=self.values["errors"]))
        for record in records if self.values["details"] else ():
            console.show_table(details_table(record, errors=self.values["errors"]))
        if audited:
            console.show_table(audit_table(audited.to_dict()))
