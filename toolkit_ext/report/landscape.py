"""The section of ``toolkit-ext landscape`` on the page: facts, figure and table of each analysis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolkit_ext.errors import UserError, check_file_name
from toolkit_ext.report.charts import address
from toolkit_ext.results import Record
from toolkit_ext.results.tables.formatting import budget

_MOST_LINES = 100  # longer tables, such as those of surfaces, are not shown


@dataclass(frozen=True)
class Panel:
    """One analysis or study; ``facts`` are pairs of name and value, ``columns`` and ``lines`` its table."""

    run_id: str
    heading: str
    command: str
    picture: str
    facts: list[list[str]]
    columns: list[str]
    lines: list[list[str]]


def is_landscape(record: Record) -> bool:
    """Whether the record is of a landscape analysis, which has no accuracy to rank."""
    return "landscape" in record["details"]


def panels(records: Iterable[Record], pictures: Mapping[str, str]) -> list[Panel]:
    """A panel per landscape record; ``pictures`` by ``run_id``."""
    return [_panel(record, pictures.get(record["run_id"], "")) for record in records if is_landscape(record)]


def _panel(record: Record, picture: str) -> Panel:
    found = _well_formed(record)
    settings, table = found["settings"], found["table"]
    lines = [[text_of(value) for value in line] for line in zip(*table.values(), strict=True)]
    attack = settings["attack"]
    heading = f"{settings['what']}: {record['method']} on {record['data']['name']}, {record['backbone']['name']}"
    about = {name: value for name, value in settings.items() if name not in ("what", "attack", "name")}
    about = {"attack": f"PGD-{attack['steps']}, {attack['norm']} eps {budget(attack['eps'])}"} | about
    facts = [[name.replace("_", " "), text_of(value)] for name, value in {**found["facts"], **about}.items()]
    shown = lines if len(lines) <= _MOST_LINES else []
    return Panel(record["run_id"], heading, record["command"], picture, facts, list(table), shown)


def text_of(value: Any) -> str:
    """A value of JSON in a cell."""
    if isinstance(value, float):
        return f"{value:.5g}"
    return ", ".join(map(text_of, value)) if isinstance(value, list) else "" if value is None else str(value)


def landscape_pictures(records: Iterable[Record], folder: Path) -> dict[str, str]:
    """The figure ``<folder>/<name>.png`` of each analysis as a ``data:`` URI, by ``run_id``."""
    found = {}
    for record in filter(is_landscape, records):
        run_id, name = record["run_id"], _well_formed(record)["settings"].get("name")
        option = f"record {run_id}: landscape.settings.name"
        if name is not None and (file := folder / f"{check_file_name(option, name)}.png").is_file():
            found[run_id] = address(file.read_bytes())
    return found


def _well_formed(record: Record) -> dict[str, Any]:
    """``details.landscape``, which the schema of records does not check."""
    about: dict[str, Any] = record["details"]["landscape"]
    parts: list[Any] = [about.get(n) if isinstance(about, dict) else None for n in ("settings", "facts", "table")]
    sound = all(isinstance(part, dict) for part in parts) and isinstance(parts[0].get("attack"), dict)
    lengths = {len(column) if isinstance(column, list) else -1 for column in parts[2].values()} if sound else {-1}
    if len(lengths) > 1 or -1 in lengths:
        raise UserError(f"record {record['run_id']}: details.landscape is not what an analysis writes")
    return about
