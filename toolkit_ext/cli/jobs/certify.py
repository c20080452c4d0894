"""What ``toolkit-ext certify`` does."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from toolkit_ext import results
from toolkit_ext.cli import console
from toolkit_ext.cli.jobs.models import facts_of, load_data, load_models, load_parts, run_own_code
from toolkit_ext.devices import check_device
from toolkit_ext.evaluation import Certificates, Smoothing, certify
from toolkit_ext.evaluation.certificates import parse_radii
from toolkit_ext.evaluation.loading.models import describe, ensemble
from toolkit_ext.evaluation.settings import batch_size_of
from toolkit_ext.experiments.settings import RunContext
from toolkit_ext.ranks import start
from toolkit_ext.results import Record
from toolkit_ext.trainers.state import digest

_FIELDS = tuple(Smoothing.__dataclass_fields__)


def certify_checkpoints(checkpoints: tuple[str, ...], context: RunContext, values: dict[str, Any]) -> None:
    """Certify the models ``checkpoints`` as one with the options ``values``; write the records and print the table."""
    ranks, device = start(check_device(context.device))
    smoothing, radii = Smoothing(**{name: values[name] for name in _FIELDS}), parse_radii(values["eps"])
    run_own_code(checkpoints, values["imports"])
    told = [describe(source) for source in checkpoints]
    dataset = load_parts(load_data(told, values["data_name"], context, values), 1, values["n_test"], context)
    values["batch_size"] = batch_size_of(values["batch_size"], dataset.x_test)
    model = ensemble(load_models(checkpoints, values, dataset, device))
    reading = [given] if (given := dataset.facts.get("reading")) else []
    key = digest(
        asdict(smoothing),
        [*checkpoints, *model.weights],
        [len(dataset.y_test), values["seed"], values["batch_size"]],
        dataset.name,
        *reading,
    )[:8]
    name = results.slug(f"{Path(checkpoints[0]).resolve().parent.name}-{model.name}-smoothing")[:100]
    found = certify(
        model.model,
        dataset.x_test,
        dataset.y_test,
        smoothing,
        seed=values["seed"],
        batch_size=values["batch_size"],
        state_dir=context.output / "certifications" / f"{name}-{key}",
        progress=context.progress,
        num_classes=dataset.num_classes,
        fresh=values["fresh"],
    )
    about = facts_of(model.tells, model.name, model.backbone, dataset)
    about["hyper_parameters"] = {**about["hyper_parameters"], "smoothing": asdict(smoothing)}
    details = {"data": dict(dataset.facts), **({"model": model.facts} if model.facts else {})}
    if len(radii) > 1:
        details["curve"] = {"id": key, "eps": radii}
    records = [_record(found, about, details, eps) for eps in radii]
    for record in records:
        path = ranks.first(lambda record=record: results.write_record(record, context.results / "runs"))  # type: ignore[misc]
        console.say(f"record: {path}")
    console.show_table(console.evaluation_table(records))
    console.show(
        f"abstained: {console.percent(records[0]['metrics']['abstained'])}%, average certified radius: "
        f"{records[0]['metrics']['certified_radius']:.3f}"
    )


def _record(found: Certificates, about: dict[str, Any], details: dict[str, Any], eps: float) -> Record:
    fields = found.to_record(eps)
    fields["details"] |= details
    return results.new_record(**about, **fields, times={"train_s": None, "eval_s": round(found.seconds, 3)})
