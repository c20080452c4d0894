"""The outcomes of recorded runs, image by image where the records have them."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from toolkit_ext.results.inference.crossed import Sample
from toolkit_ext.results.records.schema import Record
from toolkit_ext.results.tables.significance import Floats, per_example

Measure = Callable[[Record, str], float | None]


def images_of(record: Record) -> str:
    """The digest of the evaluated images and labels; empty where the record has none."""
    settings = record["details"].get("settings")
    digest = settings.get("data_sha256") if isinstance(settings, dict) else None
    return digest if isinstance(digest, str) else ""


def outcomes(record: Record, metric: str) -> Floats | None:
    """``<attack>_acc`` or ``<attack>_err`` of each image, 0 or 100, ``[n_examples]``; None if it is not recorded."""
    kind = metric[-4:]
    robust = per_example(record, metric[:-4]) if kind in ("_acc", "_err") else None
    return None if robust is None else 100.0 * (robust if kind == "_acc" else 1.0 - robust)


def sample_of(runs: Mapping[int, Record], metric: str, measure: Measure) -> Sample:
    """The outcomes of ``metric`` by seed and image; by seed alone, from ``measure``, where a run has no outcomes.

    Runs without a value are left out. Outcomes count only if all runs are of the same images.
    """
    values = {seed: value for seed, run in sorted(runs.items()) if (value := measure(run, metric)) is not None}
    rows = {seed: found for seed in values if (found := outcomes(runs[seed], metric)) is not None}
    places = {(images_of(runs[seed]), len(row)) for seed, row in rows.items()}
    if values and rows.keys() == values.keys() and len(places) == 1:
        table = np.stack([rows[seed] for seed in values]).astype(np.float64)
        return Sample(tuple(values), table, next(iter(places))[0], span=100.0)
    return Sample(tuple(values), np.array([[value] for value in values.values()], dtype=np.float64).reshape(-1, 1))
