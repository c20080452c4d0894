"""``results/CLAIMS.md``: every claim, the source's figures, ours, the verdict, the command and the records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, stdev

from toolkit_ext.claims.board import board
from toolkit_ext.claims.claim import SCALES, Claim, Group, Row
from toolkit_ext.claims.metrics import titled
from toolkit_ext.claims.runs import enough, values_of
from toolkit_ext.claims.verdict import NOT_MEASURED, VERDICTS, RunsByScale, Verdict, judge, runs_by_scale
from toolkit_ext.results import Record
from toolkit_ext.results.tables.formatting import concise, markdown_cell

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


def cell(values: Sequence[float]) -> str:
    """``45.40(123)``, or *not measured* for too few runs."""
    return concise(fmean(values), stdev(values)) if enough(values) else NOT_MEASURED


def page(groups: Sequence[Group], records: Sequence[Record], figures: Iterable[str] = ()) -> str:
    """The page in Markdown; ``figures`` are the names of the groups that have a figure."""
    drawn = set(figures)
    runs = {group.name: runs_by_scale(group, records) for group in groups}
    verdicts = {
        (group.name, claim.name): judge(claim, runs[group.name], records) for group in groups for claim in group.claims
    }
    parts = [_HEAD, _summary(groups, verdicts)]
    for group in groups:
        own = {claim.name: verdicts[group.name, claim.name] for claim in group.claims}
        parts.append(_section(group, runs[group.name], own, records, group.name in drawn))
    return "\n".join(parts)


def _summary(groups: Sequence[Group], verdicts: Mapping[tuple[str, str], Verdict]) -> str:
    counts = {word: sum(verdict.word == word for verdict in verdicts.values()) for word in VERDICTS}
    lines = [
        "Of " + str(len(verdicts)) + " claims: " + ", ".join(f"{n} {word}" for word, n in counts.items()) + ".",
        "",
    ]
    lines += ["| | claim | verdict | measured at |", "| --- | --- | --- | --- |"]
    for group in groups:
        for claim in group.claims:
            verdict = verdicts[group.name, claim.name]
            words = (f"[{group.number}](#{_anchor(group)})", claim.statement, _marked(verdict.word))
            lines.append(f"| {' | '.join((*words, ', '.join(verdict.held)))} |")
    return "\n".join(lines) + "\n"


def _heading(group: Group) -> str:
    return f"{group.number}. {group.title}"


def _anchor(group: Group) -> str:
    kept = "".join(c for c in _heading(group).lower() if c.isalnum() or c in " -")
    return kept.replace(" ", "-")


def _marked(word: str) -> str:
    return word if word.lower() == NOT_MEASURED else f"**{word}**"


def _section(
    group: Group, runs: RunsByScale, verdicts: Mapping[str, Verdict], records: Sequence[Record], drawn: bool
) -> str:
    lines = [f"## {_heading(group)}", "", f"{group.source}.", ""]
    lines += [group.notes, ""] if group.notes else []
    scales = [scale for scale in SCALES if any(arm.at(scale) for arm in group.arms)]
    lines += ["```", *(_command(group.name, scale, runs[scale]) for scale in scales), "```", ""]
    if drawn:
        lines += [f"![Figures of the source beside ours](figures/{group.tag}.png)", ""]
    lines += _boards(group, runs)
    for claim in group.claims:
        lines += _claim(claim, verdicts[claim.name], runs, records)
    return "\n".join([*lines, *_runs(group, runs)])


def _command(name: str, scale: str, runs: Mapping[str, Sequence[Record]]) -> str:
    """What makes the runs of a scale, with the seeds that are recorded."""
    seeds = sorted({record["seed"] for made in runs.values() for record in made}) or [0, 1, 2]
    return f"python recipes/claims/{name}.py --scale {scale} --seeds {','.join(map(str, seeds))}"


def _boards(group: Group, runs: RunsByScale) -> list[str]:
    """The leaderboards of the group at every scale where two arms have runs enough."""
    tables = {(title, scale): board(arms, runs[scale]) for title, arms in group.boards.items() for scale in SCALES}
    return [
        line
        for (title, scale), table in tables.items()
        if table
        for line in (f"### Leaderboard: {title} ({scale})", "", table)
    ]


def _claim(claim: Claim, verdict: Verdict, runs: RunsByScale, records: Sequence[Record]) -> list[str]:
    lines = [f"### {claim.statement}", ""]
    lines += [f"Source: {claim.where}.", ""] if claim.where else []
    lines += [f"{_marked(verdict.word.capitalize())}. Rule: {claim.rule}.", ""]
    for scale, found in verdict.found.items():
        lines += [f"- {scale}: {'holds' if verdict.held[scale] else 'does not hold'}: {found}."]
    lines += [""] if verdict.found else []
    rows = list(dict.fromkeys([*claim.rows, *_of_rule(claim)]))
    lines += ["| run | figure | source | ours, small | ours, paper |", "| --- | --- | --- | --- | --- |"]
    return [*lines, *(_row(row, runs, records) for row in rows), ""]


def _of_rule(claim: Claim) -> list[Row]:
    """Figures of the rule that the claim does not list."""
    listed = {(row.arm, row.metric) for row in claim.rows}
    return [Row(arm, metric) for arm, metric in claim.rule.figures() if (arm, metric) not in listed]


def _row(row: Row, runs: RunsByScale, records: Sequence[Record]) -> str:
    source = "" if row.source is None else f"{row.source:g}" + (f" ({row.where})" if row.where else "")
    cells = [cell([*values_of((row.arm, row.metric), runs[scale], records).values()]) for scale in SCALES]
    return f"| {row.arm} | {titled(row.metric)} | {source} | {' | '.join(cells)} |"


def _runs(group: Group, runs: RunsByScale) -> list[str]:
    """The records behind the section, by arm and scale, with the passes of a step times the epochs."""
    lines = []
    for scale in SCALES:
        for name, made in runs[scale].items():
            if made:
                links = ", ".join(f"[seed {record['seed']}](runs/{record['run_id']}.json)" for record in made)
                lines.append(f"| {name} | {scale} | {_facts(made[0])} | {links} |")
    if not lines:
        return ["No runs are recorded.", ""]
    return ["| run | scale | what | records |", "| --- | --- | --- | --- |", *lines, ""]


def _facts(record: Record) -> str:
    passes = record["details"].get("claim", {}).get("passes", {})
    cost = sum(passes.get(way, 0.0) for way in ("forward", "backward")) * record["hyper_parameters"]["epochs"]
    size = f"{record['data']['train']:,} images, {record['n_examples']} attacked"
    names = f"{markdown_cell(record['data']['name'])}, {markdown_cell(record['backbone']['name'])}"
    return f"{names}, {size}" + (f", {cost:g} passes" if passes else "")
