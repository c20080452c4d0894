"""Means over seeds, and ``results/tables/*.csv`` rebuilt from the run records."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from toolkit_ext.errors import UserError
from toolkit_ext.io import atomic_write
from toolkit_ext.results.records.record import read_records
from toolkit_ext.results.records.schema import ALL_RUNS, Record, check_name
from toolkit_ext.results.tables.frames import BUDGET, Row, check_columns, frame_of, metric_columns
from toolkit_ext.results.tables.frames import rows as rows_of
from toolkit_ext.results.tables.rendering import printed, to_csv

BY = ("data", "backbone", "norm", "eps", "method")


def aggregate(
    table: pd.DataFrame,
    by: Sequence[str] | None = None,
    metrics: Sequence[str] | None = None,
    *,
    allow_mixed: bool = False,
) -> pd.DataFrame:
    """Mean and sample standard deviation (n-1) of ``metrics`` over the seeds of each group of runs.

    Columns: ``by``, ``runs`` (their number), ``n_examples`` (the smallest), the means, then ``<metric>_std`` (NaN for
    one run) and the interval ``<metric>_lo``, ``<metric>_hi`` (one run only). Of runs with the same configuration and
    seed, the one with the most metrics counts, then the most examples, then the newest.

    Args:
        table: one row per run, from :func:`frame`.
        by: columns that form a group; by default :data:`BY` and the hyper-parameters that differ within such a group.
        metrics: columns to average; by default all accuracies and errors.
        allow_mixed: allow several data sets, norms, eps or AutoAttack versions, and means over more than seeds.

    Raises:
        UserError: no runs, an unknown column, or a mixture without ``allow_mixed``.
    """
    if table.empty:
        raise UserError("results: there are no runs to make a table of")
    metrics = _known("--columns", metrics or metric_columns(table, derived=True), table.select_dtypes("number").columns)
    groupable = table.columns.difference([*metrics, "n_examples"], sort=False)
    chosen = [*BY, *differing(table, BY)] if by is None else _known("--by", by, groupable)
    if not allow_mixed:
        _refuse_mixed(table)
        _refuse_pooled(table, chosen)
    groups = _one_for_each_seed(table, chosen, metrics).groupby(chosen, dropna=False, sort=True)
    bounds = [f"{name}_{end}" for name in metrics for end in ("lo", "hi") if f"{name}_{end}" in table.columns]
    means = groups[[*metrics, *bounds]].mean()
    counted = pd.DataFrame({"runs": groups.size(), "n_examples": groups["n_examples"].min()})
    means.loc[counted["runs"] > 1, bounds] = math.nan
    deviations = groups[metrics].std(ddof=1).add_suffix("_std")
    return pd.concat([counted, means[metrics], deviations, means[bounds]], axis=1).reset_index()


def _known(option: str, names: Sequence[str], allowed: Iterable[str]) -> list[str]:
    if not names:
        raise UserError(f"{option}: no column is named; name at least one, such as method or aa_acc")
    return check_columns(option, names, allowed)


def _configuration(table: pd.DataFrame) -> list[str]:
    """Columns that say what was run, without the seed."""
    arguments = [c for c in table.columns if c.startswith(("backbone.", "hp.")) and not c.endswith(".seed")]
    return ["method", "backbone", "n_train", *BUDGET, *arguments]


def differing(table: pd.DataFrame, by: Sequence[str]) -> list[str]:
    """Columns of the configuration, other than the seed, with several values within one group of ``by``."""
    rest = [column for column in _configuration(table) if column not in by]
    varied = table.groupby(list(by), dropna=False)[rest].nunique(dropna=False).max()
    return [column for column in rest if varied[column] > 1]


def _refuse_mixed(table: pd.DataFrame) -> None:
    for column in BUDGET:
        values = table[column].dropna().unique().tolist()
        if len(values) > 1:
            shown = ", ".join(f"{value:.6g}" if isinstance(value, float) else str(value) for value in sorted(values))
            raise UserError(
                f"--where: the runs mix several values of {column} ({shown}) in one ranking; "
                f"choose one with --where {column}=VALUE, or allow it with --allow-mixed"
            )


def _refuse_pooled(table: pd.DataFrame, by: Sequence[str]) -> None:
    pooled = differing(table, by)
    if pooled:
        values = ", ".join(map(str, table[pooled[0]].unique().tolist()))
        raise UserError(
            f"--by {','.join(by)}: runs that differ in {', '.join(pooled)} would be averaged as if they were seeds "
            f"({pooled[0]}: {values}); add to --by, choose with --where, or allow it with --allow-mixed"
        )


def _one_for_each_seed(table: pd.DataFrame, by: Sequence[str], metrics: Sequence[str]) -> pd.DataFrame:
    same = list(dict.fromkeys([*by, *_configuration(table), "seed"]))
    ranked = table.assign(_known=table[list(metrics)].notna().sum(axis=1))
    ranked = ranked.sort_values(["_known", "n_examples", "created", "run_id"], kind="stable")
    return ranked.drop_duplicates(same, keep="last").drop(columns="_known")


def members(table: pd.DataFrame, means: pd.DataFrame) -> list[list[str]]:
    """The ``run_id`` of the runs behind each row of ``means``, the aggregated ``table``."""
    by = list(means.columns[: means.columns.get_loc("runs")])
    metrics = [column for column in means.columns if f"{column}_std" in means.columns]
    kept = _one_for_each_seed(table, by, metrics)
    groups = pd.concat([means[by], kept[by]]).groupby(by, dropna=False).ngroup().to_numpy()
    named = kept["run_id"].groupby(groups[len(means) :]).agg(sorted)
    return [named.get(group, []) for group in groups[: len(means)]]


def reported(records: Iterable[Record]) -> list[Record]:
    """All ``records`` except tuning runs (``details.claim.tuning``), which have their own seed and no test attacks."""
    return [record for record in records if not record["details"].get("claim", {}).get("tuning")]


def write_table(name: str, table: pd.DataFrame, tables_dir: Path | str) -> Path:
    """Write ``table`` to ``<tables_dir>/<name>.csv``, atomically and reproducibly."""
    if name != ALL_RUNS:
        check_name("table", name)
    return atomic_write(Path(tables_dir) / f"{name}.csv", to_csv(table))


def rebuild(
    results_dir: Path | str, records: Sequence[Record] | None = None, rows: Mapping[str, Row] | None = None
) -> list[Path]:
    """Rebuild every table of ``<results_dir>/tables`` from ``<results_dir>/runs``; return their paths.

    ``records`` are those of ``<results_dir>/runs`` where they are read already, ``rows`` their :func:`.frames.rows`.

    ``all_runs.csv`` has every run and value (fractions). Each name in a record's ``tables`` is a further table: means
    over seeds of the :func:`reported` runs that name it, in percent. Unreadable records are skipped with a
    :class:`~toolkit_ext.results.records.record.RecordWarning`.
    """
    results = Path(results_dir)
    records = read_records(results / "runs") if records is None else records
    by_run = rows_of(records) if rows is None else rows
    written = [write_table(ALL_RUNS, frame_of(list(by_run.values())), results / "tables")]
    kept = reported(records)
    for name in sorted({name for record in kept for name in record["tables"]}):
        shown = aggregate(frame_of([by_run[r["run_id"]] for r in kept if name in r["tables"]]), allow_mixed=True)
        written.append(write_table(name, printed(shown), results / "tables"))
    return written
