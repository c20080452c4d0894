"""What ``toolkit-ext landscape`` does."""

from __future__ import annotations

import time
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from torch import nn

from toolkit_ext import data, results
from toolkit_ext.attacks import PGD
from toolkit_ext.backbones.own_code import is_own_code
from toolkit_ext.cli import console
from toolkit_ext.cli.jobs.models import facts_of, load_data, load_models, load_parts, run_own_code
from toolkit_ext.devices import check_device
from toolkit_ext.errors import UserError, check_file_name
from toolkit_ext.evaluation import Loaded
from toolkit_ext.evaluation.loading.checks import check_model
from toolkit_ext.evaluation.loading.door import through_the_door
from toolkit_ext.evaluation.loading.models import describe
from toolkit_ext.evaluation.settings import batch_size_of
from toolkit_ext.experiments.settings import RunContext
from toolkit_ext.landscape import batch_gradients, diagnostics, training_diagnostics
from toolkit_ext.landscape.directions import check_same_architecture
from toolkit_ext.landscape.options import Options, used_options
from toolkit_ext.landscape.study import STUDIES
from toolkit_ext.landscape.subject import Study, Subject

_LONGEST_NAME = 120  # of a table, before what further tables of the analysis add


def analyse(checkpoints: tuple[str, ...], what: str, context: RunContext, values: dict[str, Any]) -> None:
    """Analyse the models in the folders ``checkpoints``; write the record, the table and the figure."""
    usual = results.slug(f"landscape_{what}_{'_'.join(_title(path) for path in checkpoints)}").rstrip(".")
    name = results.check_name("name", check_file_name("name", values["name"] or usual, most=_LONGEST_NAME))
    if what == "training":
        _compare_trainings({_title(path): Path(path) for path in checkpoints}, context, name)
        return
    options = Options(**{entry.name: values[entry.name] for entry in fields(Options)})
    started, began = results.environment(), time.perf_counter()
    subject, about = _subject(checkpoints, values, context, name)
    study = STUDIES[what](subject, options)
    seconds = time.perf_counter() - began
    for fact, value in study.facts.items():
        console.show(f"{fact}: {value}")
    console.show(study.table.to_string(index=False, float_format="{:.5g}".format, max_rows=40))
    _write(study, context, name)
    if study.picture is None:
        console.say("points of other ranks are missing; the record and the figure are made when all are there")
        return
    record = _record(about, subject, {"name": name, **used_options(what, options)}, study, seconds, started, what)
    console.say(f"record: {results.write_record(record, context.results / 'runs')}")


def _compare_trainings(runs: dict[str, Path], context: RunContext, name: str) -> None:
    table, gradients = training_diagnostics(runs), batch_gradients(runs)
    _write(Study(table, picture=lambda path: diagnostics.plot_diagnostics(table, path)), context, name)
    if len(gradients):
        study = Study(gradients, picture=lambda path: diagnostics.plot_gradients(gradients, path))
        _write(study, context, f"{name}_gradients")


def _title(source: str) -> str:
    """A short name: the folder of the run if the checkpoint is ``best`` or ``last``, else that of the checkpoint."""
    if is_own_code(source) or ":" in source:
        return Path(source).name
    path = Path(source).resolve()
    if path.is_file():
        return path.parent.name
    return path.parent.name if path.name in ("best", "last") else path.name


def _subject(
    checkpoints: tuple[str, ...], values: dict[str, Any], context: RunContext, name: str
) -> tuple[Subject, dict[str, Any]]:
    """Models, data and attack, and the facts of the record."""
    device = check_device(context.device)
    run_own_code(checkpoints, values["imports"])
    told = describe(checkpoints[0])
    opened = load_data([told], values["data_name"], context, values)
    dataset = load_parts(opened, values["n"], values["n_test"], context)
    loaded = load_models(checkpoints, values, dataset, device)
    models = [_differentiable(one, dataset) for one in loaded]
    check_same_architecture(*models)
    about = facts_of(told, _title(checkpoints[0]), loaded[0].backbone, opened)
    attack = _attack(told.get("hyper_parameters", {}), values)
    batch_size = batch_size_of(values["batch_size"], dataset.x_train)
    subject = Subject(
        models, attack, dataset.x_train, dataset.y_train, dataset.x_test, dataset.y_test,
        context.output / "landscape" / name, batch_size, values["seed"], context.progress,
    )  # fmt: skip
    return subject, about


def _differentiable(loaded: Loaded, dataset: data.Dataset) -> nn.Module:
    """The model of ``loaded`` behind its door, if it has weights with a gradient."""
    weight = next(loaded.model.parameters(), None)
    if weight is None:
        raise UserError(f"checkpoint {loaded.name}: has no weights, like frozen TorchScript; a landscape needs them")
    image = data.to_unit(dataset.x_test[:1]).to(weight.device)
    model = through_the_door(loaded.model, image)
    check_model(model, image, dataset.num_classes)
    return model


def _attack(trained: dict[str, Any], values: dict[str, Any]) -> PGD:
    """PGD at the given budget, or else at that of the training."""
    eps = trained.get("eps", 8 / 255) if values["eps"] is None else values["eps"]
    norm = values["norm"] or trained.get("norm", "Linf")
    return PGD(eps=eps, alpha=values["alpha"], steps=values["steps"], norm=norm)


def _write(study: Study, context: RunContext, name: str) -> None:
    for suffix, table in (("", study.table), *((f"_{key}", table) for key, table in study.further.items())):
        console.say(f"table: {results.write_table(name + suffix, table, context.results / 'tables')}")
    if study.picture is not None:
        console.say(f"figure: {study.picture(context.results / 'figures' / f'{name}.png')}")


def _record(
    about: dict[str, Any],
    subject: Subject,
    options: dict[str, Any],
    study: Study,
    seconds: float,
    started: results.Environment,
    what: str,
) -> results.Record:
    attack = subject.attack
    settings = {"what": what, "attack": {name: getattr(attack, name) for name in ("eps", "norm", "alpha", "steps")}}
    sizes = {"examples": len(subject.y), "test_examples": len(subject.y_test), "batch_size": subject.batch_size}
    # JSON has no NaN: the cosine of perturbations that are all zero is null.
    table = study.table.astype(object).where(study.table.notna(), None).to_dict(orient="list")
    found = {**settings, **sizes, "seed": subject.seed, "torch_threads": torch.get_num_threads(), **options}
    return results.new_record(
        **{**about, "hyper_parameters": {**about["hyper_parameters"], "landscape": what}},
        details={"landscape": {"settings": found, "facts": dict(study.facts), "table": table}},
        times={"train_s": None, "eval_s": seconds},
        started=started,
    )
