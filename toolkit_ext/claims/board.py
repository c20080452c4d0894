"""A leaderboard: arms of equal cost by their AutoAttack accuracy, with marks where a difference may be chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from toolkit_ext import results
from toolkit_ext.claims.runs import enough
from toolkit_ext.results import Record
from toolkit_ext.results.tables.rendering import to_markdown

_COLUMNS = ("method", "runs", "clean_acc", "pgd20_acc", "aa_acc")
_BY = ("data", "norm", "eps", "method")


def ranking(arms: Sequence[str], runs: Mapping[str, Sequence[Record]]) -> dict[str, float]:
    """The mean AutoAttack accuracy of every arm with enough runs, in [0, 1], the best first.

    Of equals the one with the better clean accuracy comes first. A run that failed counts as 0.
    """
    means = {arm: (_mean(runs[arm], "aa_acc"), _mean(runs[arm], "clean_acc")) for arm in arms if enough(runs[arm])}
    return {arm: mean for arm, (mean, _) in sorted(means.items(), key=lambda item: item[1], reverse=True)}


def _mean(runs: Sequence[Record], metric: str) -> float:
    # Sums of the same terms in another order differ in their last bits; a tie must count as one.
    return round(fmean(record["metrics"].get(metric, 0.0) for record in runs), 9)


def board(arms: Sequence[str], runs: Mapping[str, Sequence[Record]]) -> str:
    """The table of ``arms`` in Markdown, in the order of :func:`ranking`; empty where fewer than two can be ranked.

    Marks are those of every table of the project (:func:`~toolkit_ext.results.vs_best`): a paired bootstrap over test
    images and seeds, corrected by Holm's method for the number of arms.
    """
    order = list(ranking(arms, runs))
    if len(order) < 2:
        return ""
    named: list[Record] = [{**record, "method": arm} for arm in order for record in runs[arm]]
    frame = results.frame(named)
    table = results.aggregate(frame, by=_BY).set_index("method", drop=False).loc[order].reset_index(drop=True)
    shown = [column for column in _COLUMNS if column in table]
    return to_markdown(table, shown, results.vs_best(table, frame, named))
