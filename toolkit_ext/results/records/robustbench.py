"""One run as a ``model_info`` JSON of RobustBench (https://github.com/RobustBench/robustbench).

The fields are those that RobustBench's ``leaderboard/template.py`` documents and its ``leaderboard.html.j2`` prints;
as there, accuracies are text in percent with two decimals.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolkit_ext.errors import UserError
from toolkit_ext.io import atomic_write
from toolkit_ext.results.records.schema import Record
from toolkit_ext.results.tables.concise import budget
from toolkit_ext.types import Paper

RANKED = ("cifar10", "cifar100", "imagenet")
"""The data sets that RobustBench has a leaderboard for; its template takes others too."""


def model_info(record: Record, paper: Paper | None = None) -> dict[str, Any]:
    """The fields of the run; ``paper`` is that of its method, without it link, authors and venue are empty.

    ``reported``, the figure that a model's authors claim, is the run's own. ``additional_data`` is false for a model
    trained here and null, to be filled in, for any other.

    Raises:
        UserError: the run has no clean or no AutoAttack accuracy, or was evaluated by another version than standard.
    """
    run_id, protocol, metrics = record["run_id"], record["protocol"], record["metrics"]
    for metric in ("clean_acc", "aa_acc"):
        if metric not in metrics:
            raise UserError(f"--robustbench {run_id}: has no {metric}; RobustBench needs clean_acc and aa_acc")
    assert protocol is not None  # a record with metrics has one
    if protocol["version"] != "standard":
        raise UserError(f"--robustbench {run_id}: version {protocol['version']!r}; RobustBench takes standard alone")
    robust = _percent(metrics["aa_acc"])
    return {
        "link": paper.url if paper else "",
        "name": paper.title if paper else record["method"],
        "authors": paper.authors if paper else "",
        "additional_data": False if record["axes"] else None,
        "number_forward_passes": 1,
        "dataset": record["data"]["name"],
        "venue": paper.venue if paper else "",
        "architecture": record["backbone"]["name"],
        "eps": budget(protocol["eps"]),
        "clean_acc": _percent(metrics["clean_acc"]),
        "reported": robust,
        "autoattack_acc": robust,
        "footnote": _footnote(record),
        "unreliable": bool(record["warnings"]),
    }


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


def _footnote(record: Record) -> str:
    doubts = f" The evaluation warns: {'; '.join(record['warnings']).rstrip('.')}." if record["warnings"] else ""
    return f"Method {record['method']}, seed {record['seed']}, {record['n_examples']} test images.{doubts}"


def write_model_info(record: Record, path: Path | str, paper: Paper | None = None) -> Path:
    """Write :func:`model_info` to ``path``."""
    return atomic_write(Path(path), json.dumps(model_info(record, paper), indent=2, ensure_ascii=False) + "\n")
