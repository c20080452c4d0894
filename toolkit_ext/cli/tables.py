"""``toolkit-ext table`` and ``toolkit-ext plot``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from toolkit_ext import results
from toolkit_ext.cli import console
from toolkit_ext.cli.options import CommaSeparated
from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.io import atomic_write
from toolkit_ext.report import load_pairs
from toolkit_ext.results import Record
from toolkit_ext.results.records.record import RANKED
from toolkit_ext.trainers import TRAINERS

_folder = click.Path(path_type=Path, file_okay=False)
_file = click.Path(path_type=Path, dir_okay=False)


@contextmanager
def told_plainly() -> Iterator[None]:
    """Tell each record that is left out in one line, once."""
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
    # A run that was not evaluated, such as an analysis of the landscape, has nothing to put into a table.
    reported = results.reported(records)
    evaluated = [record for record in reported if record["metrics"]]
    chosen = results.where(results.frame(evaluated or reported), values["where"])
    # Grouped by data set, norm and eps, as they are by default, runs are listed but not ranked against each other.
    mixed = values["allow_mixed"] or not (values["by"] or values["sort"])
    table = results.aggregate(chosen, values["by"] or None, allow_mixed=mixed)
    table = results.sort(table, values["sort"]) if values["sort"] else table
    verdicts = results.vs_best(table, chosen, records) if values["significance"] else None
    return results.render(table, values["form"], list(values["columns"]) or None, verdicts)


def _run(records: Sequence[Record], run_id: str, option: str) -> Record:
    check_choice(option, run_id, [record["run_id"] for record in records])
    return next(record for record in records if record["run_id"] == run_id)


def _export(records: Sequence[Record], run_id: str, out: Path | None) -> None:
    if out is None:
        raise UserError(f"--out: is missing; name the file for --robustbench {run_id}, such as model_info.json")
    record = _run(records, run_id, "--robustbench")
    trainer = TRAINERS.get(record["method"])
    written = results.write_model_info(record, out, trainer.method.paper if trainer else None)
    if record["data"]["name"] not in RANKED:
        console.say(f"note: RobustBench has leaderboards for {', '.join(RANKED)}, not for {record['data']['name']}")
    console.say(f"RobustBench model_info: {written}")


@click.command("table")
@click.option("--results", "folder", type=_folder, default="results", show_default=True, help="folder of the records")
@click.option("--by", type=CommaSeparated(str), default=(), help="columns to group runs by; seeds are averaged over")
@click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE", help="only runs with this value (also !=, <, >, <=, >=)"
)
@click.option("--columns", type=CommaSeparated(str), default=(), help="columns to show")
@click.option("--sort", type=CommaSeparated(str), default=(), help="columns to sort by; -name for descending")
@click.option("--format", "form", default="markdown", show_default=True, help="csv, markdown or latex")
@click.option("--allow-mixed", is_flag=True, help="rank runs of different data sets, norms or eps together")
@click.option("--rebuild/--no-rebuild", default=True, show_default=True, help="write results/tables/*.csv anew")
@click.option(
    "--significance/--no-significance", default=True, show_default=True, help="mark what the best does not clearly beat"
)
@click.option("--robustbench", metavar="RUN_ID", help="write this run as a RobustBench model_info JSON instead")
@click.option("--out", type=_file, help="file for --robustbench, or for the table instead of the screen")
def table_command(folder: Path, robustbench: str | None, out: Path | None, **values: Any) -> None:
    """Print the mean and standard deviation of the recorded runs, and rebuild every CSV from the records.

    The best is bold. With --significance a paired bootstrap over test images and seeds says which means the best does
    not clearly beat: they bear a mark, and so do those that cannot be tested.
    """
    with told_plainly():
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


def _kept(records: Sequence[Record], where: Sequence[str]) -> list[Record]:
    names = set(results.where(results.frame(records), where)["run_id"])
    return [record for record in records if record["run_id"] in names]


def one_of(records: Sequence[Record], run_id: str | None) -> Record:
    """The record named by ``--run``, or the only one there is."""
    if run_id:
        return _run(records, run_id, "--run")
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


@click.command("plot")
@click.option("--results", "folder", type=_folder, default="results", show_default=True, help="folder of the records")
@click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE", help="only runs with this value (also !=, <, >, <=, >=)"
)
@click.option(
    "--kind",
    default="accuracy",
    show_default=True,
    help="accuracy (clean against robust), curve (against eps), attacks (what each broke first), matrix (attacks by "
    "images of one run), training (the course of one run), examples (pictures of one run)",
)
@click.option("--run", metavar="RUN_ID", help="the run of a figure that shows one")
@click.option("--examples", type=_file, help="for examples: the file that evaluate --save-examples wrote")
@click.option("--data-root", type=_folder, default="data", show_default=True, help="for examples: folder of the data")
@click.option("--log", type=click.Path(path_type=Path, exists=True), help="plot the training in this log.csv instead")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="picture to write (.png, .svg or .pdf)")
def plot_command(folder: Path, where: tuple[str, ...], log: Path | None, out: Path, **values: Any) -> None:
    """Plot the recorded runs: accuracies, a robustness curve, what broke which image, a training, or pictures."""
    kind = check_choice("--kind", values["kind"], [*KINDS, "examples"])
    if log:
        results.plot_training(log, out)
        console.say(f"plot: {out}")
        return
    with told_plainly():
        runs = _kept(results.read_records(folder / "runs"), where)
    if kind == "examples":
        if values["examples"] is None:
            raise UserError("--examples: is missing; name the file that evaluate --save-examples wrote")
        results.plot_pairs(load_pairs(one_of(runs, values["run"]), values["examples"], values["data_root"]), out)
    else:
        KINDS[kind](runs, out, run=values["run"])
    console.say(f"plot: {out}")
