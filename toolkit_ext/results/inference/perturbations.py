"""The smallest radius at which each image is broken, from evaluations of one model at several radii."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from toolkit_ext.results.inference.samples import images_of
from toolkit_ext.results.records.consistency import wilson
from toolkit_ext.results.records.schema import Record
from toolkit_ext.results.tables.significance import Floats, per_example


@dataclass(frozen=True)
class PerturbationCurve:
    """The share of the images that are broken within each radius of ``eps``, with 95% Wilson intervals.

    Minimal perturbations are known between two radii only: an image of ``smallest`` eps_i was broken at eps_i, and at
    no smaller radius that was tried. It is 0 for misclassified images and infinite for images that no radius broke.
    """

    norm: str
    attack: str
    eps: tuple[float, ...]
    share: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    smallest: Floats

    @property
    def median(self) -> float:
        """The smallest radius tried that breaks at least half of the images; infinite if none does."""
        return next((eps for eps, share in zip(self.eps, self.share, strict=True) if share >= 0.5), math.inf)


def perturbation_curve(records: Iterable[Record], attack: str = "aa") -> PerturbationCurve | None:
    """The curve of one model under ``attack``; None without results for each image at two radii.

    Unlike accuracies at single radii, the share never falls as eps grows: an image that was broken within a smaller
    ball is broken within a larger one. Records of other images, norms or AutoAttack versions than the first are left
    out. Radius 0 is the clean accuracy.
    """
    found: dict[float, Floats] = {}
    clean: Floats | None = None
    about: tuple[str, str, str, int] | None = None
    for record in sorted(records, key=lambda each: (-each["n_examples"], each["created"], each["run_id"])):
        protocol, bits = record["protocol"], per_example(record, attack)
        if protocol is None or bits is None:
            continue
        same = (protocol["norm"], protocol["version"], images_of(record), record["n_examples"])
        about = about or same
        if same == about:
            at = protocol["eps"]
            found[at] = np.minimum(found[at], bits) if at in found else bits
            clean = per_example(record, "clean") if clean is None else clean
    radii = sorted(at for at in found if at > 0)
    if about is None or clean is None or len(radii) < 2:
        return None
    smallest = np.full(about[3], math.inf, dtype=np.float32)
    for at in reversed(radii):
        smallest[found[at] == 0] = at
    smallest[clean == 0] = 0.0
    return _curve(about[0], attack, (0.0, *radii), smallest)


def _curve(norm: str, attack: str, radii: tuple[float, ...], smallest: Floats) -> PerturbationCurve:
    n = len(smallest)
    counts = [int((smallest <= at).sum()) for at in radii]
    bounds = [wilson(count, n) for count in counts]
    low, high = tuple(max(0.0, low) for low, _ in bounds), tuple(min(1.0, high) for _, high in bounds)
    return PerturbationCurve(norm, attack, radii, tuple(count / n for count in counts), low, high, smallest)
