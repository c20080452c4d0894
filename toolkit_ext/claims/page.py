"""``results/CLAIMS.md``: every claim with the source's values, ours, the verdict, the command and the records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

from toolkit_ext import results
from toolkit_ext.claims.claim import SCALES, SEEDS, Claim, Group, Row, load_groups
from toolkit_ext.claims.figures import plot_group
from toolkit_ext.claims.runs import Runs, runs_by_scale, titled
from toolkit_ext.claims.verdict import NOT_MEASURED, VERDICTS, Verdict, judge
from toolkit_ext.io import atomic_write
from toolkit_ext.results import Record
from toolkit_ext.results.tables.formatting import markdown_cell

_HEAD = """# Do the claims hold?

Every figure of the sources that this project rests on, measured again. This page and its figures are made by
`toolkit-ext claims` from the [recipes](../recipes/claims) and the [records](runs); nothing in it is typed by hand but
the sources' own figures. A claim that was refuted is as good a result as one that was confirmed.

Ours is the mean over the seeds with its standard deviation in units of the last digit, `18.62(6)` for 18.62 ± 0.06. A
cell needs at least three runs; one with fewer says *not measured*. The verdict follows from the runs by the rule that
stands with the claim, whose tests are at a level of 5% over the seeds: **reproduced** at the source's own scale, **only
at reduced scale** where the rule holds at the small scale alone, **not reproduced** where it fails, **not measured**
where runs are missing. The small scale takes minutes on a core; its figures are not comparable with the sources', only
its verdicts are.
"""


def build(recipes: Path | str, folder: Path | str) -> list[Path]:
    """Write ``CLAIMS.md`` and ``figures/claims_*.png`` reproducibly into ``folder``; return their paths.

    Unreadable records are skipped with a :class:`~toolkit_ext.results.RecordWarning`. A group without measurements
    has no figure. Raises :class:`UserError` without records or claims.
    """
    folder = Path(folder)
    groups, records = load_groups(recipes), results.read_records(folder / "runs")
    made: dict[str, Path] = {}
    for group in groups:
        if path := plot_group(group, runs_by_scale(group, records), folder / "figures" / f"{group.tag}.png"):
            made[group.name] = path
    return [atomic_write(folder / "CLAIMS.md", page(groups, records, made)), *made.values()]


def page(groups: Sequence[Group], records: Sequence[Record], figures: Iterable[str] = ()) -> str:
    """The page in Markdown; ``figures`` are the names of the groups that have a figure."""
    drawn = set(figures)
    runs = {group.name: runs_by_scale(group, records) for group in groups}
    verdicts = {group.name: {claim.name: judge(claim, runs[group.name]) for claim in group.claims} for group in groups}
    sections = [_section(group, runs[group.name], verdicts[group.name], group.name in drawn) for group in groups]
    return "\n".join([_HEAD, *_summary(groups, verdicts), *sections])


def _table(header: str, rows: Iterable[Iterable[str]]) -> list[str]:
    return [header, "| --- " * (header.count("|") - 1) + "|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def _summary(groups: Sequence[Group], verdicts: Mapping[str, Mapping[str, Verdict]]) -> list[str]:
    words = [verdict.word for own in verdicts.values() for verdict in own.values()]
    counts = ", ".join(f"{words.count(word)} {word}" for word in VERDICTS)
    rows = [
        (f"[{group.number}](#{_anchor(group)})", claim.statement, _marked(verdict.word), ", ".join(verdict.held))
        for group in groups
        for claim, verdict in zip(group.claims, verdicts[group.name].values(), strict=True)
    ]
    return [f"Of {len(words)} claims: {counts}.", "", *_table("| | claim | verdict | measured at |", rows)]


def _anchor(group: Group) -> str:
    heading = f"{group.number}-{group.title}".lower().replace(" ", "-")
    return "".join(c for c in heading if c.isalnum() or c == "-")


def _marked(word: str) -> str:
    return word if word.lower() == NOT_MEASURED else f"**{word}**"


def _section(group: Group, runs: Mapping[str, Runs], verdicts: Mapping[str, Verdict], drawn: bool) -> str:
    lines = [f"## {group.number}. {group.title}", "", f"{group.source}.", ""]
    lines += [group.notes, ""] if group.notes else []
    scales = [scale for scale in SCALES if any(arm.at(scale) for arm in group.arms)]
    lines += ["```", *(_command(group.name, scale, runs[scale]) for scale in scales), "```", ""]
    lines += [f"![Figures of the source beside ours](figures/{group.tag}.png)", ""] if drawn else []
    for (title, arms), scale in product(group.boards.items(), SCALES):
        if table := board(arms, runs[scale].of):
            lines += [f"### Leaderboard: {title} ({scale})", "", table]
    for claim in group.claims:
        lines += _claim(claim, verdicts[claim.name], runs)
    return "\n".join([*lines, *_records(runs)])


def _command(name: str, scale: str, runs: Runs) -> str:
    """The command for the runs of a scale, with the recorded seeds."""
    seeds = sorted({record["seed"] for made in runs.of.values() for record in made}) or [0, 1, 2]
    return f"python recipes/claims/{name}.py --scale {scale} --seeds {','.join(map(str, seeds))}"


def _claim(claim: Claim, verdict: Verdict, runs: Mapping[str, Runs]) -> list[str]:
    lines = [f"### {claim.statement}", ""]
    lines += [f"Source: {claim.where}.", ""] if claim.where else []
    lines += [f"{_marked(verdict.word.capitalize())}. Rule: {claim.rule}.", ""]
    for scale, found in verdict.found.items():
        lines += [f"- {scale}: {'holds' if verdict.held[scale] else 'does not hold'}: {found}."]
    lines += [""] if verdict.found else []
    rows = [_row(row, runs) for row in claim.table()]
    return lines + _table("| run | figure | source | ours, small | ours, paper |", rows)


def _row(row: Row, runs: Mapping[str, Runs]) -> list[str]:
    source = "" if row.source is None else f"{row.source:g}" + (f" ({row.where})" if row.where else "")
    ours = [list(runs[scale].values((row.arm, row.metric)).values()) for scale in SCALES]
    cells = [results.concise(fmean(values), stdev(values)) if len(values) >= SEEDS else NOT_MEASURED for values in ours]
    return [row.arm, titled(row.metric), source, *cells]


def _records(runs: Mapping[str, Runs]) -> list[str]:
    rows = [
        (name, scale, _facts(made[0]), ", ".join(f"[seed {run['seed']}](runs/{run['run_id']}.json)" for run in made))
        for scale in SCALES
        for name, made in runs[scale].of.items()
        if made
    ]
    return _table("| run | scale | what | records |", rows) if rows else ["No runs are recorded.", ""]


def _facts(record: Record) -> str:
    passes = record["details"].get("claim", {}).get("passes", {})
    # The passes of a step times the epochs.
    cost = sum(passes.get(way, 0.0) for way in ("forward", "backward")) * record["hyper_parameters"]["epochs"]
    size = f"{record['data']['train']:,} images, {record['n_examples']} attacked"
    names = f"{markdown_cell(record['data']['name'])}, {markdown_cell(record['backbone']['name'])}"
    return f"{names}, {size}" + (f", {cost:g} passes" if passes else "")


def board(arms: Sequence[str], runs: Mapping[str, Sequence[Record]]) -> str:
    """A Markdown table in the order of :func:`ranking`, marked by ``results.vs_best``; empty below two arms."""
    order = list(ranking(arms, runs))
    if len(order) < 2:
        return ""
    named: list[Record] = [{**record, "method": arm} for arm in order for record in runs[arm]]
    frame = results.frame(named)
    table = results.aggregate(frame, by=("data", "norm", "eps", "method"))
    table = table.set_index("method", drop=False).loc[order].reset_index(drop=True)
    shown = [column for column in ("method", "runs", "clean_acc", "pgd20_acc", "aa_acc") if column in table]
    return results.to_markdown(table, shown, results.vs_best(table, frame, named))


def ranking(arms: Sequence[str], runs: Mapping[str, Sequence[Record]]) -> dict[str, float]:
    """The mean AutoAttack accuracy, in [0, 1], of every arm with enough runs, the best first.

    Clean accuracy breaks ties; failed runs count as 0.
    """
    measured = [arm for arm in arms if len(runs[arm]) >= SEEDS]
    means = {arm: [_mean(runs[arm], metric) for metric in ("aa_acc", "clean_acc")] for arm in measured}
    return {arm: means[arm][0] for arm in sorted(measured, key=means.__getitem__, reverse=True)}


def _mean(runs: Sequence[Record], metric: str) -> float:
    # Rounded for ties: the order of a sum changes its last bits.
    return round(fmean(record["metrics"].get(metric, 0.0) for record in runs), 9)
