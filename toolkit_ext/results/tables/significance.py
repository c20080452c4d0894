"""Significance of differences between rows of a table: a paired bootstrap over test images and seeds."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import deepcopy
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from toolkit_ext.results.inference import multiplicity
from toolkit_ext.results.records.schema import Record
from toolkit_ext.results.tables.aggregate import members
from toolkit_ext.results.tables.rendering import best, blocks, fewer_examples, metrics_of

LEVEL = 0.05
DRAWS = 4000
_CHUNK = 500
Floats = np.ndarray[Any, np.dtype[np.float32]]
Counts = np.ndarray[Any, np.dtype[np.uint16]]
Drawn = tuple[list[Counts], np.random.Generator]


def per_example(record: Record, attack: str) -> Floats | None:
    """Which images survive ``attack`` (``clean``, ``aa``, ``pgd20``, ...), ``[n_examples]`` of 0 and 1, or None.

    ``details.robust`` holds eight images per byte in hexadecimal, the first in the highest bit.
    """
    text = record["details"].get("robust", {}).get(attack)
    try:
        packed = np.frombuffer(bytes.fromhex(text), dtype=np.uint8)
    except (TypeError, ValueError):
        return None
    n = record["n_examples"]
    return np.unpackbits(packed, count=n).astype(np.float32) if len(packed) == (n + 7) // 8 else None


def vs_best(
    table: pd.DataFrame,
    runs: pd.DataFrame,
    records: Iterable[Record],
    *,
    metrics: Sequence[str] | None = None,
    within: pd.Series[int] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> pd.DataFrame:
    """Compare each mean of ``table`` with the best of its metric among rows of the same data set and budget.

    One column per metric: ``best``, ``worse`` (at a familywise level of 5% per metric), ``tied`` (not significantly
    worse), ``untested`` (per-example results are missing or of other images), or empty (no value, fewer examples than
    the rest, or nothing to compare with).

    Each resample draws n of the n test images with replacement, the same for every row, and the runs of each row with
    replacement. With D* the resampled difference of the means, a row is worse if twice the share of D* <= 0 (with one
    added to both counts: Davison & Hinkley 1997, eq. 4.11) is at most 5% after Holm's correction. The bootstrap
    understates the spread of two or three seeds; with one seed the result is about the models, not the method.

    Args:
        table: from :func:`~toolkit_ext.results.tables.aggregate`, in any order.
        runs: the frame behind ``table``.
        records: the records of ``runs``, in any order; others are ignored.
        metrics: the metrics to compare; by default all of ``table``. Others change no verdict.
        within: a number for each row of ``table``; rows of one number are compared.
        draws: number of resamples.
        seed: of the resamples.
    """
    known = {record["run_id"]: record for record in records}
    of_row = [[known[name] for name in names if name in known] for names in members(runs, table)]
    found = pd.DataFrame("", index=table.index, columns=metrics_of(table) if metrics is None else list(metrics))
    within = blocks(table) if within is None else within
    fewer, tops = fewer_examples(table, within).to_numpy(), best(table, within)
    drawn = cache(partial(_drawn, draws, seed))  # drawing takes longest, and blocks often have equally many images
    for _, rows in table.groupby(within).indices.items():
        rivals = [row for row in rows if not fewer[row]]
        if len(rivals) > 1:
            resampled = _resample({row: of_row[row] for row in rivals}, list(found.columns), draws, drawn)
            for column, metric in enumerate(found.columns):
                means, best_means = table[metric].iloc[rivals], tops[metric].iloc[rivals]
                found.iloc[rivals, column] = _compare(means, best_means, resampled[metric])
    return found


def _resample(
    of_row: Mapping[int, Sequence[Record]], metrics: Sequence[str], draws: int, drawn: Callable[[int], Drawn]
) -> dict[str, list[Floats | None]]:
    """For each metric and row the mean accuracy over runs in each resample, ``[draws]``; None if unknown."""
    runs = [record for records in of_row.values() for record in records]
    n = max((record["n_examples"] for record in runs), default=0)
    digests = {_images(record) for record in runs} - {None}
    same = len({record["n_examples"] for record in runs}) == 1 and len(digests) <= 1
    attacks = {metric: metric.removesuffix("_acc").removesuffix("_err") for metric in metrics if same}
    bits = {(r["run_id"], metric): per_example(r, attack) for r in runs for metric, attack in attacks.items()}
    kept = {key: value for key, value in bits.items() if value is not None}
    once = {value.tobytes(): value for value in kept.values()}  # AutoAttack and the union often leave the same images
    counts, generator = drawn(n if once else 0)
    generator = deepcopy(generator)
    resampled = dict(zip(once, _accuracies(list(once.values()), n, counts), strict=True))
    accuracies = {key: resampled[value.tobytes()] for key, value in kept.items()}
    found: dict[str, list[Floats | None]] = {metric: [] for metric in metrics}
    for group in of_row.values():
        picks = generator.integers(max(1, len(group)), size=(draws, len(group)))
        for metric in metrics:
            found[metric].append(_mean_of_picks([accuracies.get((r["run_id"], metric)) for r in group], picks))
    return found


def _mean_of_picks(accuracies: Sequence[Floats | None], picks: np.ndarray[Any, Any]) -> Floats | None:
    whole = [column for column in accuracies if column is not None]
    if not whole or len(whole) < len(accuracies):
        return None
    mean: Floats = np.take_along_axis(np.stack(whole, axis=1), picks, axis=1).mean(axis=1)
    return mean


def _images(record: Record) -> str | None:
    """The digest of the evaluated images, where the record has one."""
    settings = record["details"].get("settings", {})
    digest = settings.get("data_sha256") if isinstance(settings, dict) else None
    return digest if isinstance(digest, str) else None


def _drawn(draws: int, seed: int, n: int) -> Drawn:
    """How often each resample has each of ``n`` images, ``[draws, n]`` in chunks, and the generator after drawing."""
    generator = np.random.default_rng(seed)
    sizes = [min(_CHUNK, draws - start) for start in range(0, draws if n else 0, _CHUNK)]
    return [generator.multinomial(n, np.full(n, 1 / n), size=size).astype(np.uint16) for size in sizes], generator


def _accuracies(bits: Sequence[Floats], n: int, counts: Sequence[Counts]) -> list[Floats]:
    """The accuracy of each of ``bits`` in each resample of the images, ``[draws]``."""
    if not bits:
        return []
    stacked = np.stack(bits, axis=1)
    with threadpool_limits(1, "blas"):  # products so small end before the threads have shared them out
        return list(np.concatenate([chunk.astype(np.float32) @ stacked / n for chunk in counts]).T)


def _compare(means: pd.Series[float], tops: pd.Series[bool], resampled: Sequence[Floats | None]) -> list[str]:
    verdicts = ["best" if top else "" if np.isnan(mean) else "untested" for mean, top in zip(means, tops, strict=True)]
    leaders = [place for place, verdict in enumerate(verdicts) if verdict == "best"]
    leader = resampled[leaders[0]] if leaders else None
    if leader is None:
        return verdicts
    values = {
        place: _p_value(leader - rival)
        for place, rival in enumerate(resampled)
        if verdicts[place] == "untested" and rival is not None
    }
    for place, worse in zip(values, holm(list(values.values())), strict=True):
        verdicts[place] = "worse" if worse else "tied"
    return verdicts


def holm(p_values: Sequence[float], level: float = LEVEL) -> list[bool]:
    """Which of several hypotheses Holm's procedure rejects at ``level``."""
    return [p <= level for p in multiplicity.holm(p_values)]


def _p_value(differences: Floats) -> float:
    low = int((differences <= 1e-6).sum())  # not 0: the order of a sum changes its last bits
    return min(1.0, 2 * (1 + low) / (1 + len(differences)))
