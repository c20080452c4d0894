"""``toolkit-ext leaderboard``: one small page that ranks models by threat, with filters that need no network."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit_ext.errors import UserError
from toolkit_ext.io import atomic_write
from toolkit_ext.report.page import environment, template
from toolkit_ext.report.rankings import Place, Ranking, passes, rankings
from toolkit_ext.results import Record, label
from toolkit_ext.results.tables.formatting import budget, duration, rounded
from toolkit_ext.types import Paper

FILTERS = {"data": "data set", "threat": "threat", "backbone": "backbone", "method": "method"}


@dataclass(frozen=True)
class Cell:
    """The text of a cell and the number it is sorted by; NaN stands last."""

    text: str = ""
    order: float = math.nan


@dataclass(frozen=True)
class Line:
    """A row of the board: a ranked setting, the ``facts`` it is filtered by, and further ``cells``."""

    place: Place
    facts: dict[str, str]
    paper: Paper | None
    robust: Cell
    interval: str
    cells: list[Cell]


@dataclass(frozen=True)
class Section:
    """The lines of one data set, threat and number of test images; ``headings`` are those of their cells."""

    title: str
    metric: str
    headings: list[str]
    lines: list[Line]


def board(records: Sequence[Record], papers: Mapping[str, Paper] | None = None, title: str = "Leaderboard") -> str:
    """The reproducible HTML of the board.

    Args:
        records: Runs; tuning runs and runs without evaluation are left out.
        papers: The paper of each method.
        title: Heading and title of the page.

    Raises:
        UserError: no run was evaluated.
    """
    sections = board_sections(records, papers or {})
    if not sections:
        raise UserError("results: there are no evaluated runs for a leaderboard")
    lines = [line for section in sections for line in section.lines]
    values = {name: list(dict.fromkeys(line.facts[name] for line in lines)) for name in FILTERS}
    return (
        environment()
        .get_template("board.html.j2")
        .render(
            title=title,
            sections=sections,
            filters={name: sorted(found) if name != "threat" else found for name, found in values.items()},
            names=FILTERS,
            runs=sum(len(line.place.runs) for line in lines),
            style=template("report.css") + template("board.css"),
            script=template("board.js"),
        )
    )


def write_board(records: Sequence[Record], path: Path | str, papers: Mapping[str, Paper], title: str) -> Path:
    """Write :func:`board` atomically to ``path``."""
    return atomic_write(Path(path), board(records, papers, title))


def board_sections(records: Sequence[Record], papers: Mapping[str, Paper]) -> list[Section]:
    """A section for each :func:`.rankings` of ``records``."""
    known = {record["run_id"]: record for record in records}
    return [_section(ranking, known, papers) for ranking in rankings(records)]


def _section(ranking: Ranking, known: Mapping[str, Record], papers: Mapping[str, Paper]) -> Section:
    lines = []
    for place in ranking.places:
        runs = [known[name] for name in place.runs]
        first, protocol = runs[0], runs[0]["protocol"]
        assert protocol is not None  # a ranked run was evaluated
        facts = {
            "data": first["data"]["name"],
            "threat": f"{protocol['norm']}, eps {budget(protocol['eps'])}",
            "backbone": first["backbone"]["name"],
            "method": first["method"],
        }
        interval = f"{place.low:.1f} to {place.high:.1f}" if place.high >= 0 else ""
        robust = Cell(place.text, place.value if place.value >= 0 else math.nan)
        lines.append(Line(place, facts, papers.get(first["method"]), robust, interval, _cells(runs)))
    headings = [label("clean_acc"), "parameters", "training", "passes"]
    shown = [index for index in range(len(headings)) if any(line.cells[index].text for line in lines)]
    kept = [Line(**{**vars(line), "cells": [line.cells[index] for index in shown]}) for line in lines]
    return Section(ranking.title, ranking.metric, [headings[index] for index in shown], kept)


def _cells(runs: Sequence[Record]) -> list[Cell]:
    """Clean accuracy, weights, time of training, and passes of each training image."""
    counts = {passes(record) for record in runs}
    known = counts.pop() if len(counts) == 1 else None
    return [
        _mean_accuracy([record["metrics"].get("clean_acc") for record in runs]),
        Cell(f"{runs[0]['backbone']['parameters']:,}", float(runs[0]["backbone"]["parameters"])),
        _mean_time([record["times"]["train_s"] for record in runs]),
        Cell() if known is None else Cell(f"{known:g}", known),
    ]


def _mean_accuracy(values: Sequence[float | None]) -> Cell:
    known = [100 * value for value in values if value is not None]
    if not known:
        return Cell()
    mean = math.fsum(known) / len(known)
    spread = math.sqrt(math.fsum((v - mean) ** 2 for v in known) / (len(known) - 1)) if len(known) > 1 else math.nan
    return Cell(rounded(mean, spread), mean)


def _mean_time(values: Sequence[float | None]) -> Cell:
    known = [value for value in values if value]
    return Cell(duration(math.fsum(known) / len(known)), math.fsum(known) / len(known)) if known else Cell()
