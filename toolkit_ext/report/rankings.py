"""What the page opens with: for each data set and budget the methods by robust accuracy, and what they cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from toolkit_ext.results import Record, aggregate, frame, label, members, reported, vs_best
from toolkit_ext.results.tables.compact import VARIANT, first_columns, ranking_of, with_variants
from toolkit_ext.results.tables.formatting import budget, rounded
from toolkit_ext.results.tables.frames import missing
from toolkit_ext.results.tables.rendering import best, blocks, headline, metrics_of

WORDS = {"best": "best", "tied": "not significantly worse", "worse": "worse", "untested": "untested"}


@dataclass(frozen=True)
class Place:
    """A row of a ranking: runs that differ in their seed alone. ``low`` and ``high`` end the whisker, in percent."""

    name: str
    variant: str
    value: float
    low: float
    high: float
    text: str
    verdict: str
    cells: list[str]
    runs: list[str]


@dataclass(frozen=True)
class Ranking:
    """The rows of one data set, budget and number of test images; ``columns`` are the headings of their ``cells``."""

    title: str
    metric: str
    answer: str
    columns: list[str]
    places: list[Place]
    total: int


def rankings(records: Sequence[Record]) -> list[Ranking]:
    """A ranking for each data set, budget and number of test images of the :func:`reported` runs with metrics."""
    evaluated = [record for record in reported(records) if record["metrics"]]
    if not evaluated:
        return []
    runs = frame(evaluated)
    means = aggregate(runs, allow_mixed=True)
    groups = ranking_of(means)
    tested = list(dict.fromkeys(m for _, rows in means.groupby(groups) if (m := headline(rows))))
    verdicts = vs_best(means, runs, evaluated, metrics=tested, within=groups)
    of_row = dict(zip(means.index, members(runs, means), strict=True))
    known, winners = {record["run_id"]: record for record in evaluated}, best(means, groups)
    table = with_variants(means, groups)
    made = []
    for _, rows in table.groupby([blocks(table), -table["n_examples"]]):
        if metric := headline(rows):
            ordered = rows.sort_values(metric, ascending=metric.endswith("_err"), kind="stable", na_position="last")
            words = {place: WORDS.get(verdicts.loc[place, metric], "") for place in ordered.index}
            behind = {place: [known[name] for name in of_row[place]] for place in ordered.index}
            made.append(_ranking(ordered, metric, words, behind, winners))
    return made


def _ranking(
    rows: pd.DataFrame, metric: str, words: Mapping[Any, str], behind: Mapping[Any, list[Record]], winners: pd.DataFrame
) -> Ranking:
    # What few rows have stands under their runs.
    common = [name for name in metrics_of(rows) if 3 * rows[name].notna().sum() > len(rows)]
    others = [name for name in first_columns(rows) if name in common and name != metric]
    costs = {place: _costs(runs) for place, runs in behind.items()}
    shown = [index for index in range(2) if any(cost[index] for cost in costs.values())]
    places = []
    for place, row in rows.iterrows():
        cells = [_text(row, name) for name in others] + [costs[place][index] for index in shown]
        low, high = _whisker(row, metric)
        runs = [record["run_id"] for record in behind[place]]
        value = -1.0 if missing(row[metric]) else 100 * row[metric]
        told = (row["method"], row[VARIANT], value, low, high, _text(row, metric), words[place], cells, runs)
        places.append(Place(*told))
    columns = [*map(label, others), *(("training s", "passes")[index] for index in shown)]
    total = sum(len(place.runs) for place in places)
    return Ranking(_title(rows.iloc[0]), label(metric), _answer(places, metric), columns, places, total)


def _title(row: pd.Series[Any]) -> str:
    version = row.get("version")
    words = [row["data"], f"{row['norm']}, eps {budget(row['eps'])}", f"{row['n_examples']} test images"]
    return " · ".join([*words, *([] if missing(version) or version == "standard" else [f"AutoAttack {version}"])])


def _answer(places: Sequence[Place], metric: str) -> str:
    first = " ".join(filter(None, [places[0].name, f"({places[0].variant})" if places[0].variant else ""]))
    equal = sum(place.verdict == WORDS["tied"] for place in places)
    beaten = sum(place.verdict == "worse" for place in places)
    if len(places) == 1:
        return f"{first}: {places[0].text}% {label(metric)}"
    others = "the other" if len(places) == 2 else f"{beaten} of {len(places) - 1} others"
    tested = f", significantly better than {others}" if beaten else ", not significantly better than others"
    return f"{first} is best: {places[0].text}% {label(metric)}{tested if beaten + equal else ''}"


def _text(row: pd.Series[Any], metric: str) -> str:
    return rounded(100 * row[metric], 100 * row[f"{metric}_std"])


def _whisker(row: pd.Series[Any], metric: str) -> tuple[float, float]:
    """The 95% interval of one run, ± one standard deviation of several, in percent from 0 to 100."""
    value, spread = row[metric], row[f"{metric}_std"]
    ends = (row.get(f"{metric}_lo", math.nan), row.get(f"{metric}_hi", math.nan))
    low, high = ends if missing(spread) else (value - spread, value + spread)
    return tuple(-1.0 if missing(end) else round(min(100.0, max(0.0, 100 * end)), 2) for end in (low, high))  # type: ignore[return-value]


def _costs(runs: Sequence[Record]) -> tuple[str, str]:
    """Mean seconds of training, and passes forward and backward for each training image, where records tell."""
    seconds = [record["times"]["train_s"] for record in runs if record["times"]["train_s"]]
    counts = {passes(record) for record in runs} - {None}
    mean = f"{sum(filter(None, seconds)) / len(seconds):,.0f}" if seconds else ""
    return mean, f"{counts.pop():g}" if len(counts) == 1 else ""


def passes(record: Record) -> float | None:
    """Passes forward and backward for each training image, over all epochs, where the record tells."""
    claim, epochs = record["details"].get("claim"), record["hyper_parameters"].get("epochs")
    each = claim.get("passes") if isinstance(claim, dict) else None
    counts = [each.get(way) for way in ("forward", "backward")] if isinstance(each, dict) else [None]
    if not all(isinstance(count, int | float) for count in (*counts, epochs)):
        return None
    return float(epochs * sum(counts))  # type: ignore[operator, arg-type]
