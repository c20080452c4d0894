"""The commands that read records: ``table``, ``plot``, ``compare``, ``report``, ``leaderboard`` and ``claims``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit_ext.cli import console
from toolkit_ext.cli.help import Command
from toolkit_ext.cli.options import FILE, FOLDER, CommaSeparated, data_root_option, results_option, where_option
from toolkit_ext.errors import UserError


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
    from toolkit_ext.cli.jobs.records import table

    table(folder, robustbench, out, values)


@click.command("plot", cls=Command)
@results_option("folder")
@where_option
@click.option(
    "--kind",
    default="accuracy",
    show_default=True,
    help="accuracy (clean against robust), curve (against eps), perturbations (images broken within each eps), "
    "attacks (images each broke first), matrix (attacks by images of one run), training (curves of one run), examples "
    "(pictures of one run)",
)
@click.option("--x", help="for accuracy: the horizontal axis, such as clean_acc or train_s  [default: clean_acc]")
@click.option("--y", help="for accuracy: the vertical axis  [default: aa_acc]")
@click.option("--hue", help="for accuracy: the column that colours the points  [default: method]")
@click.option("--run", metavar="RUN_ID", help="run to show, for figures of one run")
@click.option("--examples", type=FILE, help="for examples: the file that evaluate --save-examples wrote")
@data_root_option
@click.option("--log", type=click.Path(path_type=Path, exists=True), help="plot the training in this log.csv instead")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="picture to write (.png, .svg or .pdf)")
def plot_command(folder: Path, where: tuple[str, ...], log: Path | None, out: Path, **values: Any) -> None:
    """Plot recorded runs: accuracies, a robustness curve, images each attack broke, training curves, or pictures."""
    from toolkit_ext.cli.jobs.records import plot

    plot(folder, where, log, out, values)


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
    from toolkit_ext.cli.jobs.records import report

    report(folder, where, examples, data_root, title, out)


@click.command("leaderboard", cls=Command)
@results_option("folder")
@where_option
@click.option("--title", default="Leaderboard", show_default=True, help="heading of the page")
@click.option("--out", type=click.Path(path_type=Path), help="page to write  [default: leaderboard.html]")
@click.option(
    "--export-robustbench",
    metavar="RUN",
    help="write this run, a run_id or the path of a record, as an entry of RobustBench instead; --out is its folder "
    "model_info",
)
@click.option("--name", help="for the entry: its name  [default: author, year and first word of the method's paper]")
@click.option(
    "--additional-data/--no-additional-data", default=None, help="for the entry: whether more data was trained on"
)
def leaderboard_command(
    folder: Path,
    where: tuple[str, ...],
    title: str,
    out: Path | None,
    export_robustbench: str | None,
    name: str | None,
    additional_data: bool | None,
) -> None:
    """Write one HTML page that ranks the evaluated runs by data set and threat, with intervals, costs and filters.

    The page needs no network and no other file. --export-robustbench writes a run as a file for RobustBench.
    """
    from toolkit_ext.cli.jobs.records import export_entry, leaderboard

    if export_robustbench:
        export_entry(folder, export_robustbench, out or Path("model_info"), name, additional_data)
        return
    for option, given in (("name", name), ("additional_data", additional_data)):
        if given is not None:
            raise UserError(f"{option}: has no effect without --export-robustbench")
    leaderboard(folder, where, title, out or Path("leaderboard.html"))


@click.command("claims", cls=Command)
@results_option("folder")
@click.option("--recipes", type=FOLDER, default="recipes/claims", show_default=True, help="folder of the claims")
def claims_command(folder: Path, recipes: Path) -> None:
    """Rebuild CLAIMS.md and its figures from the records: the sources' claims, our measurements, the verdicts.

    See docs/claims.md.
    """
    from toolkit_ext.claims.page import build  # with all that experiments need, which the other commands do not
    from toolkit_ext.cli.jobs.records import skipped_records_shown

    with skipped_records_shown():
        for path in build(recipes, folder):
            console.say(f"claims: {path}")
