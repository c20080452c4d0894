"""``details.classes`` of a record: how many images of each class there are, and how many each column leaves right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Counts = Mapping[str, Sequence[int]]
IMAGES = "images"


def worst_classes(classes: Counts) -> dict[str, float]:
    """The accuracy of the class where it is lowest, for every column; classes without images are left out."""
    images = classes.get(IMAGES, ())
    return {
        name: min(part / whole for part, whole in zip(right, images, strict=True) if whole)
        for name, right in classes.items()
        if name != IMAGES and any(images)
    }


def contradiction_in(classes: Counts, right: Mapping[str, int], n: int) -> str:
    """What is wrong with ``classes`` of ``n`` images, of which columns leave ``right`` so many; empty if nothing is."""
    images = classes.get(IMAGES, ())
    if sum(images) != n or min(images, default=-1) < 0:
        return f"details.classes.{IMAGES} has {sum(images)} images of {n}"
    for name, counts in classes.items():
        fits = len(counts) == len(images) and all(0 <= part <= of for part, of in zip(counts, images, strict=True))
        if not fits or (name in right and sum(counts) != right[name]):
            return f"details.classes.{name} does not count the images of details.robust.{name}"
    return ""
