"""The paired comparison of two sets of runs, image by image and seed by seed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import t as student

from toolkit_ext.errors import UserError
from toolkit_ext.results.inference.crossed import LEVEL, Estimate, Sample, contrast
from toolkit_ext.results.inference.samples import images_of, outcomes, sample_of
from toolkit_ext.results.records.record import read_record, read_records
from toolkit_ext.results.records.schema import Record
from toolkit_ext.results.tables.formatting import budget, label

# What two runs must share to be compared, in the words of the refusal.
_SHARED: dict[str, Callable[[Record], Any]] = {
    "data sets": lambda record: record["data"]["name"],
    "protocols": lambda record: record["protocol"] and record["protocol"]["name"],
    "norms": lambda record: record["protocol"] and record["protocol"]["norm"],
    "eps": lambda record: record["protocol"] and budget(record["protocol"]["eps"]),
    "versions of AutoAttack": lambda record: record["protocol"] and record["protocol"]["version"],
    "numbers of test images": lambda record: record["n_examples"],
    "test images (data_sha256)": images_of,
}


@dataclass(frozen=True)
class Difference:
    """``second − first`` in percentage points, for one metric; ``p`` is two-sided."""

    metric: str
    first: float
    second: float
    estimate: Estimate

    @property
    def p(self) -> float:
        return min(1.0, 2 * min(self.estimate.p_above(0.0), self.estimate.p_below(0.0)))


@dataclass(frozen=True)
class Comparison:
    """The differences of two sets of runs, and what their intervals count."""

    names: tuple[str, str]
    differences: tuple[Difference, ...]
    counted: str

    def headline(self) -> str:
        """One line: AutoAttack, or the first metric."""
        chosen = next((d for d in self.differences if d.metric == "aa_acc"), self.differences[0])
        low, high = chosen.estimate.interval()
        first, second = self.names
        side = "higher than" if low > 0 else "lower than" if high < 0 else "not distinguished from"
        return (
            f"{label(chosen.metric)} accuracy of {second} is {side} that of {first}: "
            f"{chosen.estimate.value:+.2f} points, 90% interval {low:.2f} to {high:.2f}, {self.counted}"
        )

    def table(self) -> str:
        """A Markdown table, one row for each metric."""
        lines = ["| metric | first | second | difference | 90% interval | p | detectable |", "| --- " * 7 + "|"]
        for each in self.differences:
            low, high = each.estimate.interval()
            cells = [label(each.metric), f"{each.first:.2f}", f"{each.second:.2f}", f"{each.estimate.value:+.2f}"]
            cells += [f"{low:.2f} to {high:.2f}", f"{each.p:.2g}", f"{each.estimate.detectable():.2f}"]
            lines.append(f"| {' | '.join(cells)} |")
        return "\n".join(lines)


def find_runs(text: str, folder: Path | str, *, all_seeds: bool = False) -> list[Record]:
    """The records that ``text`` names: run_ids in ``folder``, paths or patterns of either, separated by commas.

    With ``all_seeds`` also those in ``folder`` that differ from the first in their seed alone, the newest of each.
    Raises :class:`UserError` if there is none, or if several differ in more than their seed.
    """
    files = dict.fromkeys(file for name in text.split(",") for file in _files(name, Path(folder)))
    runs = [read_record(file) for file in files]
    if all_seeds:
        ordered = sorted(read_records(folder), key=lambda run: run["created"])
        found = {run["seed"]: run for run in ordered if _without_seed(run) == _without_seed(runs[0])}
        runs = list({**found, **{run["seed"]: run for run in runs}}.values())
    if len({_without_seed(run) for run in runs}) > 1 or len({run["seed"] for run in runs}) < len(runs):
        raise UserError(f"RUN: {text!r} names {len(runs)} runs that differ in more than their seed; name one setting")
    return sorted(runs, key=lambda run: run["seed"])


def _files(name: str, folder: Path) -> list[Path]:
    path = Path(name) if name.endswith(".json") else Path(f"{name}.json")
    place = path if path.parent != Path() or path.is_file() else folder / path
    files = sorted(place.parent.glob(place.name))
    if not files:
        raise UserError(
            f"RUN: {name!r} names no record; it must be a run_id in {folder}, a path, or a pattern of either"
        )
    return files


def _without_seed(run: Record) -> str:
    """All that the runs of one setting share; a probe of a trained model is a setting of its own."""
    given = {name: value for name, value in run["hyper_parameters"].items() if name != "seed"}
    facts = given, run["axes"], run["data"], run["backbone"], run["protocol"], run["n_examples"]
    return json.dumps((run["method"], facts), sort_keys=True)


def compare(first: Sequence[Record], second: Sequence[Record]) -> Comparison:
    """``second − first`` for every accuracy that all runs have by image.

    The variance counts images and seeds (:mod:`~toolkit_ext.results.inference.crossed`), paired by image, and by seed
    where both sides have the same seeds. With one run on a side, it counts images alone: the result is about these
    models, not about their settings.

    Raises:
        UserError: other images, eps, norm or protocol on the two sides, the same run twice, or no outcomes by image.
    """
    runs = [*first, *second]
    if {run["run_id"] for run in first} & {run["run_id"] for run in second}:
        raise UserError(f"RUN: {first[0]['run_id']} is on both sides; name two different runs")
    for what, of in _SHARED.items():
        found = dict.fromkeys(str(of(run)) for run in runs)
        if len(found) > 1:
            raise UserError(f"RUN: the runs have different {what} ({', '.join(found)}); they must be the same")
    metrics = [name for name in first[0]["metrics"] if all(outcomes(run, name) is not None for run in runs)]
    if not metrics:
        raise UserError("RUN: the runs have no outcomes by image (details.robust) in common; evaluate them again")
    single = min(len(first), len(second)) < 2
    differences = []
    for metric in metrics:
        samples = [sample_of({run["seed"]: run for run in side}, metric, _value) for side in (first, second)]
        estimate = over_images(*samples) if single else contrast((-1.0, 1.0), samples)
        differences.append(Difference(metric, samples[0].mean, samples[1].mean, estimate))
    return Comparison((_name(first), _name(second)), tuple(differences), _counted(first, second, single))


def over_images(first: Sample, second: Sample) -> Estimate:
    """The paired t-test over images of the mean outcomes; for outcomes all alike, as in :func:`contrast`."""
    differences = second.outcomes.mean(axis=0) - first.outcomes.mean(axis=0)
    n = len(differences)
    error = float(differences.std(ddof=1)) / math.sqrt(n) if n > 1 else math.inf
    if error == 0:
        error = second.span * (1 - LEVEL ** (1 / n)) / float(student.ppf(1 - LEVEL, n - 1))
    return Estimate(float(np.mean(differences)), error, max(n - 1.0, 1.0))


def _value(record: Record, metric: str) -> float | None:
    """Only whether there is one counts, as all runs have the outcomes by image."""
    return record["metrics"].get(metric)


def _name(runs: Sequence[Record]) -> str:
    seeds = f" ({len(runs)} seeds)" if len(runs) > 1 else ""
    return f"{runs[0]['run_id']}{seeds}"


def _counted(first: Sequence[Record], second: Sequence[Record], single: bool) -> str:
    n = first[0]["n_examples"]
    if single:
        return f"over {n} images alone, as one side is a single run"
    paired = "paired by seed" if {r["seed"] for r in first} == {r["seed"] for r in second} else "seeds apart"
    return f"over {n} images and {len(first)} and {len(second)} seeds, {paired}"
