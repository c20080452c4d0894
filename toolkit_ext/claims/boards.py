"""Leaderboards: arms in the order of their AutoAttack accuracy, with the marks of every table."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean

from toolkit_ext import results
from toolkit_ext.claims.claim import SEEDS
from toolkit_ext.claims.runs import Runs
from toolkit_ext.results import Record


def board(arms: Sequence[str], runs: Runs) -> str:
    """A Markdown table in the order of :func:`ranking`, marked by ``results.vs_best``; empty below two arms.

    Arms that ended as a constant classifier are named below it.
    """
    order = list(ranking(arms, runs))
    if len(order) < 2:
        return ""
    named: list[Record] = [{**record, "method": arm} for arm in order for record in runs.of[arm]]
    frame = results.frame(named)
    table = results.aggregate(frame, by=("data", "norm", "eps", "method"))
    table = table.set_index("method", drop=False).loc[order].reset_index(drop=True)
    shown = [column for column in ("method", "runs", "clean_acc", "pgd20_acc", "aa_acc") if column in table]
    constant = ", ".join(arm for arm in arms if runs.collapsed(arm))
    left = f"\nNot ranked, as they ended as a constant classifier: {constant}.\n" if constant else ""
    return results.to_markdown(table, shown, results.vs_best(table, frame, named)) + left


def ranking(arms: Sequence[str], runs: Runs) -> dict[str, float]:
    """The mean AutoAttack accuracy, in [0, 1], of every arm with enough runs, the best first.

    Clean accuracy breaks ties; failed runs count as 0. Arms that ended as a constant classifier are left out.
    """
    measured = [arm for arm in arms if len(runs.of[arm]) >= SEEDS and not runs.collapsed(arm)]
    means = {arm: [_mean(runs.of[arm], metric) for metric in ("aa_acc", "clean_acc")] for arm in measured}
    return {arm: means[arm][0] for arm in sorted(measured, key=means.__getitem__, reverse=True)}


def _mean(runs: Sequence[Record], metric: str) -> float:
    # Rounded for ties: the order of a sum changes its last bits.
    return round(fmean(record["metrics"].get(metric, 0.0) for record in runs), 9)
