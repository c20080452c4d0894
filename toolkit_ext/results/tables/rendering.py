"""A table as CSV, Markdown or LaTeX, with the same bytes every time."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from pandas.api.types import is_float_dtype, is_numeric_dtype

from toolkit_ext.errors import check_choice
from toolkit_ext.results.tables import latex
from toolkit_ext.results.tables.formatting import budget, concise, csv_cell, interval, markdown_cell, rounded
from toolkit_ext.results.tables.formatting import label as heading
from toolkit_ext.results.tables.frames import BUDGET, DERIVED, missing
from toolkit_ext.results.tables.frames import columns as select_columns

DAGGER = "†"
FORMATS = ("csv", "markdown", "latex")
ERRORS = ("pm", "paren")
MARKS = {"tied": "≈", "untested": "?"}
_NOTE = "† evaluated on fewer examples than the rest of the table"
_TESTED = (
    "≈ not significantly worse than the best, as means without a mark are (paired bootstrap over test images and "
    "seeds, Holm's correction, 5%)"
)
_UNTESTED = "? not tested against the best: there are no results for each image to compare"


def metrics_of(table: pd.DataFrame) -> list[str]:
    """The averaged metrics of a table from :func:`~toolkit_ext.results.tables.aggregate`."""
    return [column for column in table.columns if f"{column}_std" in table.columns]


def headline(table: pd.DataFrame) -> str | None:
    """The metric that ranks the rows: AutoAttack's accuracy, or else the last metric that some row has."""
    known = [m for m in metrics_of(table) if table[m].notna().any() and not m.endswith(DERIVED)]
    return "aa_acc" if "aa_acc" in known else known[-1] if known else None


def printed(
    table: pd.DataFrame, columns: Sequence[str] | None = None, *, fractions: bool = False, errors: str | None = None
) -> pd.DataFrame:
    """The aggregated ``table`` as text: metrics in percent in the concise form ``18.62(6)``.

    ``<metric>_95`` is the 95% interval for groups of one run, by default of ``aa_acc`` only. ``fractions`` writes eps
    as 8/255; ``errors`` (:data:`ERRORS`) rounds by the deviation (:func:`.formatting.rounded`).

    A dagger after the method (or the first column) marks a row evaluated on fewer examples than others of
    the same data set and budget. Raises :class:`UserError` for an unknown column.
    """
    shown = pd.DataFrame(index=table.index)
    for column in table.columns:
        if column in metrics_of(table):
            shown[column] = _means(table, column, errors)
            if f"{column}_lo" in table.columns:
                bounds = zip(table[f"{column}_lo"], table[f"{column}_hi"], strict=True)
                shown[f"{column}_95"] = [interval(low, high) for low, high in bounds]
        elif not column.endswith(("_std", "_lo", "_hi")):
            text = budget if fractions and column == "eps" else _plain
            shown[column] = ["" if missing(value) else text(value) for value in table[column]]
    names = [c for c in shown.columns if not c.endswith("_95") or c == "aa_acc_95"] if columns is None else columns
    shown = select_columns(shown, names)
    marked = "method" if "method" in shown.columns else shown.columns[0]
    shown[marked] = shown[marked].where(~fewer_examples(table), shown[marked] + DAGGER)
    return shown


def _scale(metric: str) -> int:
    """Shares of examples, and scores on the scale of shares, are printed in percent."""
    return 100 if metric.endswith(("_acc", "_err", "_ece", "_brier", "_margin")) else 1


def _means(table: pd.DataFrame, metric: str, errors: str | None) -> list[str]:
    scale = _scale(metric)
    pairs = zip(scale * table[metric], scale * table[f"{metric}_std"], strict=True)
    return [concise(mean, std) if errors is None else rounded(mean, std, errors) for mean, std in pairs]


def _plain(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


def blocks(table: pd.DataFrame, *more: str) -> pd.Series[int]:
    """A number for each data set and budget, and value of the columns ``more``; only rows of one block are compared."""
    keys = [column for column in (*BUDGET, *more) if column in table.columns]
    return table.groupby(keys, dropna=False).ngroup() if keys else pd.Series(0, index=table.index)


def fewer_examples(table: pd.DataFrame, within: pd.Series[int] | None = None) -> pd.Series[bool]:
    """Which rows were evaluated on fewer examples than others of their block: ``within``, by default :func:`blocks`."""
    most = table.groupby(blocks(table) if within is None else within)["n_examples"].transform("max")
    return (table["n_examples"] < most) & (table["n_examples"] > 0)


def best(table: pd.DataFrame, within: pd.Series[int] | None = None) -> pd.DataFrame:
    """Which printed means are the best of their block; a boolean column per metric.

    Rows on fewer examples are not compared, and a block of one row has no best.
    """
    found = pd.DataFrame(False, index=table.index, columns=metrics_of(table))
    within = blocks(table) if within is None else within
    rivals = table[~fewer_examples(table, within)]
    for metric in found.columns:
        higher = metric.endswith(("_acc", "_margin"))
        values = (rivals[metric] * _scale(metric)).round(2)
        grouped = values.dropna().groupby(within.loc[rivals.index])
        top = grouped.transform("max" if higher else "min")
        found.loc[top.index, metric] = (values.loc[top.index] == top) & (grouped.transform("size") > 1)
    return found


def to_csv(table: pd.DataFrame) -> str:
    """CSV with ``\\n`` line ends, floats to 12 digits, and formulas escaped."""
    text = io.StringIO()
    lines = csv.writer(text, lineterminator="\n")
    lines.writerow(csv_cell(str(name)) for name in table.columns)
    lines.writerows(zip(*(_csv_cells(column) for _, column in table.items()), strict=True))
    return text.getvalue()


def _csv_cells(column: pd.Series[Any]) -> list[object]:
    """The cells of a column; ``pandas.DataFrame.to_csv`` takes three times as long for large tables."""
    values = column.tolist()
    if is_float_dtype(column):
        return ["" if text == "nan" else text for text in map("%.12g".__mod__, values)]
    if isinstance(column.dtype, pd.StringDtype):  # has few different texts
        cells = {text: "" if missing(text) else csv_cell(text) for text in set(values)}
        return [cells[text] for text in values]
    return [csv_cell(v) if isinstance(v, str) else "" if missing(v) else v for v in values]


def _each_text(table: pd.DataFrame, change: Callable[[str], str]) -> pd.DataFrame:
    texts = [place for place, kind in enumerate(table.dtypes) if not is_numeric_dtype(kind)]
    changed = table.copy()
    for place in texts:
        column = table.iloc[:, place]
        cells = column.map(lambda value: change(value) if isinstance(value, str) else value)
        changed.isetitem(place, cells.array)
    return changed


def _marked(shown: pd.DataFrame, verdicts: pd.DataFrame | None) -> pd.DataFrame:
    if verdicts is None:
        return shown
    return shown.assign(**{m: shown[m] + verdicts[m].map(MARKS).fillna("") for m in verdicts.columns if m in shown})


def to_markdown(
    table: pd.DataFrame,
    columns: Sequence[str] | None = None,
    verdicts: pd.DataFrame | None = None,
    *,
    errors: str | None = None,
) -> str:
    """A GitHub Markdown table of an aggregated ``table``, the best of each metric in bold.

    ``verdicts`` (:func:`~toolkit_ext.results.tables.significance.vs_best`) adds :data:`MARKS` and their meaning.
    """
    shown = _marked(_each_text(printed(table, columns, fractions=True, errors=errors), markdown_cell), verdicts)
    winners = best(table)
    for metric in winners.columns.intersection(shown.columns):
        shown[metric] = shown[metric].where(~winners[metric], "**" + shown[metric] + "**")
    headings = [markdown_cell(heading(column)) for column in shown.columns]
    rows = [headings, ["---"] * len(headings), *shown.to_numpy().tolist()]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join(lines + _footnotes(table, shown, verdicts, "\n{}")) + "\n"


def to_latex(
    table: pd.DataFrame,
    columns: Sequence[str] | None = None,
    verdicts: pd.DataFrame | None = None,
    *,
    caption: str | None = None,
    label: str = "tab:robustness",
    errors: str | None = None,
) -> str:
    """A LaTeX ``table`` (booktabs and siunitx) of an aggregated ``table``, marked as by :func:`to_markdown`.

    The ``caption`` says by default what the numbers are and what the marks mean.
    """
    shown = _marked(printed(table, columns, fractions=True, errors=errors or "paren"), verdicts)
    winners = best(table).reindex(columns=shown.columns, fill_value=False)
    numeric = [*metrics_of(table), "runs", "n_examples"]
    lines = latex.tabular(shown, [heading(column) for column in shown.columns], winners, numeric)
    if caption is None:
        caption = ". ".join([_caption(table), *_footnotes(table, shown, verdicts, "{}")]) + "."
    return "\n".join(latex.floating(lines, caption, label)) + "\n"


def _caption(table: pd.DataFrame) -> str:
    same = [str(table[c].iloc[0]) for c in ("data", "norm") if c in table and table[c].nunique() == 1]
    same += [f"eps = {budget(table['eps'].iloc[0])}"] if "eps" in table and table["eps"].nunique() == 1 else []
    about = f" on {', '.join(same)}" if same else ""
    several = ", means and standard deviations over seeds" if (table["runs"] > 1).any() else ""
    return f"Accuracy in %{about}{several}; the best is bold"


def _footnotes(table: pd.DataFrame, shown: pd.DataFrame, verdicts: pd.DataFrame | None, form: str) -> list[str]:
    found = set() if verdicts is None else set(verdicts[verdicts.columns.intersection(shown.columns)].stack())
    notes = [
        (_NOTE, fewer_examples(table).any()),
        (_TESTED, found & {"worse", "tied"}),
        (_UNTESTED, "untested" in found),
    ]
    return [form.format(note) for note, wanted in notes if wanted]


def render(
    table: pd.DataFrame,
    form: str,
    columns: Sequence[str] | None = None,
    verdicts: pd.DataFrame | None = None,
    *,
    errors: str | None = None,
    **more: str,
) -> str:
    """The aggregated ``table`` in one of :data:`FORMATS`; CSV has ``verdicts`` in columns ``<metric>_vs_best``.

    ``more`` are ``caption`` and ``label`` for LaTeX.
    """
    check_choice("--format", form, FORMATS)
    if form == "csv":
        shown = printed(table, columns, errors=errors)
        if verdicts is not None:
            told = verdicts.columns.intersection(shown.columns)
            shown = pd.concat([shown, verdicts[told].add_suffix("_vs_best")], axis=1)
        return to_csv(shown)
    if form == "markdown":
        return to_markdown(table, columns, verdicts, errors=errors)
    return to_latex(table, columns, verdicts, errors=errors, **more)
