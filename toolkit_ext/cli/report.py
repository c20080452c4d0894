"""``toolkit-ext report``."""

from __future__ import annotations

from pathlib import Path

import click

from toolkit_ext import results
from toolkit_ext.cli import console
from toolkit_ext.cli.tables import told_plainly
from toolkit_ext.report import landscape_pictures, pictures, write_page

_folder = click.Path(path_type=Path, file_okay=False)


@click.command("report")
@click.option("--results", "folder", type=_folder, default="results", show_default=True, help="folder of the records")
@click.option(
    "--where", multiple=True, metavar="COLUMN=VALUE", help="only runs with this value (also !=, <, >, <=, >=)"
)
@click.option("--examples", type=_folder, help="folder of <run_id>.safetensors  [default: examples in --results]")
@click.option(
    "--data-root", type=_folder, default="data", show_default=True, help="for the pictures: folder of the data"
)
@click.option("--title", default="Robustness report", show_default=True, help="heading of the page")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default="report.html",
    show_default=True,
    help="page to write",
)
def report_command(
    folder: Path, where: tuple[str, ...], examples: Path | None, data_root: Path, title: str, out: Path
) -> None:
    """Write every run to one HTML page that opens from disk without a network: a table to sort and filter, and under
    each row its curves, audit, pictures, hyper-parameters and command.

    Pictures are made of the files that evaluate --save-examples wrote as <run_id>.safetensors.
    """
    with told_plainly():
        records = results.read_records(folder / "runs")
        names = set(results.where(results.frame(records), where)["run_id"])
    kept = [record for record in records if record["run_id"] in names]
    shown = pictures(kept, examples or folder / "examples", data_root) | landscape_pictures(kept, folder / "figures")
    console.say(f"report: {write_page(kept, out, shown, title)} ({len(kept)} runs, {len(shown)} with pictures)")
