"""The commands that read run records: ``toolkit-ext table``, ``plot``, ``compare``, ``report`` and ``claims``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pandas as pd
from rich.table import Table

from toolkit_ext import results
from toolkit_ext.cli import console
from toolkit_ext.cli.help import Command
from toolkit_ext.cli.options import FILE, FOLDER, CommaSeparated, data_root_option, results_option, where_option
from toolkit_ext.cli.ranking import chosen_columns, rankings
from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.io import atomic_write
from toolkit_ext.results import Record
from toolkit_ext.results.tables.compact import VARIANT, first_columns, ranking_of, with_variants
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


def _table(records: list[Record], values: dict[str, Any]) -> str | list[Table]:
    """The text of the table in ``--format``, or the tables to print on the screen."""
    form, named, everything = values["form"], list(values["columns"]), values["everything"]
    check_choice("--errors", values["errors"] or "pm", ERRORS)
    table, chosen = _means(records, values)
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


def _means(records: list[Record], values: dict[str, Any]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The means that the options ask for, and the runs behind them."""
    # A run without evaluation, such as an analysis of the landscape, has no values for a table.
    reported = results.reported(records)
    evaluated = [record for record in reported if record["metrics"]]
    chosen = results.where(results.frame(evaluated or reported), values["where"])
    # By default runs are grouped by data set, norm and eps, and not ranked against each other.
    mixed = values["allow_mixed"] or not (values["by"] or values["sort"])
    table = results.aggregate(chosen, values["by"] or None, allow_mixed=mixed)
    return (results.sort(table, values["sort"]) if values["sort"] else table), chosen


def _form_of(out: Path | None) -> str:
    return {".csv": "csv", ".tex": "latex"}.get(out.suffix.lower(), "markdown") if out else "screen"


def _export(folder: Path, run_id: str, out: Path | None) -> None:
    if out is None:
        raise UserError(f"--out: is missing; name the file for --robustbench {run_id}, such as model_info.json")
    from toolkit_ext.results.records.record import RANKED

    record = _record_named(folder, "--robustbench", run_id)
    method = METHODS.get(record["method"])
    written = results.write_model_info(record, out, method.paper if method else None)
    if record["data"]["name"] not in RANKED:
        console.say(f"note: RobustBench has leaderboards for {', '.join(RANKED)}, not for {record['data']['name']}")
    console.say(f"RobustBench model_info: {written}")


@click.command("table", cls=Command)
@results_option("folder")
@click.option("--by", type=CommaSeparated(str), default=(), help="columns to group runs by; seeds are averaged over")
@where_option
@click.option("--columns", type=CommaSeparated(str), default=(), help="columns to show instead of the usual ones")
@click.option("--all", "everything", is_flag=True, help="show every column")
@click.option("--sort", type=CommaSeparated(str), default=(), help="columns to sort by; -name for descending")
@click.option(
    "--format", "form", help="screen, markdown, latex or csv  [default: screen, or what the name of --out says]"
)
@click.option("--errors", help="deviations as pm (18.6 ± 1.2) or paren (18.6(12)), with the digits that they support")
@click.option("--caption", help="for latex: caption of the table  [default: what the numbers are]")
@click.option("--label", help="for latex: label of the table  [default: tab:robustness]")
@click.option("--allow-mixed", is_flag=True, help="rank runs of different data sets, norms or eps together")
@click.option("--rebuild/--no-rebuild", default=True, show_default=True, help="rebuild results/tables/*.csv")
@click.option(
    "--significance/--no-significance", default=True, show_default=True, help="mark means not clearly below the best"
)
@click.option("--robustbench", metavar="RUN_ID", help="write this run as a RobustBench model_info JSON instead")
@click.option("--out", type=FILE, help="file for --robustbench, or for the table instead of the screen")
def table_command(folder: Path, robustbench: str | None, out: Path | None, **values: Any) -> None:
    """Print the mean and standard deviation of the recorded runs, and rebuild every CSV from the records.

    The best mean is bold. With --significance, a paired bootstrap over test images and seeds tests the best mean
    against each other one. Means that it does not clearly beat, and those that cannot be tested, have a mark.
    """
    values["form"] = check_choice("--format", values["form"] or _form_of(out), ("screen", *FORMATS))
    if out and values["form"] == "screen":
        raise UserError(f"--format: screen is not for a file such as {out}; choose csv, markdown or latex")
    with skipped_records_shown():
        if robustbench:
            _export(folder, robustbench, out)
            return
        records = results.read_records(folder / "runs")
        if values["rebuild"]:
            written = results.rebuild(folder, records)
            console.say(f"table: {len(written)} files in {folder / 'tables'} rebuilt")
        shown = _table(records, values)
    if isinstance(shown, str) and out:
        console.say(f"table: {atomic_write(out, shown)}")
    elif isinstance(shown, str):
        console.show(shown)
    else:
        for number, table in enumerate(shown):
            console.show_table(table, gap=number > 0)


def _record_named(folder: Path, option: str, run_id: str) -> Record:
    """The record that ``option`` names, without reading any other."""
    check_choice(option, run_id, [path.stem for path in (folder / "runs").glob("*.json")])
    return results.read_record(folder / "runs" / f"{run_id}.json")


def _read(folder: Path, where: Sequence[str]) -> list[Record]:
    """The records in the results ``folder`` that match all conditions in ``where``."""
    with skipped_records_shown():
        records = results.read_records(folder / "runs")
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


KINDS: dict[str, Callable[..., Any]] = {
    "accuracy": lambda runs, out, **_: results.plot_clean_vs_robust(results.frame(runs), out),
    "curve": lambda runs, out, **_: results.plot_robustness(runs, out),
    "attacks": lambda runs, out, **_: results.plot_breakdown(runs, out),
    "matrix": lambda runs, out, run=None, **_: results.plot_matrix(one_of(runs, run), out),
    "training": lambda runs, out, run=None, **_: results.plot_training(results.training_log(one_of(runs, run)), out),
}


@click.command("plot", cls=Command)
@results_option("folder")
@where_option
@click.option(
    "--kind",
    default="accuracy",
    show_default=True,
    help="accuracy (clean against robust), curve (against eps), attacks (images each broke first), matrix (attacks by "
    "images of one run), training (curves of one run), examples (pictures of one run)",
)
@click.option("--run", metavar="RUN_ID", help="run to show, for figures of one run")
@click.option("--examples", type=FILE, help="for examples: the file that evaluate --save-examples wrote")
@data_root_option
@click.option("--log", type=click.Path(path_type=Path, exists=True), help="plot the training in this log.csv instead")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="picture to write (.png, .svg or .pdf)")
def plot_command(folder: Path, where: tuple[str, ...], log: Path | None, out: Path, **values: Any) -> None:
    """Plot recorded runs: accuracies, a robustness curve, images each attack broke, training curves, or pictures."""
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
        KINDS[kind](runs, out, run=values["run"])
    console.say(f"plot: {out}")


@click.command("compare", cls=Command)
@click.argument("first", metavar="RUN")
@click.argument("second", metavar="RUN")
@results_option("folder")
@click.option("--all-seeds", is_flag=True, help="with the recorded runs that differ in their seed alone")
def compare_command(first: str, second: str, folder: Path, all_seeds: bool) -> None:
    """Compare two runs on the same test images: second less first, with 90% intervals.

    RUN is a run_id, the path of a record, or a quoted pattern of either; commas separate the seeds of one setting.
    Intervals count seeds and images if each side has several seeds, else images alone. Runs on other images, or with
    another eps, norm or protocol, are refused.
    """
    from toolkit_ext.results.inference.compare import compare, find_runs

    found = compare(*(find_runs(text, folder / "runs", all_seeds=all_seeds) for text in (first, second)))
    console.show(f"{found.headline()}\n\n{found.table()}")


@click.command("report", cls=Command)
@results_option("folder")
@where_option
@click.option("--examples", type=FOLDER, help="folder of <run_id>.safetensors  [default: RESULTS/examples]")
@data_root_option
@click.option("--title", default="Robustness report", show_default=True, help="heading of the page")
@click.option("--out", type=FILE, default="report.html", show_default=True, help="page to write")
def report_command(
    folder: Path, where: tuple[str, ...], examples: Path | None, data_root: Path, title: str, out: Path
) -> None:
    """Write all runs to one HTML page that needs no network: a table to sort and filter, and under each row the run's
    curves, audit, pictures, hyper-parameters and command.

    Pictures come from the files <run_id>.safetensors that evaluate --save-examples writes.
    """
    from toolkit_ext.report import landscape_pictures, pictures, write_page

    kept = _read(folder, where)
    shown = pictures(kept, examples or folder / "examples", data_root) | landscape_pictures(kept, folder / "figures")
    console.say(f"report: {write_page(kept, out, shown, title)} ({len(kept)} runs, {len(shown)} with pictures)")


@click.command("claims", cls=Command)
@results_option("folder")
@click.option("--recipes", type=FOLDER, default="recipes/claims", show_default=True, help="folder of the claims")
def claims_command(folder: Path, recipes: Path) -> None:
    """Rebuild CLAIMS.md and its figures from the records: the sources' claims, our measurements, the verdicts.

    See docs/claims.md.
    """
    from toolkit_ext.claims.page import build  # with all that experiments need, which the other commands do not

    with skipped_records_shown():
        for path in build(recipes, folder):
            console.say(f"claims: {path}")
