"""The section of ``toolkit-ext tune`` on the page: the history of each study and its recorded trials."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from toolkit_ext.report.charts import address
from toolkit_ext.report.landscape import Panel, text_of
from toolkit_ext.results import Record, label
from toolkit_ext.results.figures.curves import history
from toolkit_ext.results.figures.studies import study_figure
from toolkit_ext.results.tables.formatting import concise


def study_panels(records: Iterable[Record], pictures: Mapping[str, str]) -> list[Panel]:
    """A panel per study that records name; ``pictures`` as from :func:`study_pictures`."""
    return [_panel(name, runs, pictures.get(_key(name), "")) for name, runs in sorted(_studies(records).items())]


def study_pictures(records: Iterable[Record], folder: Path) -> dict[str, str]:
    """The figure of each study in ``folder`` as a ``data:`` URI, by a key that is no ``run_id``."""
    files = {name: folder / study_figure(name) for name in _studies(records)}
    return {_key(name): address(file.read_bytes()) for name, file in files.items() if file.is_file()}


def _key(name: str) -> str:
    return f"study:{name}"


def _studies(records: Iterable[Record]) -> dict[str, list[Record]]:
    found: dict[str, list[Record]] = {}
    for record in records:
        if study := record["details"].get("study"):
            found.setdefault(study["name"], []).append(record)
    return found


def _panel(name: str, runs: Sequence[Record], picture: str) -> Panel:
    ordered = sorted(runs, key=lambda record: (-_judged(record), record["details"]["study"]["trial"]))
    best, metrics = ordered[0], [name for name in ("clean_acc", "aa_acc") if all(name in r["metrics"] for r in runs)]
    varied = [key for key in best["hyper_parameters"] if len({str(r["hyper_parameters"].get(key)) for r in runs}) > 1]
    columns = ["trial", "validation robust", *map(label, metrics), *varied, "run"]
    lines = [
        [
            str(record["details"]["study"]["trial"]),
            concise(100 * _judged(record)),
            *(concise(100 * record["metrics"][metric]) for metric in metrics),
            *(text_of(record["hyper_parameters"].get(key)) for key in varied),
            record["run_id"],
        ]
        for record in ordered
    ]
    facts = [["method", best["method"]], ["data", best["data"]["name"]], ["recorded trials", str(len(runs))]]
    heading = f"{name}: {best['method']} on {best['data']['name']}, best trial {lines[0][0]}"
    return Panel(f"study-{name}", heading, best["command"], picture, facts, columns, lines)


def _judged(record: Record) -> float:
    """The best validation robust accuracy of the training, which chose among the trials; -1 if it is not known."""
    values = [row.get("val_robust_acc") for row in history(record)]
    return max((value for value in values if value is not None), default=-1.0)
