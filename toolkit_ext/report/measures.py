"""Further tables of a run: accuracy by class, agreement of its attacks, confidence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from toolkit_ext.results import Record, label
from toolkit_ext.results.inference.agreement import agreement
from toolkit_ext.results.tables.formatting import concise

_MOST_CLASSES = 20  # of more, those with the lowest robust accuracy are shown


@dataclass(frozen=True)
class Measure:
    """A table under a run."""

    heading: str
    columns: list[str]
    lines: list[list[str]]


def measures(record: Record) -> list[Measure]:
    """The tables that the record has the figures for."""
    found = (_classes(record["details"].get("classes", {})), _agreement(record), _confidence(record))
    return [measure for measure in found if measure]


def _name(attack: str) -> str:
    return label(f"{attack}_acc")


def _classes(classes: Mapping[str, Sequence[int]]) -> Measure | None:
    names = [name for name in classes if name not in ("images", "union")]
    known = [k for k, images in enumerate(classes.get("images", ())) if images]
    if not names or len(known) < 2:
        return None
    robust = classes["aa" if "aa" in names else names[-1]]
    by_robust = sorted(known, key=lambda k: robust[k] / classes["images"][k])[:_MOST_CLASSES]
    lines = [
        [str(k), str(classes["images"][k]), *(concise(100 * classes[name][k] / classes["images"][k]) for name in names)]
        for k in by_robust
    ]
    heading = "Classes" if len(known) <= _MOST_CLASSES else f"The {_MOST_CLASSES} worst of {len(known)} classes"
    return Measure(heading, ["class", "images", *map(_name, names)], lines)


def _agreement(record: Record) -> Measure | None:
    lines = [
        [
            f"{_name(pair.first)}, {_name(pair.second)}",
            *map(str, (pair.both, pair.first_only, pair.second_only)),
            concise(100 * pair.share),
            "" if math.isnan(pair.kappa) else f"{pair.kappa:.3f}",
        ]
        for pair in agreement(record)
    ]
    columns = ["attacks", "both break", "first alone", "second alone", "agree %", "kappa"]
    return Measure("Agreement of the attacks", columns, lines) if lines else None


def _confidence(record: Record) -> Measure | None:
    found = record["details"].get("confidence", {})
    lines = [
        [_name(name), *(concise(100 * row[key]) for key in ("ece", "brier", "margin")), f"{row['nll']:.3f}"]
        for name, row in found.items()
    ]
    return Measure("Confidence", ["attack", "ECE %", "Brier %", "margin %", "NLL"], lines) if lines else None
