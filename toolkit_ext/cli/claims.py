"""``toolkit-ext claims``."""

from __future__ import annotations

from pathlib import Path

import click

from toolkit_ext.claims.page import build
from toolkit_ext.cli import console
from toolkit_ext.cli.tables import told_plainly

_folder = click.Path(path_type=Path, file_okay=False)


@click.command("claims")
@click.option("--results", type=_folder, default="results", show_default=True, help="folder of the records")
@click.option("--recipes", type=_folder, default="recipes/claims", show_default=True, help="folder of the claims")
def claims_command(results: Path, recipes: Path) -> None:
    """Write CLAIMS.md and its figures anew from the records: what the sources claim, what was measured, the verdicts.

    See docs/claims.md.
    """
    with told_plainly():
        for path in build(recipes, results):
            console.say(f"claims: {path}")
