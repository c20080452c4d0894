"""``toolkit-ext evaluate CHECKPOINT...``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from toolkit_ext import data, results
from toolkit_ext.cli import console
from toolkit_ext.cli.options import CommaSeparated, backbone_arg_option, run_context_options, take_run_context
from toolkit_ext.cli.sources import choose_protocol, data_option, facts_of, load_data, load_models, radius_source
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Audit, Evaluation, Loaded, Protocol, audit, evaluate, evaluate_budgets
from toolkit_ext.evaluation.loading.models import describe, ensemble, runs_code
from toolkit_ext.evaluation.protocol import budgets
from toolkit_ext.evaluation.settings import parse_batch_size
from toolkit_ext.experiments.experiment import RunContext, check_device, record_of
from toolkit_ext.io import make_folder
from toolkit_ext.ranks import Ranks, start
from toolkit_ext.results import Record
from toolkit_ext.trainers.state import digest


@click.command("evaluate")
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option("--protocol", help="name in eval/protocols, or a JSON file; by default the usual one of the data set")
@data_option
@click.option("--n", "n_test", type=int, default=1000, show_default=True, help="attack the first N test examples")
@click.option(
    "--eps",
    type=CommaSeparated(str),
    default=(),
    help="radius instead of the protocol's, such as 8/255; several, such as 2/255,8/255, give a curve",
)
@click.option(
    "--attacks", type=CommaSeparated(str), default=(), help="columns instead of the protocol's, such as clean,pgd20,aa"
)
@click.option("--version", help="AutoAttack's version: standard, plus, or rand for randomised models")
@click.option("--errors", is_flag=True, help="print errors instead of accuracies")
@click.option("--details", is_flag=True, help="print the images that each attack broke, and its time")
@click.option("--audit", "audited", is_flag=True, help="check, at the middle eps, that attacks work on this model")
@click.option("--audit-n", type=int, default=100, show_default=True, help="test examples for the audit")
@click.option("--transfer", metavar="CHECKPOINT", help="model whose adversarial examples the audit tries too")
@click.option(
    "--weights", multiple=True, type=click.Path(path_type=Path), help="weights of timm:NAME, one for each in order"
)
@backbone_arg_option
@click.option("--mean", type=CommaSeparated(float), default=(), help="mean for timm:NAME, by default timm's own")
@click.option("--std", type=CommaSeparated(float), default=(), help="standard deviation for timm:NAME, likewise")
@click.option(
    "--batch-size",
    default="250",
    show_default=True,
    help="examples attacked at once; auto measures which of several is fastest (random numbers depend on it)",
)
@click.option(
    "--precision",
    default="fp32",
    show_default=True,
    help="of AutoAttack: fp32, bf16-verified (faster; every success is checked in fp32), fp32-reference (the unchanged "
    "code of pyautoattack)",
)
@click.option("--seed", default=0, show_default=True, help="seed of the attacks")
@click.option(
    "--save-examples",
    type=click.Path(path_type=Path),
    help="write adversarial examples to this .safetensors file, or to this folder under the name of the run",
)
@click.option("--fresh", is_flag=True, help="repeat attacks that an earlier evaluation has finished")
@run_context_options
def evaluate_command(checkpoints: tuple[str, ...], **values: Any) -> None:
    """Evaluate a model by AutoAttack and write a record.

    CHECKPOINT is the folder of a checkpoint, timm:NAME with --weights, a TorchScript file (.pt) or a torch.export file
    (.pt2); several are evaluated as one ensemble. An interrupted evaluation continues with the batch it was at.

    TorchScript and torch.export files are programs, and loading one runs its code: use only those of people you trust.
    Checkpoint folders and files of weights are data.
    """
    context = take_run_context(values)
    ranks, device = start(check_device(context.device))
    values["batch_size"] = parse_batch_size(values["batch_size"])
    if values["transfer"] and not values["audited"]:
        raise UserError("transfer: has no effect without --audit")
    told = [describe(source) for source in checkpoints]
    _warn_of_code([*checkpoints, *filter(None, [values["transfer"]])])
    dataset = load_data(told, values["data_name"], context)
    dataset = dataset.subset(None, min(values["n_test"], len(dataset.y_test)))
    loaded = load_models([*checkpoints, *filter(None, [values["transfer"]])], values, dataset, device)
    other = loaded.pop() if values["transfer"] else None
    protocol, source = choose_protocol(told[0], dataset, values), radius_source(told[0], dataset, values)
    job = _Job(ensemble(loaded), other, dataset, protocol, source, values, context, ranks)
    job.run(checkpoints)


def _warn_of_code(sources: Sequence[str]) -> None:
    if programs := [source for source in sources if runs_code(source)]:
        console.say(f"warning: {', '.join(programs)}: TorchScript and torch.export files run code when they are loaded")


@dataclass(frozen=True)
class _Job:
    """The evaluation of one model or ensemble by ``protocol``."""

    loaded: Loaded
    other: Loaded | None
    dataset: data.Dataset
    protocol: Protocol
    radius_source: str
    values: dict[str, Any]
    context: RunContext
    ranks: Ranks

    def run(self, checkpoints: Sequence[str]) -> None:
        """Evaluate at every radius, write the records, print the tables."""
        name = self._digest(checkpoints)
        start = f"{Path(checkpoints[0]).resolve().parent.name}-{self.loaded.name}-{self.protocol.name}"
        folder = self.context.output / "evaluations" / f"{results.slug(start)[:100]}-{name}"
        several = len(self.values["eps"]) > 1
        radii = budgets(self.protocol, self.values["eps"]) if several else (self.protocol,)
        # First, because it takes less time and can show that the evaluation is not worth it.
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
        folder = self.context.results / "runs"
        console.say(f"record: {self.ranks.first(lambda: results.write_record(record, folder))}")
        if (kept := self.values["save_examples"]) and not kept.suffix:
            file = kept / f"{record['run_id']}.safetensors"
            console.say(f"examples: {self.ranks.first(lambda: one.examples.save(make_folder(kept) / file.name))}")

    def _digest(self, checkpoints: Sequence[str]) -> str:
        """A hash of models, data and settings: each combination has its own folder, from which it resumes."""
        rules = self.protocol.to_dict()
        if len(self.values["eps"]) < 2:
            del rules["attacks"]  # attacks can be added to an evaluation, but not to a curve
        sources = [str(source) for source in (*checkpoints, *self.values["weights"])]
        numbers = [len(self.dataset.y_test), *(self.values[key] for key in ("seed", "batch_size", "eps", "precision"))]
        return digest(rules, sources, numbers, self.dataset.name)[:8]

    def _options(self) -> dict[str, Any]:
        values = {key: self.values[key] for key in ("seed", "fresh")}
        return {**values, "num_classes": self.dataset.num_classes, "progress": self.context.progress}

    def _evaluate(self, folder: Path) -> Sequence[Evaluation]:
        kept = self.values["save_examples"]
        # The names in a folder are those of the records, which are written later.
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
        if one is not found[-1]:  # the small radii of a curve are no reason for doubt
            record["warnings"] = [text for text in record["warnings"] if not text.startswith("small_eps")]
        if len(found) > 1:
            record["details"]["curve"] = {"id": name, "eps": [other.protocol.eps for other in found]}
        if audited:
            settings = audited.to_dict()
            record["details"] |= {"audit": settings.pop("checks"), "audit_settings": settings}
            record["warnings"] += [str(flag) for flag in audited.flags()]
        return record

    def _show(self, records: Sequence[Record], audited: Audit | None) -> None:
        errors = self.values["errors"]
        console.show_table(console.evaluation_table(records, source=self.radius_source, errors=errors))
        for record in records if self.values["details"] else ():
            console.show_table(console.details_table(record, errors=errors))
        if audited:
            console.show_table(console.audit_table(audited.to_dict(), self.protocol.name))
