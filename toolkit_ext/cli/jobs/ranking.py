"""The table of ``toolkit-ext table`` on a screen: one ranking per data set and budget, its verdicts in words."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import pandas as pd
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from toolkit_ext.results import label
from toolkit_ext.results.tables.compact import VARIANT, first_columns, ranking_of
from toolkit_ext.results.tables.formatting import budget, interval, plain, rounded
from toolkit_ext.results.tables.frames import missing
from toolkit_ext.results.tables.rendering import best, blocks, headline, printed

WORDS = {"best": "best", "tied": "not worse", "worse": "worse", "untested": "untested"}
_WIDE = Console(width=1000)


def rankings(
    table: pd.DataFrame, verdicts: pd.DataFrame | None, errors: str, width: int, *, ordered: bool
) -> Iterator[Table]:
    """A table for each data set, budget and number of images, by falling robust accuracy unless ``ordered`` already.

    The best of a column is bold; the last column says in words how a row compares with the best. Attacks that few rows
    have are left out, and named, where the table is wider than ``width``.

    Args:
        table: from :func:`~toolkit_ext.results.tables.compact.with_variants`.
        verdicts: from :func:`~toolkit_ext.results.tables.significance.vs_best`, of the metric that ranks the rows.
        errors: ``pm`` or ``paren``.
        width: characters in a line.
        ordered: keep the order of the rows.
    """
    winners = best(table, ranking_of(table))
    for _, rows in table.groupby([blocks(table), -table["n_examples"]], sort=True):
        metric = headline(rows)
        kept = rows if ordered or metric is None else rows.sort_values(metric, ascending=False, kind="stable")
        told = None if verdicts is None or metric not in verdicts else verdicts.loc[kept.index, metric]
        names, left = [n for n in first_columns(rows) if not n.endswith("_95") and n != "n_examples"], []
        while True:
            made = _ranking(kept, names, winners.loc[kept.index], told, errors)
            attacks = [n for n in names if n.endswith(("_acc", "_err")) and n not in ("clean_acc", metric)]
            if not attacks or Measurement.get(_WIDE, _WIDE.options, made).maximum <= width:
                break
            left.append(min(reversed(attacks), key=lambda n: kept[n].notna().sum()))
            names.remove(left[-1])
        made.caption = f"left out for the width: {', '.join(map(label, left))} (--columns shows them)" if left else None
        yield made


def _ranking(
    rows: pd.DataFrame, names: Sequence[str], winners: pd.DataFrame, told: pd.Series[str] | None, errors: str
) -> Table:
    made = Table(title=_title(rows), header_style="bold", title_style="bold", title_justify="left", show_edge=False)
    made.caption_justify = "left"
    tested = told is not None and bool((told != "").any())
    for name in names:
        text = name in ("method", VARIANT)
        heading = "seeds" if name == "runs" else label(name)
        made.add_column(heading, justify="left" if text else "right", overflow="fold", no_wrap=name != VARIANT)
    if tested:
        made.add_column("against the best", no_wrap=True)
    for place, row in rows.iterrows():
        cells = [_cell(row, name, errors, bold=name in winners and bool(winners.loc[place, name])) for name in names]  # type: ignore[index]
        if told is not None and tested:
            word = WORDS.get(str(told.loc[place]), "")  # type: ignore[index, call-overload, unused-ignore]
            cells.append(Text(word, style="bold" if word == "best" else ""))
        made.add_row(*cells)
    return made


def _title(rows: pd.DataFrame) -> str:
    first = rows.iloc[0]
    threat = "" if missing(first.get("eps")) else f"{first['norm']}, eps {budget(first['eps'])}"
    words = [str(first[c]) for c in ("data", "backbone") if c in rows and rows[c].nunique() == 1]
    images = f"{first['n_examples']} test images" if first["n_examples"] else ""
    return plain(" · ".join(filter(None, [*words, threat, images, "accuracy in %"])))


def _cell(row: pd.Series[float], name: str, errors: str, *, bold: bool) -> Text:
    value = row[name]
    if missing(value):
        return Text("")
    if f"{name}_std" not in row:
        return Text(plain(budget(value) if name == "eps" else str(value)))
    scale = 100 if name.endswith(("_acc", "_err")) else 1
    text = rounded(scale * value, scale * row[f"{name}_std"], errors)
    low, high = (row.get(f"{name}_{end}", math.nan) for end in ("lo", "hi"))
    return Text(f"{text} {interval(low, high, 1)}".rstrip() if name == "aa_acc" else text, style="bold" if bold else "")


def chosen_columns(table: pd.DataFrame, names: list[str]) -> Table:
    """One table of the columns ``names``, the best of each in bold."""
    made, shown, winners = (
        Table(header_style="bold", show_edge=False),
        printed(table, names, fractions=True),
        best(table),
    )
    for name in names:
        made.add_column(label(name), justify="right" if name in winners else "left", overflow="fold")
    for place, row in shown.iterrows():
        styles = ["bold" if n in winners and bool(winners.loc[place, n]) else "" for n in names]  # type: ignore[index]
        made.add_row(*(Text(plain(row[n]), style=style) for n, style in zip(names, styles, strict=True)))
    return made
