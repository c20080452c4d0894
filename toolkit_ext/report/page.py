"""The HTML page: rankings, the packed runs and their details, and the packed libraries that show them."""

from __future__ import annotations

import base64
import gzip
import importlib.util
import json
from collections.abc import Mapping, Sequence
from functools import cache, lru_cache
from importlib.metadata import distribution
from importlib.resources import files
from pathlib import Path
from typing import Any

from jinja2 import Environment, FunctionLoader, StrictUndefined

from toolkit_ext.errors import UserError
from toolkit_ext.io import atomic_write
from toolkit_ext.report.landscape import is_landscape, panels
from toolkit_ext.report.rankings import rankings
from toolkit_ext.report.rows import columns, details, filters, rows, shared
from toolkit_ext.report.studies import study_panels
from toolkit_ext.results import Record, curves, frame, label
from toolkit_ext.results.figures.curves import model_key
from toolkit_ext.results.inference.perturbations import perturbation_curve

CHUNK = 64  # runs whose details are packed together: larger packs are smaller in sum, and slower to open


def page(records: Sequence[Record], pictures: Mapping[str, str] | None = None, title: str = "Robustness report") -> str:
    """The reproducible HTML of the report.

    Args:
        records: Runs; analyses of ``toolkit-ext landscape`` and studies of ``toolkit-ext tune`` have sections below.
        pictures: Pictures by ``run_id`` (:func:`toolkit_ext.report.pictures`), and of studies.
        title: Heading and title of the page.

    Raises:
        UserError: no records, or the extra ``report`` is missing.
    """
    if not records:
        raise UserError("results: there are no runs to report on")
    runs = [record for record in records if not is_landscape(record)]
    shown = pictures or {}
    made = environment().get_template("report.html.j2")
    return made.render(
        title=title,
        rankings=rankings(runs),
        count=len(runs),
        **_all_runs(runs),
        chunks=_chunks(runs, shown),
        chunk_size=CHUNK,
        sections=_sections(records, shown),
        style=asset("itables", "html/dt_bundle.css") + template("report.css"),
        script=template("report.js"),
        table_script=packed(asset("itables", "html/dt_bundle.js")),
        chart_script=packed(asset("plotly", "package_data/plotly.min.js")),
        licences=licences(),
    )


def _sections(records: Sequence[Record], pictures: Mapping[str, str]) -> list[dict[str, Any]]:
    """What stands below the table: identifier, heading, number in words and panels of each section."""
    studies, analyses = study_panels(records, pictures), panels(records, pictures)
    found = [
        ("studies", "Studies", "study" if len(studies) == 1 else "studies", studies),
        (
            "landscape",
            "Loss landscape",
            f"analys{'is' if len(analyses) == 1 else 'es'} of the loss landscape",
            analyses,
        ),
    ]
    return [
        {"name": name, "heading": heading, "count": f"{len(shown)} {noun}", "panels": shown}
        for name, heading, noun, shown in found
        if shown
    ]


def _all_runs(records: Sequence[Record]) -> dict[str, Any]:
    """The list of all runs; its rows are packed, and put on the page when the list is opened."""
    if not records:  # nothing was evaluated yet
        return {"columns": ["method"], "filters": {}, "shared": [], "rows": packed("[]"), "sort_by": "method"}
    table = frame(records)
    listed = [[row.run_id, *([cell.text, cell.order, cell.hint] for cell in row.cells)] for row in rows(records, table)]
    return {
        "columns": columns(table),
        "filters": filters(table),
        "shared": shared(table),
        "rows": packed(_json(listed)),
        "sort_by": "aa_acc" if any("aa_acc" in record["metrics"] for record in records) else "method",
    }


def _chunks(records: Sequence[Record], pictures: Mapping[str, str]) -> list[str]:
    """The details of :data:`CHUNK` runs each, which the page unpacks when one of them is opened."""
    models = _models(records)
    accuracy = {run: curve for runs in models for curve in curves(runs) for run in _names(runs)}
    broken = {run: curve for runs in models if (curve := perturbation_curve(runs)) for run in _names(runs)}
    found = [
        details(record, accuracy.get(run), pictures.get(run, ""), broken.get(run))
        for run, record in zip(_names(records), records, strict=True)
    ]
    parts = [found[start : start + CHUNK] for start in range(0, len(found), CHUNK)]
    return [packed(_json([vars(told) for told in part])) for part in parts]


def _json(value: Any) -> str:
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def environment() -> Environment:
    """How templates become pages: every text of a record is escaped."""
    made = Environment(loader=FunctionLoader(template), autoescape=True, undefined=StrictUndefined)
    made.filters["label"] = label
    return made


def _names(records: Sequence[Record]) -> list[str]:
    return [record["run_id"] for record in records]


def _models(records: Sequence[Record]) -> list[list[Record]]:
    """The runs of each model in one norm and version."""
    models: dict[str, list[Record]] = {}
    for record in records:
        if protocol := record["protocol"]:
            models.setdefault(f"{model_key(record)} {protocol['norm']} {protocol['version']}", []).append(record)
    return list(models.values())


def write_page(
    records: Sequence[Record],
    path: Path | str,
    pictures: Mapping[str, str] | None = None,
    title: str = "Robustness report",
) -> Path:
    """Write :func:`page` atomically to ``path``."""
    return atomic_write(Path(path), page(records, pictures, title))


def template(name: str) -> str:
    """The text of a file in ``toolkit_ext/report/templates``."""
    return (files("toolkit_ext.report") / "templates" / name).read_text(encoding="utf-8")


@lru_cache(maxsize=4)
def packed(text: str) -> str:
    """``text`` gzipped without a time, in base64: a third of the size, and safe inside a script element."""
    return base64.b64encode(gzip.compress(text.encode(), 6, mtime=0)).decode()


@cache
def asset(package: str, name: str) -> str:
    """The text of a file that another package installs."""
    found = importlib.util.find_spec(package)
    if found is None or found.origin is None:
        raise UserError(f"report: {package} is not installed; install the extra: pip install 'toolkit-ext[report]'")
    return (Path(found.origin).parent / name).read_text(encoding="utf-8")


@cache
def licences() -> dict[str, str]:
    """The licence of each package whose code is on the page, by name and version."""
    found = {}
    for package in ("itables", "plotly"):
        about = distribution(package)
        texts = [f for f in about.files or [] if f.name.upper().startswith("LICEN") and ".dist-info" in str(f)]
        found[f"{package} {about.version}"] = "\n\n".join(f.read_text(encoding="utf-8") for f in texts)
    return found
