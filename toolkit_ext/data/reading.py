"""How a source is read, which is part of a run's identity, and how its images are kept, which is not; without torch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from toolkit_ext.bounds import COUNT, SHARE, Bounds, check_options
from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.types import option

if TYPE_CHECKING:
    from toolkit_ext.data.pixels import Frame

CROP_PCT = 0.875
"""timm's default of ``crop_pct``."""

EXTRA_FRACTION = 0.7
"""Share of extra images in a batch, as Wang et al. (2023) have it with 1M generated images."""

ON_BAD_IMAGE = ("error", "skip")
IN_MEMORY = ("auto", "on", "off")
WORKERS = Bounds(least=0)  # 0 is this process
_MOST_WORKERS = 16


def check_extra(given: bool, fraction: Any) -> float | None:
    """The share of extra images in a batch; None where there is no extra data.

    Args:
        given: Whether there is extra data.
        fraction: The share as the user gave it; None for :data:`EXTRA_FRACTION`.

    Raises:
        UserError: a share without extra data, or outside of (0, 1).
    """
    if fraction is None:
        return EXTRA_FRACTION if given else None
    if not given:
        raise UserError("extra_fraction: has no effect without extra_data")
    return float(SHARE.check("extra_fraction", fraction))


@dataclass(frozen=True)
class Reading:
    """How a source is read. Everything here can change a result.

    ``training_only`` is for extra data: the source needs no test part, and gives none.
    """

    image_size: int | None = option(None, "pixels of the square that images are resized and cropped to", COUNT)
    crop_pct: float | None = option(
        None,
        f"share of the resized image's short side that the crop keeps, as in timm  [default: {CROP_PCT}]",
        Bounds(above=0, most=1),
    )
    train_split: str | None = option(None, "name of the training split  [default: train]")
    validation_split: str | None = option(None, "name of the validation split  [default: val, if test exists]")
    test_split: str | None = option(None, "name of the test split  [default: test, or else val]")
    test_fraction: float | None = option(
        None, "share of the training images to test on, where no split is for tests", Bounds(above=0, below=1)
    )
    group_pattern: str | None = option(
        None, "regular expression that finds an image's group in its path; --test-fraction never splits a group"
    )
    on_bad_image: str = option("error", "an image that cannot be read: error, or skip (all are checked at the start)")
    training_only: bool = False

    def __post_init__(self) -> None:
        check_options(self)  # a checkpoint may tell how its data was read, so values can be anything
        check_choice("on_bad_image", self.on_bad_image, ON_BAD_IMAGE)
        if self.crop_pct is not None and self.image_size is None:
            raise UserError("crop_pct: has no effect without image_size")
        if self.group_pattern is not None and self.test_fraction is None:
            raise UserError("group_pattern: has no effect without test_fraction")
        try:
            re.compile(self.group_pattern or "")
        except re.error as error:
            raise UserError(f"group_pattern: {self.group_pattern!r} is no regular expression: {error}") from None

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Self:
        """From the options by name, such as :meth:`given` returns.

        Raises:
            UserError: an unknown name, or a value that is not allowed.
        """
        for name in given:
            check_choice("option of data", name, (entry.name for entry in fields(cls)))
        return cls(**given)

    def given(self) -> dict[str, Any]:
        """The options that differ from their defaults."""
        values = {entry.name: getattr(self, entry.name) for entry in fields(self)}
        named = [entry for entry in fields(self) if entry.metadata]  # those that users have as options
        return {entry.name: values[entry.name] for entry in named if values[entry.name] != entry.default}

    @property
    def frame(self) -> Frame:
        """How images are resized and cropped."""
        from toolkit_ext.data.pixels import Frame  # here, because it loads torch

        return Frame(self.image_size, CROP_PCT if self.crop_pct is None else self.crop_pct)

    def refuse(self, data: str, *names: str) -> None:
        """Raise :class:`UserError` if one of the options ``names`` was given, which ``data`` does not take."""
        if refused := [name for name in names if name in self.given()]:
            value = getattr(self, refused[0])
            raise UserError(f"{refused[0]}: {value} is not allowed for {data}, which has no use for it")


@dataclass(frozen=True)
class Engine:
    """How images are kept: none of it changes a result.

    Args:
        in_memory: ``on`` decodes everything at the start, ``off`` decodes each batch when it is needed, ``auto`` is
            ``on`` up to a quarter of the free memory.
        workers: Processes that decode batches, threads that decode at the start; by default one per core, at most 16.
        cache: Folder for decoded images, which later runs read instead of decoding again.
    """

    in_memory: str = "auto"
    workers: int | None = option(None, "processes that decode batches, threads that decode at the start", WORKERS)
    cache: Path | None = None

    def __post_init__(self) -> None:
        check_options(self)
        check_choice("in_memory", self.in_memory, IN_MEMORY)

    @property
    def processes(self) -> int:
        """The number of workers, chosen if none is given."""
        if self.workers is not None:
            return self.workers
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        return min(cores, _MOST_WORKERS)
