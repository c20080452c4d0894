"""What ``toolkit-ext table``, ``plot``, ``compare``, ``report``, ``leaderboard`` and ``claims`` do."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from rich.table import Table

from toolkit_ext import results
from toolkit_ext.cli import console
from toolkit_ext.cli.jobs.ranking import chosen_columns, rankings
from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.io import atomic_write
from toolkit_ext.results import Record
from toolkit_ext.results.figures.scatter import plot_scatter
from toolkit_ext.results.records.record import without_garbage_collection
from toolkit_ext.results.records.robustbench import RANKED
from toolkit_ext.results.tables.compact import VARIANT, first_columns, ranking_of, with_variants
from toolkit_ext.results.tables.frames import Row, frame_of
from toolkit_ext.results.tables.frames import rows as table_rows
from toolkit_ext.results.tables.rendering import ERRORS, FORMATS, headline, metrics_of
from toolkit_ext.trainers.methods import METHODS


@contextmanager
def skipped_records_shown() -> Iterator[None]:
    """Print one line for each record that cannot be read, instead of Python's warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", results.RecordWarning)
        try:
            yield
        finally:
            for text in dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, results.RecordWarning)):
                console.say(f"warning: {text}")
    for warning in caught:
        if not issubclass(warning.category, results.RecordWarning):
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


@without_garbage_collection()
def table(folder: Path, robustbench: str | None, out: Path | None, values: dict[str, Any]) -> None:
    """Print or write a table with the options ``values``, or export the run ``robustbench``."""
    values["form"] = check_choice("--format", values["form"] or _form_of(out), ("screen", *FORMATS))
    if out and values["form"] == "screen":
        raise UserError(f"--format: screen is not for a file such as {out}; choose csv, markdown or latex")
    with skipped_records_shown():
        if robustbench:
            _export(folder, robustbench, out)
            return
        records = results.read_records(folder / "runs")
        rows = table_rows(records)
        if values["rebuild"]:
            written = results.rebuild(folder, records, rows)
            console.say(f"table: {len(written)} files in {folder / 'tables'} rebuilt")
        shown = _table(records, rows, values)
    if isinstance(shown, str) and out:
        console.say(f"table: {atomic_write(out, shown)}")
    elif isinstance(shown, str):
        console.show(shown)
    else:
        for number, one in enumerate(shown):
            console.show_table(one, gap=number > 0)


def _table(records: list[Record], rows: Mapping[str, Row], values: dict[str, Any]) -> str | list[Table]:
    """The text of the table in ``--format``, or the tables to print on the screen."""
    form, named, everything = values["form"], list(values["columns"]), values["everything"]
    check_choice("--errors", values["errors"] or "pm", ERRORS)
    table, chosen = _means(records, rows, values)
    ranked = form == "screen" and not named and not everything
    within = ranking_of(table) if ranked else None
    plainer = with_variants(table, within)  # for people: in CSV only if it is named
    shown = table if everything or (form == "csv" and VARIANT not in named) else plainer
    if not named and not everything and form in ("markdown", "latex"):
        named = first_columns(plainer)
    verdicts = None
    if values["significance"]:
        compared = headline(table) if ranked else None
        tested = [compared] if compared else [m for m in metrics_of(table) if not named or m in named]
        verdicts = results.vs_best(table, chosen, records, metrics=tested, within=within)
    if form != "screen" or everything:
        more = {name: values[name] for name in ("caption", "label") if form == "latex" and values[name]}
        form = "markdown" if form == "screen" else form
        return results.render(shown, form, named or None, verdicts, errors=values["errors"], **more)
    if named:
        return [chosen_columns(shown, named)]
    return list(rankings(shown, verdicts, values["errors"] or "pm", console.width(), ordered=bool(values["sort"])))


def _means(records: list[Record], rows: Mapping[str, Row], values: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The means that the options ask for, and the runs behind them."""
    # A run without evaluation, such as an analysis of the landscape, has no values for a table.
    reported = results.reported(records)
    evaluated = [record for record in reported if record["metrics"]]
    chosen = results.where(frame_of([rows[record["run_id"]] for record in evaluated or reported]), values["where"])
    # By default runs are grouped by data set, norm and eps, and not ranked against each other.
    mixed = values["allow_mixed"] or not (values["by"] or values["sort"])
    table = results.aggregate(chosen, values["by"] or None, allow_mixed=mixed)
    return (results.sort(table, values["sort"]) if values["sort"] else table), chosen


def _form_of(out: Path | None) -> str:
    return {".csv": "csv", ".tex": "latex"}.get(out.suffix.lower(), "markdown") if out else "screen"


def _export(folder: Path, run_id: str, out: Path | None) -> None:
    if out is None:
        raise UserError(f"--out: is missing; name the file for --robustbench {run_id}, such as model_info.json")
    record = _record_named(folder, "--robustbench", run_id)
    method = METHODS.get(record["method"])
    written = results.write_model_info(record, out, method.paper if method else None)
    if record["data"]["name"] not in RANKED:
        console.say(f"note: RobustBench has leaderboards for {', '.join(RANKED)}, not for {record['data']['name']}")
    console.say(f"RobustBench model_info: {written}")


def _record_named(folder: Path, option: str, run_id: str) -> Record:
    """The record that ``option`` names, without reading any other."""
    check_choice(option, run_id, [path.stem for path in (folder / "runs").glob("*.json")])
    return results.read_record(folder / "runs" / f"{run_id}.json")


def _read(folder: Path, where: Sequence[str]) -> list[Record]:
    """The records in the results ``folder`` that match all conditions in ``where``."""
    with skipped_records_shown():
        records = results.read_records(folder / "runs")
        if not where and records:
            return records
        names = set(results.where(results.frame(records), where)["run_id"])
    return [record for record in records if record["run_id"] in names]


def one_of(records: Sequence[Record], run_id: str | None, option: str = "--run") -> Record:
    """The record that ``option`` names, or the only record."""
    if run_id:
        check_choice(option, run_id, [record["run_id"] for record in records])
        return next(record for record in records if record["run_id"] == run_id)
    if len(records) != 1:
        names = ", ".join(record["run_id"] for record in records)
        raise UserError(f"--run: is missing; this figure shows one run of: {names}")
    return records[0]


def _accuracy(runs: list[Record], out: Path, values: dict[str, Any]) -> None:
    evaluated = [record for record in results.reported(runs) if record["metrics"]]
    axes = {name: values[name] for name in ("x", "y", "hue") if values.get(name)}
    _, left = plot_scatter(results.frame(evaluated or runs), out, **axes)
    if left:
        console.say(f"plot: {left}")


KINDS: dict[str, Callable[..., Any]] = {
    "accuracy": lambda runs, out, **more: _accuracy(runs, out, more),
    "curve": lambda runs, out, **_: results.plot_robustness(runs, out),
    "perturbations": lambda runs, out, **_: results.plot_perturbations(runs, out),
    "attacks": lambda runs, out, **_: results.plot_breakdown(runs, out),
    "matrix": lambda runs, out, run=None, **_: results.plot_matrix(one_of(runs, run), out),
    "training": lambda runs, out, run=None, **_: results.plot_training(results.training_log(one_of(runs, run)), out),
}


def plot(folder: Path, where: tuple[str, ...], log: Path | None, out: Path, values: dict[str, Any]) -> None:
    """Write a figure of the records that match ``where``, or of the training in ``log``."""
    kind = check_choice("--kind", values["kind"], [*KINDS, "examples"])
    if log:
        results.plot_training(log, out)
        console.say(f"plot: {out}")
        return
    alone = values["run"] and kind in ("examples", "matrix", "training") and not where
    runs = [_record_named(folder, "--run", values["run"])] if alone else _read(folder, where)
    if kind == "examples":
        if values["examples"] is None:
            raise UserError("--examples: is missing; name the file that evaluate --save-examples wrote")
        from toolkit_ext.report import load_pairs  # needs torch

        results.plot_pairs(load_pairs(one_of(runs, values["run"]), values["examples"], values["data_root"]), out)
    else:
        KINDS[kind](runs, out, **values)
    console.say(f"plot: {out}")


@without_garbage_collection()
def report(folder: Path, where: tuple[str, ...], examples: Path | None, data_root: Path, title: str, out: Path) -> None:
    """Write the page of the records that match ``where``."""
    from toolkit_ext.report import landscape_pictures, pictures, study_pictures, write_page

    kept = _read(folder, where)
    figures = folder / "figures"
    shown = pictures(kept, examples or folder / "examples", data_root)
    shown |= landscape_pictures(kept, figures) | study_pictures(kept, figures)
    console.say(f"report: {write_page(kept, out, shown, title)} ({len(kept)} runs, {len(shown)} with pictures)")


@without_garbage_collection()
def leaderboard(folder: Path, where: tuple[str, ...], title: str, out: Path) -> None:
    """Write the board of the records that match ``where``."""
    from toolkit_ext.report import write_board

    papers = {name: method.paper for name, method in METHODS.items()}
    console.say(f"leaderboard: {write_board(_read(folder, where), out, papers, title)}")


def export_entry(folder: Path, run: str, out: Path, name: str | None, additional_data: bool | None) -> None:
    """Write the run ``run``, a ``run_id`` or the path of a record, as an entry of RobustBench below ``out``."""
    named = run.endswith(".json")
    record = results.read_record(run) if named else _record_named(folder, "export_robustbench", run)
    method = METHODS.get(record["method"])
    paper = method.paper if method else None
    console.say(
        f"entry: {results.write_entry(record, out, paper, name=name, additional_data=additional_data)}; link, name, "
        "authors and venue are those of the method's paper: change them to what the model is known by"
    )
    if record["n_examples"] < record["data"]["test"]:
        console.say(f"note: RobustBench ranks figures on all test images; this one is on {record['n_examples']}")
