"""What can be read from the record of a run: accuracies, errors, times, how it ended, and what probes found."""

from __future__ import annotations

import re
from typing import Any

from toolkit_ext.results import Record, label

_WORDS = {
    "epoch_s": "seconds of an epoch",
    "failed": "share of runs that stopped at a loss that is not finite",
    "constant": "share of runs that end as a constant classifier",
    "dead": "share of runs with a dead layer",
    "lost": "share of runs that fail or end as a constant classifier",
    "grad_norm": "gradient norm in the last epoch",
    "distance": "distance from the initial weights",
}
# The figure of the last measured epoch that says so, and from where on.
_STATES = {"constant": ("val_top_share", 0.99), "dead": ("dead_share", 1.0)}


def measure(record: Record, metric: str) -> float | None:
    """The value of ``metric`` in ``record``; None where the run does not have it.

    ``<attack>_acc`` and ``<attack>_err`` are percentages. ``epoch_s`` is the shortest epoch: other processes of the
    machine and the measurements after some epochs can only make one longer. ``failed``, ``constant``, ``lost`` and
    ``dead`` are 0 or 100, so that their mean is the percentage of runs; ``grad_norm`` and ``distance`` are of the last
    epoch. Anything else is a fact that a probe left in the record.
    """
    if metric == "failed":
        return 100.0 * any(alarm["kind"] == "non_finite_loss" for alarm in record["alarms"])
    if metric == "lost":
        return max(measure(record, "failed") or 0.0, measure(record, "constant") or 0.0)
    if metric in ("grad_norm", "distance"):
        return history(record)[-1].get(metric) if history(record) else None
    if metric in _STATES:
        column, bound = _STATES[metric]
        shares = [row[column] for row in history(record) if column in row]
        return 100.0 * (shares[-1] >= bound) if shares else None
    if metric == "epoch_s":
        return min((row["seconds"] for row in history(record)), default=None)
    known = {**record["metrics"], **probed(record).get("facts", {})}
    if metric.endswith("_err") and metric not in known:
        accuracy = known.get(f"{metric.removesuffix('_err')}_acc")
        return None if accuracy is None else 100.0 * (1 - accuracy)
    value = known.get(metric)
    return value if value is None else float(value) * (100.0 if is_share(metric) else 1.0)


def is_share(metric: str) -> bool:
    """Whether a metric is a fraction in the record, and printed as a percentage."""
    return metric.endswith(("_acc", "_err"))


def probed(record: Record) -> dict[str, Any]:
    """What a probe of a trained model left: its ``name``, the run it is ``of``, its ``facts``; else nothing."""
    found = record["details"].get("probe")
    return found if isinstance(found, dict) else {}


def history(record: Record) -> list[dict[str, Any]]:
    """The epochs of the training; empty where there was none."""
    training = record["details"].get("training")
    rows = training.get("history") if isinstance(training, dict) else None
    return rows if isinstance(rows, list) else []


def describe(metric: str) -> str:
    """The metric as a text says it; ``<probe>:<metric>`` is a metric of a probe of the trained model."""
    probe, _, name = metric.rpartition(":")
    if name in _WORDS:
        return _WORDS[name]
    kind = {"_err": " error", "_acc": " accuracy"}.get(name[-4:], "")
    text = label(f"{name[:-4]}_acc") if kind else name.replace("_", " ")
    return f"{text}{kind}{f' ({probe})' if kind and probe else ''}"


def titled(metric: str) -> str:
    """The metric with its unit, ``AutoAttack error [%]``."""
    of = unit(metric).strip()
    return f"{describe(metric)} [{of}]" if of else describe(metric)


def family(metric: str) -> tuple[str, str]:
    """The family of a probe's metric, and the number that tells its members apart (empty if there is none).

    >>> family("similarity:cosine_random_0.3")
    ('similarity:cosine_random', '0.3')
    """
    number = re.search(r"(?<=[a-z_])\d[\d.]*", metric) if ":" in metric else None
    if number is None:
        return metric, ""
    return (metric[: number.start()].rstrip("_") + metric[number.end() :]), number.group()


def unit(metric: str) -> str:
    """``%`` for shares, `` s`` for seconds, nothing for plain numbers."""
    if metric in ("failed", "lost", *_STATES) or is_share(metric):
        return "%"
    return " s" if metric.endswith("_s") else ""


def unit_of_difference(metric: str) -> str:
    """The unit of a difference of two values: `` points`` for shares, else that of the metric."""
    return " points" if unit(metric) == "%" else unit(metric)
