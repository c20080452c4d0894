"""The share of mutants that the tests kill, for each group and altogether, with Wilson's 95% interval."""

from __future__ import annotations

import csv
from pathlib import Path

from statsmodels.stats.proportion import proportion_confint

from tests.mutation.targets import GROUPS, group_of

FIELDS = ("key", "file", "function", "line", "change", "outcome", "killed_by", "cpu_seconds")


def _line(name: str, outcomes: list[str]) -> str:
    killed, n = outcomes.count("killed"), len(outcomes)
    low, high = proportion_confint(killed, n, alpha=0.05, method="wilson")
    return f"| {name} | {n} | {killed} | {killed / n:.0%} | {low:.0%} to {high:.0%} |"


def summary(results: Path) -> str:
    """A table in Markdown: mutants run, killed, their share and its interval."""
    with results.open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {group: [row["outcome"] for row in rows if group_of(row["file"]) == group] for group in GROUPS}
    lines = [_line(group, outcomes) for group, outcomes in found.items() if outcomes]
    every = [row["outcome"] for row in rows]
    head = ["| group | mutants | killed | share | 95% interval |", "| --- | --- | --- | --- | --- |"]
    return "\n".join([*head, *lines, *([_line("all", every)] if every else [])])
