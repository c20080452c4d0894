"""The commands that read run records: ``toolkit-ext table``, ``plot``, ``compare``, ``report`` and ``claims``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from toolkit_ext import results
from toolkit_ext.cli import console
from toolkit_ext.cli.help import Command
from toolkit_ext.cli.options import FILE, FOLDER, CommaSeparated, data_root_option, results_option, where_option
from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.io import atomic_write
from toolkit_ext.results import Record
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


def _table(records: list[Record], values: dict[str, Any]) -> str:
    # A run without evaluation, such as an analysis of the landscape, has no values for a table.
    reported = results.reported(records)
    evaluated = [record for record in reported if record["metrics"]]
    chosen = results.where(results.frame(evaluated or reported), values["where"])
    # By default runs are grouped by data set, norm and eps, and not ranked against each other.
    mixed = values["allow_mixed"] or not (values["by"] or values["sort"])
    table = results.aggregate(chosen, values["by"] or None, allow_mixed=mixed)
    table = results.sort(table, values["sort"]) if values["sort"] else table
    verdicts = results.vs_best(table, chosen, records) if values["significance"] else None
    return results.render(table, values["form"], list(values["columns"]) or None, verdicts)


def _export(records: Sequence[Record], run_id: str, out: Path | None) -> None:
    if out is None:
        raise UserError(f"--out: is missing; name the file for --robustbench {run_id}, such as model_info.json")
    from toolkit_ext.results.records.record import RANKED

    record = one_of(records, run_id, "--robustbench")
    method = METHODS.get(record["method"])
    written = results.write_model_info(record, out, method.paper if method else None)
    if record["data"]["name"] not in RANKED:
        console.say(f"note: RobustBench has leaderboards for {', '.join(RANKED)}, not for {record['data']['name']}")
    console.say(f"RobustBench model_info: {written}")


@click.command("table", cls=Command)
@results_option("folder")
@click.option("--by", type=CommaSeparated(str), default=(), help="columns to group runs by; seeds are averaged over")
@where_option
@click.option("--columns", type=CommaSeparated(str), default=(), help="columns to show")
@click.option("--sort", type=CommaSeparated(str), default=(), help="columns to sort by; -name for descending")
@click.option("--format", "form", default="markdown", show_default=True, help="csv, markdown or latex")
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
    with skipped_records_shown():
        records = results.read_records(folder / "runs")
        if robustbench:
            _export(records, robustbench, out)
            return
        if values["rebuild"]:
            for path in results.rebuild(folder):
                console.say(f"table: {path}")
        text = _table(records, values)
    if out:
        console.say(f"table: {atomic_write(out, text)}")
    else:
        console.show(text)


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
    runs = _read(folder, where)
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
