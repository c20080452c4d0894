"""``toolkit-ext table`` and ``toolkit-ext plot``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from toolkit_ext import console, results
from toolkit_ext.cli._options import _Words

_folder = click.Path(path_type=Path, file_okay=False)


def _aggregated(folder: Path, values: dict[str, Any]) -> Any:
    chosen = results.where(results.frame(results.read_records(folder / "runs")), values["where"])
    # Grouped by data set, norm and eps, as they are by default, runs are listed but not ranked against each other.
    mixed = values["allow_mixed"] or not (values["by"] or values["sort"])
    table = results.aggregate(chosen, values["by"] or None, allow_mixed=mixed)
    return results.sort(table, values["sort"]) if values["sort"] else table


@click.command("table")
@click.option("--results", "folder", type=_folder, default="results", show_default=True, help="folder of the records")
@click.option("--by", type=_Words(str), default=(), help="columns to group runs by; seeds are averaged over")
@click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE", help="only runs with this value (also !=, <, >, <=, >=)"
)
@click.option("--columns", type=_Words(str), default=(), help="columns to show")
@click.option("--sort", type=_Words(str), default=(), help="columns to sort by; -name for descending")
@click.option("--format", "form", default="markdown", show_default=True, help="csv, markdown or latex")
@click.option("--allow-mixed", is_flag=True, help="rank runs of different data sets, norms or eps together")
@click.option("--rebuild/--no-rebuild", default=True, show_default=True, help="write results/tables/*.csv anew")
def table_command(folder: Path, **values: Any) -> None:
    """Print the mean and standard deviation of the recorded runs, and rebuild every CSV from the records."""
    if values["rebuild"]:
        for path in results.rebuild(folder):
            console.say(f"table: {path}")
    table = _aggregated(folder, values)
    console.show(results.render(table, values["form"], list(values["columns"]) or None))


@click.command("plot")
@click.option("--results", "folder", type=_folder, default="results", show_default=True, help="folder of the records")
@click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE", help="only runs with this value (also !=, <, >, <=, >=)"
)
@click.option("--log", type=click.Path(path_type=Path, exists=True), help="plot the training in this log.csv instead")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="picture to write (.png, .svg or .pdf)")
def plot_command(folder: Path, where: tuple[str, ...], log: Path | None, out: Path) -> None:
    """Plot clean against robust accuracy of the recorded runs, or the course of one training."""
    if log:
        results.plot_training(log, out)
    else:
        table = results.where(results.frame(results.read_records(folder / "runs")), where)
        results.plot_clean_vs_robust(table, out)
    console.say(f"plot: {out}")
