"""How many seeds or images a comparison needs: the variances of seeds, images and their interaction, put together anew.

With the variance components of :mod:`toolkit_ext.results.inference.crossed`, an estimate from S seeds on N images has

    V(S, N) = Σ_p [σ_a,p²/S + σ_e,p²/(S N)] + σ_b²/N

over its parts p of independent seeds (one, if the arms share their seeds), and Satterthwaite's degrees of freedom.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

MOST = 1000  # seeds that are looked at
MOST_IMAGES = 100_000


@dataclass(frozen=True)
class Needed:
    """What finds δ with a power of 80%: ``seeds`` on the images of today, ``images`` with the seeds of today.

    ``at_best`` are the seeds on any number of images. ``None`` where even :data:`MOST` seeds, or :data:`MOST_IMAGES`
    images, do not.
    """

    seeds: int | None
    images: int | None
    at_best: int | None

    def __str__(self) -> str:
        """Such as ``10 seeds or 640 images``.

        >>> print(Needed(None, 1400, 2), Needed(None, None, 71), Needed(34, None, 34), sep="; ")
        1,400 images; 71 seeds, on more images; 34 seeds
        """
        ways = ((self.seeds, "seeds"), (self.images, "images"))
        if found := [f"{count:,} {what}" for count, what in ways if count is not None]:
            return " or ".join(found)
        return f"over {MOST:,} seeds" if self.at_best is None else f"{self.at_best:,} seeds, on more images"


@dataclass(frozen=True)
class Components:
    """σ_a² and σ_e² of each part, and σ_b² of the images, as estimated from ``seeds`` and ``images`` of today.

    Where runs have one number each, ``images`` is 1 and the last two variances are 0.
    """

    of_seeds: tuple[float, ...]
    of_interaction: tuple[float, ...]
    of_images: float
    seeds: int
    images: int

    def variance(self, seeds: int, images: float) -> tuple[float, float]:
        """``V(seeds, images)`` and its degrees of freedom; ``images`` may be infinite."""
        parts = [a / seeds + e / (seeds * images) for a, e in zip(self.of_seeds, self.of_interaction, strict=True)]
        shared = self.of_images / images
        squares = sum(part**2 for part in parts) / (seeds - 1)
        if shared:
            squares += shared**2 / (images - 1)
        total = sum(parts) + shared
        return total, total**2 / squares if squares else math.inf

    def needed(self, delta: float, detectable: Callable[[float, float], float]) -> Needed:
        """The fewest seeds or images whose smallest detectable difference is ``delta``.

        ``detectable`` gives that difference from a standard error and its degrees of freedom.
        """

        def finds(seeds: int, images: float) -> bool:
            variance, freedom = self.variance(seeds, images)
            return detectable(math.sqrt(variance), freedom) <= delta

        many = range(2, MOST + 1)
        seeds = first(lambda count: finds(count, self.images), many)
        if self.images == 1:
            return Needed(seeds, None, seeds)
        images = first(lambda count: finds(self.seeds, count), range(2, MOST_IMAGES + 1))
        return Needed(seeds, images, first(lambda count: finds(count, math.inf), many))


def first(holds: Callable[[int], bool], numbers: Sequence[int]) -> int | None:
    """The first of ``numbers`` for which ``holds``, which holds for all that follow, too."""
    place = bisect_left(numbers, True, key=holds)
    return numbers[place] if place < len(numbers) else None
