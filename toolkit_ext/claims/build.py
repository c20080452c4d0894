"""Write the page of claims and its figures anew from the records."""

from __future__ import annotations

from pathlib import Path

from toolkit_ext.claims.figures import plot_group
from toolkit_ext.claims.load import load_groups
from toolkit_ext.claims.page import page
from toolkit_ext.claims.verdict import runs_by_scale
from toolkit_ext.io import atomic_write
from toolkit_ext.results import read_records

PAGE = "CLAIMS.md"


def build(recipes: Path | str, results: Path | str) -> list[Path]:
    """Write ``<results>/CLAIMS.md`` and ``<results>/figures/claims_*.png``; the same bytes for the same records.

    Records that cannot be read are left out with a :class:`~toolkit_ext.results.RecordWarning`. A group of which
    nothing was measured has no figure.

    Raises:
        UserError: no records, or scripts that define no claims.
    """
    folder = Path(results)
    groups, records = load_groups(recipes), read_records(folder / "runs")
    drawn = {
        group.name: plot_group(group, runs_by_scale(group, records), records, folder / "figures" / f"{group.tag}.png")
        for group in groups
    }
    made = {name: path for name, path in drawn.items() if path}
    return [atomic_write(folder / PAGE, page(groups, records, made)), *made.values()]
