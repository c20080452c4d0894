"""What ``toolkit-ext evaluate`` does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit_ext import data, results
from toolkit_ext.cli import console
from toolkit_ext.cli.jobs.corruptions import measure_corruptions
from toolkit_ext.cli.jobs.models import (
    choose_protocols,
    facts_of,
    load_data,
    load_models,
    load_parts,
    radius_source,
    run_own_code,
)
from toolkit_ext.devices import check_device
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import (
    Audit,
    CorruptionAccuracy,
    Evaluation,
    Loaded,
    Protocol,
    Threats,
    audit,
    evaluate,
    evaluate_budgets,
)
from toolkit_ext.evaluation.loading.models import describe, ensemble
from toolkit_ext.evaluation.protocol import TRANSFER, budgets
from toolkit_ext.evaluation.settings import parse_batch_size
from toolkit_ext.experiments.experiment import record_of
from toolkit_ext.experiments.settings import RunContext
from toolkit_ext.io import make_folder
from toolkit_ext.ranks import Ranks, start
from toolkit_ext.results import Record
from toolkit_ext.trainers.state import digest


def evaluate_checkpoints(checkpoints: tuple[str, ...], context: RunContext, values: dict[str, Any]) -> None:
    """Evaluate the models ``checkpoints`` with the options ``values``; write the records and print the tables."""
    ranks, device = start(check_device(context.device))
    if values["batch_size"] is not None:  # a bad one is told before anything is read
        values["batch_size"] = parse_batch_size(values["batch_size"])
    if values["transfer"] and not values["audited"]:
        raise UserError("transfer: has no effect without --audit")
    sources = [*checkpoints, *filter(None, [values["transfer"], values["transfer_from"]])]
    run_own_code(sources, values["imports"], [name.removeprefix(TRANSFER) for name in values["attacks"]])
    told = [describe(source) for source in checkpoints]
    dataset = load_parts(load_data(told, values["data_name"], context, values), 1, values["n_test"], context)
    if values["batch_size"] is None:
        values["batch_size"] = data.usual_batch(dataset.x_test)
    loaded = load_models(sources, values, dataset, device)
    source_model = loaded.pop() if values["transfer_from"] else None
    other = loaded.pop() if values["transfer"] else None
    protocols, source = choose_protocols(told[0], dataset, values), radius_source(told[0], dataset, values)
    model = ensemble(loaded)
    corruptions = measure_corruptions(model, dataset, checkpoints, context, values)
    given = (model, other, source_model, dataset, source, values, context, ranks, corruptions)
    jobs = [_Job(one, *given) for one in protocols]
    if len(jobs) == 1:
        jobs[0].run(checkpoints)
    else:
        _run_together(jobs, checkpoints)


def _run_together(jobs: Sequence[_Job], checkpoints: Sequence[str]) -> None:
    """Evaluate by every protocol, write a record for each, and print the union of the threat models."""
    found = [job.evaluate(checkpoints)[0] for job in jobs]
    together = Threats({one.protocol.name: one for one in found}).to_dict()
    for job, one in zip(jobs, found, strict=True):
        job.finish([one], {"threats": together})
    console.show_table(console.threats_table(together))


@dataclass(frozen=True)
class _Job:
    """The evaluation of one model or ensemble by ``protocol``."""

    protocol: Protocol
    loaded: Loaded
    other: Loaded | None
    source: Loaded | None
    dataset: data.Dataset
    radius_source: str
    values: dict[str, Any]
    context: RunContext
    ranks: Ranks
    corruptions: CorruptionAccuracy | None

    def run(self, checkpoints: Sequence[str]) -> None:
        """Evaluate at every radius, write the records, print the tables."""
        several = len(self.values["eps"]) > 1
        radii = budgets(self.protocol, self.values["eps"]) if several else (self.protocol,)
        # First, because it takes less time and can show that the evaluation is not worth it.
        middle = radii[(len(radii) - 1) // 2]
        folder = self._folder(checkpoints)
        audited = self._audit(folder / "audit", middle) if self.values["audited"] else None
        found = self._evaluate(folder)
        curve = {"id": self._digest(checkpoints), "eps": [one.protocol.eps for one in found]}
        self.finish(found, {"curve": curve} if several else {}, audited)

    def evaluate(self, checkpoints: Sequence[str]) -> Sequence[Evaluation]:
        """Evaluate at every radius."""
        return self._evaluate(self._folder(checkpoints))

    def finish(self, found: Sequence[Evaluation], details: Mapping[str, Any], audited: Audit | None = None) -> None:
        """Write the records of ``found`` with further ``details``, and print the tables."""
        records = [self._record(one, audited, details, last=one is found[-1]) for one in found]
        for one, record in zip(found, records, strict=True):
            self._write(one, record)
            for warning in record["warnings"]:
                console.say(f"warning: {warning}")
        self._show(records, audited)

    def _folder(self, checkpoints: Sequence[str]) -> Path:
        start = f"{Path(checkpoints[0]).resolve().parent.name}-{self.loaded.name}-{self.protocol.name}"
        name = f"{results.slug(start)[:100]}-{self._digest(checkpoints)}"
        return self.context.output / "evaluations" / name

    def _write(self, one: Evaluation, record: Record) -> None:
        folder = self.context.results / ("partial" if one.partial else "runs")  # tables read runs
        console.say(f"record: {self.ranks.first(lambda: results.write_record(record, folder))}")
        for name, save in (("save_examples", one.examples.save), ("store_logits", one.save_logits)):
            if (kept := self.values[name]) and not kept.suffix:
                file = kept / f"{record['run_id']}.safetensors"
                written = self.ranks.first(lambda save=save, file=file: save(make_folder(file.parent) / file.name))  # type: ignore[misc]
                console.say(f"{name.partition('_')[2]}: {written}")

    def _digest(self, checkpoints: Sequence[str]) -> str:
        """A hash of models, data and settings: each combination has its own folder, from which it resumes."""
        rules = self.protocol.to_dict()
        if len(self.values["eps"]) < 2:  # attacks can be added to an evaluation, but not to a curve
            rules = {name: value for name, value in rules.items() if name not in ("attacks", "attack_args")}
        sources = [*checkpoints, *self.loaded.weights]
        numbers = [len(self.dataset.y_test), *(self.values[key] for key in ("seed", "batch_size", "eps", "precision"))]
        reading = [given] if (given := self.dataset.facts.get("reading")) else []
        return digest(rules, sources, numbers, self.dataset.name, *reading)[:8]

    def _options(self) -> dict[str, Any]:
        values = {key: self.values[key] for key in ("seed", "fresh")}
        return {**values, "num_classes": self.dataset.num_classes, "progress": self.context.progress}

    def _evaluate(self, folder: Path) -> Sequence[Evaluation]:
        # The names in a folder are those of the records, which are written later.
        examples, logits = (self.values[name] for name in ("save_examples", "store_logits"))
        options = {"save_examples": examples if examples and examples.suffix else None, **self._options()}
        options["store_logits"] = logits if logits and logits.suffix else bool(logits)
        options |= {key: self.values[key] for key in ("batch_size", "precision", "max_time")}
        options["transfer"] = self.source and self.source.model
        given = (self.loaded.model, self.dataset.x_test, self.dataset.y_test, self.protocol)
        if len(self.values["eps"]) > 1:
            return evaluate_budgets(*given, self.values["eps"], state_dir=folder, **options)
        return [evaluate(*given, state_dir=folder / "evaluation", **options)]

    def _audit(self, folder: Path, protocol: Protocol) -> Audit:
        n, size = self.values["audit_n"], self.values["batch_size"]
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

    def _record(self, one: Evaluation, audited: Audit | None, details: Mapping[str, Any], *, last: bool) -> Record:
        about = facts_of(self.loaded.tells, self.loaded.name, self.loaded.backbone, self.dataset)
        record = record_of(about, one.protocol, one, {}, [])
        record["details"]["data"] = dict(self.dataset.facts)
        if not last:  # the small radii of a curve are no reason for doubt
            record["warnings"] = [text for text in record["warnings"] if not text.startswith("small_eps")]
        if self.loaded.facts:
            record["details"]["model"] = self.loaded.facts
        if self.source:
            record["details"]["transfer_from"] = self.source.name
        if self.corruptions:
            record["metrics"]["corruption_acc"] = self.corruptions.accuracy()
            record["details"]["corruptions"] = self.corruptions.to_dict()
        record["details"] |= details
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
            if "confidence" in record["details"]:
                console.show_table(console.confidence_table(record))
        if self.corruptions:
            console.show_table(console.corruptions_table(self.corruptions.to_dict(), errors=errors))
        if audited:
            console.show_table(console.audit_table(audited.to_dict(), self.protocol.name))
