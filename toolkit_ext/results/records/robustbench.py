"""A run as an entry of RobustBench: https://github.com/RobustBench/robustbench."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from toolkit_ext.errors import UserError, check_choice, check_file_name
from toolkit_ext.io import atomic_write
from toolkit_ext.results.records.schema import Record
from toolkit_ext.results.tables.formatting import budget, concise
from toolkit_ext.types import Paper

RANKED = ("cifar10", "cifar100", "imagenet")
"""Data sets with a RobustBench leaderboard."""


def model_info(record: Record, paper: Paper | None = None) -> dict[str, Any]:
    """One run as the ``model_info`` JSON of RobustBench (https://github.com/RobustBench/robustbench).

    The fields are those of its ``leaderboard/template.py`` and ``leaderboard.html.j2``, accuracies as text in percent.
    Without ``paper``, link, authors and venue are empty. ``reported`` is the run's own figure. ``additional_data`` says
    whether a model trained here had extra data, and is None, to be filled in, for any other.

    Raises :class:`UserError` without clean or AutoAttack accuracy, or for another version than standard.
    """
    run_id, protocol, metrics = record["run_id"], record["protocol"], record["metrics"]
    for metric in ("clean_acc", "aa_acc"):
        if metric not in metrics:
            raise UserError(f"--robustbench {run_id}: has no {metric}; RobustBench needs clean_acc and aa_acc")
    assert protocol is not None  # a record with metrics has one
    if protocol["version"] != "standard":
        raise UserError(f"--robustbench {run_id}: version {protocol['version']!r}; RobustBench takes standard alone")
    robust = concise(100 * metrics["aa_acc"])
    return {
        "link": paper.url if paper else "",
        "name": paper.title if paper else record["method"],
        "authors": paper.authors if paper else "",
        "additional_data": _extra_data(record),
        "number_forward_passes": 1,
        "dataset": record["data"]["name"],
        "venue": paper.venue if paper else "",
        "architecture": record["backbone"]["name"],
        "eps": budget(protocol["eps"]),
        "clean_acc": concise(100 * metrics["clean_acc"]),
        "reported": robust,
        "autoattack_acc": robust,
        "footnote": _footnote(record),
        "unreliable": bool(record["warnings"]),
    }


def _extra_data(record: Record) -> bool | None:
    """Whether the training had images besides those of its data set; None if it was not ours."""
    return bool(record["details"].get("data", {}).get("extra")) if record["axes"] else None


def _footnote(record: Record) -> str:
    doubts = f" The evaluation warns: {'; '.join(record['warnings']).rstrip('.')}." if record["warnings"] else ""
    return f"Method {record['method']}, seed {record['seed']}, {record['n_examples']} test images.{doubts}"


def write_model_info(record: Record, path: Path | str, paper: Paper | None = None) -> Path:
    """Write :func:`model_info` to ``path``."""
    return atomic_write(Path(path), json.dumps(model_info(record, paper), indent=2, ensure_ascii=False) + "\n")


def write_entry(
    record: Record,
    folder: Path | str,
    paper: Paper | None = None,
    *,
    name: str | None = None,
    additional_data: bool | None = None,
) -> Path:
    """Write :func:`model_info` where RobustBench looks for it, ``FOLDER/<data set>/<norm>/NAME.json``.

    Args:
        record: A run on one of :data:`RANKED`.
        folder: RobustBench's ``model_info``.
        paper: What the entry refers to.
        name: By default the paper's, in RobustBench's form: first author, year, first word of the title.
        additional_data: Whether the model was trained with more data than the data set's, where the record does not
            tell.

    Raises:
        UserError: a run that RobustBench's leaderboards do not take, or a fact that is missing.
    """
    info = model_info(record, paper)
    check_choice(f"export_robustbench {record['run_id']}: data", record["data"]["name"], RANKED)
    if additional_data is not None:
        info["additional_data"] = additional_data
    if info["additional_data"] is None:
        told = f"{record['run_id']} was not trained here; give --additional-data or --no-additional-data"
        raise UserError(f"additional_data: {told}")
    name = name or (_name(paper) if paper else None)
    if name is None:
        raise UserError("name: is missing; give the name of the entry, such as Author2026Word")
    protocol = record["protocol"]
    assert protocol is not None  # model_info needs its accuracy
    path = Path(folder) / info["dataset"] / protocol["norm"] / f"{check_file_name('name', name)}.json"
    return atomic_write(path, json.dumps(info, indent=2, ensure_ascii=False) + "\n")


def _name(paper: Paper) -> str:
    """``Madry2018Towards``: the first author's last name, the year of the venue, and the first word of the title."""
    author = paper.authors.split(",")[0].split()[-1]
    year = "".join(re.findall(r"\d{4}", paper.venue)[:1])
    word = re.sub(r"\W", "", paper.title.split()[0])
    return f"{author}{year}{word}"
