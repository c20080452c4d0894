"""The columns that readers ask for first, and a few words that tell rows of one method apart."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from toolkit_ext.results.tables.formatting import budget, plain
from toolkit_ext.results.tables.frames import BUDGET, metric_columns, missing
from toolkit_ext.results.tables.rendering import blocks

VARIANT = "variant"
# What readers look for first, where several columns tell rows apart equally well.
_TELLING = ("backbone", "backbone.width", "n_train", "hp.eps", "hp.norm", "hp.steps", "hp.epochs", "hp.lr")
_EPS = ("hp.eps", "hp.eps_max", "hp.eps_min")


def with_variants(table: pd.DataFrame, within: pd.Series[int] | None = None) -> pd.DataFrame:
    """The aggregated ``table`` with a column :data:`VARIANT`: how a row differs from others of its method and block.

    Blocks are rows of one number in ``within``, by default of one data set and budget.
    It names the fewest columns that tell the rows apart, so rows may differ in more.
    """
    texts = pd.Series("", index=table.index)
    for _, rows in (
        table.groupby([blocks(table) if within is None else within, "method"], dropna=False)
        if "method" in table
        else ()
    ):
        chosen = _fewest(rows, _candidates(rows))
        short, whole = _texts(rows[chosen], usual=True), _texts(rows[chosen], usual=False)
        texts[rows.index] = short if len(set(short)) == len(set(whole)) else whole
    made = table.copy()
    made.insert(int(made.columns.get_loc("runs")), VARIANT, texts)  # type: ignore[arg-type]
    return made


def _texts(values: pd.DataFrame, *, usual: bool) -> list[str]:
    """The values of each row in words; with ``usual``, without those that most rows have."""
    common = {c: values[c].mode().iloc[0] for c in values if c not in _TELLING} if usual and len(values) > 2 else {}
    return [
        ", ".join(_told(c, v) for c, v in zip(values, row, strict=True) if not missing(v) and common.get(c) != v)
        for row in values.itertuples(index=False, name=None)
    ]


def _candidates(rows: pd.DataFrame) -> list[str]:
    """The columns in which ``rows`` differ, the most telling and the most complete first."""
    grouped = [c for c in rows.columns[: rows.columns.get_loc("runs")] if c not in (*BUDGET, "method")]
    differing = [c for c in grouped if rows[c].nunique(dropna=False) > 1]
    return sorted(differing, key=lambda c: (c not in _TELLING, _TELLING.index(c) if c in _TELLING else 0))


def _fewest(rows: pd.DataFrame, candidates: Sequence[str]) -> list[str]:
    """Candidates, chosen greedily, that tell all ``rows`` apart as far as they can be."""
    chosen: list[str] = []
    classes = 1
    while classes < len(rows):
        counts = {c: rows.groupby([*chosen, c], dropna=False).ngroups for c in candidates if c not in chosen}
        # Of equally good columns, one with a value in every row reads best.
        best = max(counts, key=lambda c: (counts[c], -rows[c].isna().sum()), default=None)
        if best is None or counts[best] <= classes:
            break
        chosen.append(best)
        classes = counts[best]
    return [candidate for candidate in candidates if candidate in chosen]


def _told(column: str, value: Any) -> str:
    """``steps 10`` for column ``hp.steps`` and value 10."""
    text = plain(budget(value) if column in _EPS and isinstance(value, float) else _short(value))
    if column == "n_train":
        return f"{text} images"
    name = column.removeprefix("hp.").removeprefix("backbone.").replace("_", " ")
    return text if column == "backbone" else f"trained at eps {text}" if column == "hp.eps" else f"{name} {text}"


def _short(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def ranking_of(table: pd.DataFrame) -> pd.Series[int]:
    """A number for each data set, budget and number of test images, whose rows can be ranked and tested together."""
    return blocks(table, "n_examples")


def first_columns(table: pd.DataFrame) -> list[str]:
    """Budget, method and variant where they differ, accuracies with AutoAttack's interval, images and seeds.

    ``table`` is from :func:`with_variants`. The union of the attacks is left out beside AutoAttack, from which it
    differs by a few images.
    """
    grouped = list(table.columns[: table.columns.get_loc("runs")])
    about = [c for c in BUDGET if c in grouped and table[c].nunique(dropna=False) > 1]
    metrics = [c for c in metric_columns(table) if f"{c}_std" in table and not (c == "union_acc" and "aa_acc" in table)]
    bounds = ["aa_acc_95"] if "aa_acc" in metrics and "aa_acc_lo" in table and table["aa_acc_lo"].notna().any() else []
    names = [c for c in ("method", VARIANT) if c in grouped and (table[c] != "").any()] or grouped
    return [*about, *(n for n in names if n not in about), *metrics, *bounds, "n_examples", "runs"]
