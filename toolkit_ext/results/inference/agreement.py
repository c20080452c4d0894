"""How far two attacks break the same images."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import combinations

from toolkit_ext.results.records.schema import Record
from toolkit_ext.results.tables.significance import per_example


@dataclass(frozen=True)
class Agreement:
    """Two attacks on the images that the model gets right: how many both, one or neither of them breaks."""

    first: str
    second: str
    both: int
    first_only: int
    second_only: int
    neither: int

    @property
    def share(self) -> float:
        """The share of the images on which both agree; NaN without images."""
        total = self.both + self.first_only + self.second_only + self.neither
        return (self.both + self.neither) / total if total else math.nan

    @property
    def kappa(self) -> float:
        """Cohen's kappa, ``(p_o − p_e) / (1 − p_e)`` with the observed and the expected share of agreement.

        NaN where chance alone would always agree, as when both break all images.

        References:
            Cohen: A coefficient of agreement for nominal scales. Educational and Psychological Measurement 20, 1960.
        """
        total = self.both + self.first_only + self.second_only + self.neither
        broken = ((self.both + self.first_only) * (self.both + self.second_only)) if total else 0
        left = (self.second_only + self.neither) * (self.first_only + self.neither)
        expected = (broken + left) / total**2 if total else 1.0
        return (self.share - expected) / (1 - expected) if expected < 1 else math.nan


def agreement(record: Record) -> list[Agreement]:
    """The agreement of every two attacks of ``record``, from its results for each image.

    The parts of AutoAttack are left out, since each attacks only what the earlier ones left.
    """
    names = [name for name in record["details"].get("robust", {}) if "/" not in name and name not in ("clean", "union")]
    clean = per_example(record, "clean")
    bits = {name: found for name in names if (found := per_example(record, name)) is not None}
    if clean is None:
        return []
    right = clean > 0
    made = []
    for first, second in combinations(bits, 2):
        one, other = bits[first][right] == 0, bits[second][right] == 0
        counts = (one & other, one & ~other, ~one & other, ~one & ~other)
        made.append(Agreement(first, second, *(int(flags.sum()) for flags in counts)))
    return made
