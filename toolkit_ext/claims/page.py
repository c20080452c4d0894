"""``results/CLAIMS.md``, the verdicts on one screen, and ``results/claims/*.md``, a page for each group."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product
from pathlib import Path
from statistics import fmean, stdev

from toolkit_ext import results
from toolkit_ext.claims.claim import MEDIUM, SCALES, SEEDS, Claim, Group, Row, load_groups
from toolkit_ext.claims.figures import plot_group
from toolkit_ext.claims.runs import Runs, runs_by_scale, stand_in, titled
from toolkit_ext.claims.verdict import NOT_MEASURED, VERDICTS, Finding, Verdict, judge_group
from toolkit_ext.io import atomic_write
from toolkit_ext.results import Record
from toolkit_ext.results.tables.formatting import markdown_cell

_HEAD = """# Do the claims hold?

What the sources claim, and what this project asks, measured. `toolkit-ext claims` makes these pages and figures from
the [recipes](../recipes/claims) and the [records](runs);
[docs/claims.md](../docs/claims.md#how-a-verdict-is-reached) says how a verdict is reached.

- **supported**: the effect is there (one-sided test at 5%, corrected for the claims of a group).
- **refuted**: an effect as large as the margin δ, half of the source's or else 2 points, is excluded at the same level.
- **inconclusive**: these runs decide neither. *Precise*: the smallest detectable difference (power 80%) is at most δ.
"""
_READING = """Intervals cover 90%, over seeds, and over test images where the records have outcomes by image.
*Detectable* is the smallest difference found with a power of 80%; δ is the margin of the claim.
*δ takes* so many seeds on these images, or so many images with these seeds, for that difference to be δ.
The p-values, and so the verdicts, are corrected for the number of claims; the intervals are not.
"""
Verdicts = Mapping[str, Verdict]


def build(recipes: Path | str, folder: Path | str) -> list[Path]:
    """Write ``CLAIMS.md``, ``claims/*.md`` and ``figures/claims_*.png`` into ``folder``, the same bytes each time.

    Returns their paths. Unreadable records are skipped with a :class:`~toolkit_ext.results.RecordWarning`. A group
    without measurements has no figure. Claims of the medium scale alone are shown once it has runs. Raises
    :class:`UserError` without records or claims.
    """
    folder = Path(folder)
    records = results.read_records(folder / "runs")
    groups, made, verdicts = [], [], {}
    for every in load_groups(recipes):
        runs = runs_by_scale(every, records)
        groups.append(group := every.measurable(shown_scales(runs)))
        verdicts[group.name] = own = judge_group(group, runs)
        drawn = plot_group(group, own, folder / "figures" / f"{group.tag}.png")
        text = group_page(group, runs, own, drawn is not None)
        made += [atomic_write(folder / "claims" / f"{group.name}.md", text), *([drawn] if drawn else [])]
    return [atomic_write(folder / "CLAIMS.md", summary(groups, verdicts)), *made]


def shown_scales(runs: Mapping[str, Runs]) -> list[str]:
    """The scales with a column on the page of a group; the medium one only if it has runs."""
    return [scale for scale in SCALES if scale != MEDIUM or any(runs[scale].of.values())]


def _table(header: str, rows: Iterable[Iterable[str]]) -> list[str]:
    return [header, "| --- " * (header.count("|") - 1) + "|", *(f"| {' | '.join(row)} |" for row in rows), ""]


def summary(groups: Sequence[Group], verdicts: Mapping[str, Verdicts]) -> str:
    """The page of all groups in Markdown: the statements of sources and the questions of this project apart."""
    kinds = {False: "statements of the sources", True: "questions of this project"}
    judged = {own: [_of(group, verdicts, own) for group in groups] for own in kinds}
    lines = [_HEAD]
    for own, kind in kinds.items():
        found = [verdict for each in judged[own] for verdict in each]
        precise = sum(verdict.precise for verdict in found)
        lines += [f"Of {len(found)} {kind}: {_counts(found)}; {precise} precise.", ""]
    rows = [
        (f"[{group.number}. {group.title}](claims/{group.name}.md)", *(_counts(judged[own][place]) for own in kinds))
        for place, group in enumerate(groups)
    ]
    return "\n".join([*lines, *_table("| group | sources | own questions |", rows)])


def _of(group: Group, verdicts: Mapping[str, Verdicts], own: bool) -> list[Verdict]:
    return [verdicts[group.name][claim.name] for claim in group.claims if claim.own is own]


def _counts(verdicts: Sequence[Verdict]) -> str:
    words = [verdict.word for verdict in verdicts]
    return ", ".join(f"{words.count(word)} {word}" for word in VERDICTS if word in words)


def group_page(group: Group, runs: Mapping[str, Runs], verdicts: Verdicts, drawn: bool = False) -> str:
    """The page of a group in Markdown; ``drawn`` says whether it has a figure."""
    lines = [f"# {group.number}. {group.title}", "", f"{group.source}. [All groups](../CLAIMS.md).", ""]
    lines += [group.notes, ""] if group.notes else []
    scales = [scale for scale in shown_scales(runs) if any(arm.at(scale) for arm in group.arms)]
    commands = [command for scale in scales for command in _commands(group.name, scale, runs[scale])]
    lines += ["```", *commands, "```", ""]
    lines += [f"![Effects with 90% intervals](../figures/{group.tag}.png)", "", _READING] if drawn else []
    rows = [_statement(claim, verdicts[claim.name]) for claim in group.claims]
    lines += _table("| | statement | verdict | scale | p for | p against | precise |", rows)
    for (title, arms), scale in product(group.boards.items(), SCALES):
        if table := board(arms, runs[scale]):
            lines += [f"## Leaderboard: {title} ({scale})", "", table]
    for claim in group.claims:
        lines += _claim(claim, verdicts[claim.name], runs)
    return "\n".join([*lines, *_records(runs)])


def _statement(claim: Claim, verdict: Verdict) -> list[str]:
    p_values = [f"{p:.2g}" if verdict.findings else "" for p in (verdict.support, verdict.refute)]
    precise = "" if not verdict.findings else "yes" if verdict.precise else "no"
    asked = "own" if claim.own else "source"
    return [asked, claim.statement, _marked(verdict.word), verdict.scale, *p_values, precise]


def _marked(word: str) -> str:
    return word if word.lower() == NOT_MEASURED else f"**{word}**"


def _commands(name: str, scale: str, runs: Runs) -> list[str]:
    """The commands for the runs of a scale, one for the arms of the same recorded seeds."""
    arms: dict[tuple[int, ...], list[str]] = {}
    for arm, made in runs.of.items():
        if seeds := tuple(record["seed"] for record in made):
            arms.setdefault(seeds, []).append(arm)
    command = f"python recipes/claims/{name}.py --scale {scale} --seeds "
    if len(arms) < 2:
        return [command + ",".join(map(str, next(iter(arms), range(SEEDS))))]
    return [
        command + ",".join(map(str, seeds)) + "".join(f' --only "{arm}"' for arm in names)
        for seeds, names in arms.items()
    ]


def _claim(claim: Claim, verdict: Verdict, runs: Mapping[str, Runs]) -> list[str]:
    lines = [f"## {claim.statement}", ""]
    lines += [f"Source: {claim.where}.", ""] if claim.where else []
    lines += [f"{_marked(verdict.word.capitalize())}. Rule: {claim.rule}.", ""]
    lines += [f"{text}\n" for text in _collapsed(claim, verdict, runs)]
    findings = [("best", each) for each in verdict.findings] + [("last, APGD-CE", each) for each in verdict.last]
    if findings:
        header = "| quantity | epoch | source | ours | 90% interval | detectable | δ | δ takes |"
        lines += _table(header, [_finding(epoch, each) for epoch, each in findings])
    rows = [_row(row, runs) for row in claim.table()]
    ours = " | ".join(f"ours, {scale}" for scale in shown_scales(runs))
    return lines + _table(f"| run | figure | source | {ours} |", rows)


def _collapsed(claim: Claim, verdict: Verdict, runs: Mapping[str, Runs]) -> list[str]:
    """A sentence for each arm with runs that ended as a constant classifier."""
    if not verdict.scale or claim.about_collapse:
        return []
    found = {arm: runs[verdict.scale].ended_constant(arm) for arm in claim.arms()}
    return [
        f"{arm} ended as a constant classifier with seed {', '.join(map(str, seeds))}"
        + (": it is not compared." if arm in verdict.constant else ".")
        for arm, seeds in found.items()
        if seeds
    ]


def _finding(epoch: str, finding: Finding) -> list[str]:
    of = finding.part.unit
    low, high = finding.interval
    source = "" if finding.source is None else f"{finding.source:.4g}{of}"
    detectable = f"{finding.detectable:.2f}{of}" if math.isfinite(finding.detectable) else "none"
    between = f"{low:.2f} to {high:.2f}"
    return [
        finding.part.label,
        epoch,
        source,
        f"{finding.value:.2f}{of}",
        between,
        detectable,
        f"{finding.part.delta:g}{of}",
        "" if finding.needed is None else str(finding.needed),
    ]


def _row(row: Row, runs: Mapping[str, Runs]) -> list[str]:
    source = "" if row.source is None else f"{row.source:g}" + (f" ({row.where})" if row.where else "")
    ours = [list(runs[scale].values((row.arm, row.metric)).values()) for scale in shown_scales(runs)]
    cells = [results.concise(fmean(values), stdev(values)) if len(values) >= SEEDS else NOT_MEASURED for values in ours]
    return [row.arm, titled(row.metric), source, *cells]


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
    means = {arm: [_accuracy(runs.of[arm], metric) for metric in ("aa_acc", "clean_acc")] for arm in measured}
    return {arm: means[arm][0] for arm in sorted(measured, key=means.__getitem__, reverse=True)}


def _accuracy(runs: Sequence[Record], metric: str) -> float:
    # Rounded for ties: the order of a sum changes its last bits.
    return round(fmean(record["metrics"].get(metric, 0.0) for record in runs), 9)


def _records(runs: Mapping[str, Runs]) -> list[str]:
    rows = [
        (name, scale, _facts(made[0]), ", ".join(f"[seed {run['seed']}](../runs/{run['run_id']}.json)" for run in made))
        for scale in SCALES
        for name, made in runs[scale].of.items()
        if made
    ]
    return (
        ["## Records", "", *_table("| run | scale | what | records |", rows)] if rows else ["No runs are recorded.", ""]
    )


def _facts(record: Record) -> str:
    passes = record["details"].get("claim", {}).get("passes", {})
    # The passes of a step times the epochs.
    cost = sum(passes.get(way, 0.0) for way in ("forward", "backward")) * record["hyper_parameters"]["epochs"]
    size = f"{record['data']['train']:,} images, {record['n_examples']} attacked"
    if stand_in("aa_acc", [record]) != "aa_acc":
        size += " (APGD-CE and APGD-T in place of AutoAttack)"
    names = f"{markdown_cell(record['data']['name'])}, {markdown_cell(record['backbone']['name'])}"
    return f"{names}, {size}" + (f", {cost:g} passes" if passes else "")
