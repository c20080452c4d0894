"""The report page: complete, self-contained, escaped, and the same text for the same records."""

from __future__ import annotations

import base64
import copy
import gzip
import importlib.util
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from html_parts import Parts  # type: ignore[import-not-found]

from toolkit_ext import data
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Audit, Check, Examples
from toolkit_ext.report import landscape_pictures, load_pairs, page, pictures, write_page
from toolkit_ext.report.page import asset
from toolkit_ext.report.rankings import rankings
from toolkit_ext.report.rows import columns, details, filters, rows, shared
from toolkit_ext.results import Record, frame

pytest.importorskip("itables", reason="the extra report is not installed")
pytest.importorskip("plotly", reason="the extra report is not installed")

Make = Callable[..., Record]


@pytest.fixture(scope="module")
def text(record: Make) -> str:
    """The page of three runs, two of them of one model at two radii."""
    return page([record(), record(eps=0.2), record("amp", seed=1)])


def unpacked(text: str, attribute: str) -> list[Any]:
    """The values of the packed scripts that have ``attribute``."""
    found = re.findall(rf'<script type="text/plain" {attribute}>([A-Za-z0-9+/=]+)</script>', text)
    return [json.loads(gzip.decompress(base64.b64decode(packed))) for packed in found]


def details_of(text: str) -> list[dict[str, Any]]:
    """The details of every run on the page, in order."""
    return [run for chunk in unpacked(text, 'class="details"') for run in chunk]


def test_a_row_and_details_for_each_run(text: str) -> None:
    parts = Parts(text)
    assert parts.open == []
    names = ["pgd-0-0.1", "pgd-0-0.2", "amp-1-0.1"]
    (rows,) = unpacked(text, 'id="rows"')
    assert [row[0] for row in rows] == names
    assert [run["run_id"] for run in details_of(text)] == names
    assert [a["data-column"] for a in parts.all("select")] == ["method", "attack", "eps", "seed"]
    assert "Of all runs: objective adversarial, update plain" in text


def test_details_are_in_the_pack_where_the_page_looks(record: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.import_module("toolkit_ext.report.page"), "CHUNK", 2)
    made = page([record("pgd", seed=seed) for seed in range(5)])
    assert [len(chunk) for chunk in unpacked(made, 'class="details"')] == [2, 2, 1]
    assert Parts(made).all("main") == [{"data-chunk": "2"}]


def test_the_page_opens_with_the_best_of_each_threat(record: Make) -> None:
    bits = {"robust": {"aa": "f800"}}
    runs = [record("pgd", seed=seed, details=bits) for seed in range(3)] + [record("amp", eps=0.2)]
    made = page([*runs, record("amp", details={"robust": {"aa": "8000"}}, metrics={"aa_acc": 0.1}, intervals={})])
    found = rankings(runs)
    assert [ranking.title for ranking in found] == [f"digits · Linf, eps {eps} · 10 test images" for eps in (0.1, 0.2)]
    assert [place.runs for place in found[0].places] == [["pgd-0-0.1", "pgd-1-0.1", "pgd-2-0.1"]]
    assert "5 runs: 5 in 3 groups, whose runs differ in their seed alone." in made
    assert made.count("pgd is best: 50.0 ± 0.0% AutoAttack") == 2
    assert 'data-runs="pgd-0-0.1 pgd-1-0.1 pgd-2-0.1"' in made


def test_costs_stand_beside_accuracies(record: Make) -> None:
    claim = {"claim": {"passes": {"forward": 6.0, "backward": 6.0}}}
    given = {"details": claim, "hyper_parameters": {"epochs": 4, "seed": 0}}
    (ranking,) = rankings([record("pgd", **given), record("amp", hyper_parameters={"epochs": 4, "seed": 0})])
    assert ranking.columns == ["clean", "training s", "passes"]
    cells = {place.name: place.cells for place in ranking.places}
    assert cells == {"pgd": ["90.0", "12", "48"], "amp": ["90.0", "12", ""]}
    assert (ranking.places[0].low, ranking.places[0].value, ranking.places[0].high) == (23.66, 50.0, 76.34)


def test_runs_that_are_not_ranked_are_counted(record: Make) -> None:
    tuning = record("mim", details={"claim": {"tuning": True}})
    made = page([record(), tuning, record("amp", protocol=None, metrics={}, intervals={}, n_examples=0)])
    assert "3 runs: 1 in 1 groups, whose runs differ in their seed alone; 2 more are only in the list" in made
    assert '<h2 id="all-heading">All 3 runs</h2>' in made


def test_every_run_opens_to_its_curves_audit_parameters_and_command(text: str) -> None:
    first = details_of(text)[0]
    charts = first["charts"]
    titles = [chart["layout"]["title"]["text"].split(" ")[0] for chart in charts]
    assert titles == ["Training", "What", "AutoAttack", "Images"]
    assert charts[2]["data"][0]["y"] == [90.0, 50.0, 50.0]
    assert "at the end loss adversarial 1, val robust 40" in charts[0]["text"]
    assert first["command"] == "toolkit-ext train pgd --seed 0"
    assert ["steps", "10"] in first["parameters"]
    assert ["AutoAttack: apgd-ce", "9", "4", "50.00", "1.5"] in first["attacks"]
    said = json.dumps(first["audit"])
    for told in (
        "zero_gradients (aa/apgd-ce): at 3",
        "epoch 7: robust_overfitting: fell 3 epochs running",
        "not asked",
    ):
        assert told in said, told


def test_nothing_is_fetched_from_anywhere(text: str) -> None:
    parts = Parts(text)
    (policy,) = parts.all("meta", **{"http-equiv": "Content-Security-Policy"})
    assert (policy["content"] or "").startswith("default-src 'none'; script-src 'unsafe-inline' blob:;")
    assert parts.all("link") == []
    assert [a for _, a in parts.elements if "src" in a] == []
    assert {(a["href"] or "")[0] for a in parts.all("a")} == {"#"}
    style = text.split("<style>")[1].split("</style>")[0]
    assert [u for u in re.findall(r"url\(\s*[\"']?(.{5})", style) if u != "data:"] == []


def test_the_libraries_are_on_the_page_with_their_licences(text: str) -> None:
    packed = dict(re.findall(r'<script type="text/plain" id="([\w-]+)">([A-Za-z0-9+/=]+)</script>', text))
    scripts = {name: gzip.decompress(base64.b64decode(value)).decode() for name, value in packed.items()}
    assert "DataTables" in scripts["table-script"]
    assert "plotly.js" in scripts["chart-script"][:500]
    assert len(re.findall("Permission is hereby granted", text)) >= 2


def test_the_same_records_give_the_same_text(record: Make, text: str) -> None:
    assert page([record(), record(eps=0.2), record("amp", seed=1)]) == text


HOSTILE = "</script></template><script>alert(1)</script>\"'&<!--"


def test_text_of_records_stays_text(record: Make) -> None:
    axes = {"attack": HOSTILE, "objective": "o", "update": "u", "schedule": "s"}
    details = {
        "training": {"history": [{"epoch": 1, f"loss_{HOSTILE}": 1.0}]},
        "audit": [{"name": HOSTILE, "explanation": HOSTILE}],
    }
    hostile = record(
        command=HOSTILE, axes=axes, details=details, warnings=[HOSTILE], hyper_parameters={HOSTILE: HOSTILE}
    )
    made = page([hostile, record("amp")], title=HOSTILE)
    assert "<script>alert" not in made
    assert Parts(made).open == []
    assert details_of(made)[0]["command"] == HOSTILE
    assert len(Parts(made).all("script")) == len(Parts(page([record(), record("amp")])).all("script"))


def test_the_sanity_battery_is_shown(record: Make) -> None:
    check = Check("more_steps", "warning", 0.25, "more steps gain nothing", {"pgd20": 0.5})
    audited = Audit((check,), {"transfer": "no other model"}, "Linf", 0.1, 10).to_dict()
    row = details(record(details={"audit": audited.pop("checks"), "audit_settings": audited}, warnings=[]))
    assert row.audit[0] == ["more_steps", "warning", "more steps gain nothing (figure 0.25, pgd20 0.5)"]
    assert row.audit[-1] == ["transfer", "left out", "no other model"]


def test_columns_filters_and_what_all_share(record: Make) -> None:
    records = [
        record(),
        record("amp", eps=8 / 255),
        record("mim", protocol=None, metrics={}, intervals={}, n_examples=0),
    ]
    table = frame(records)
    assert columns(table) == ["method", "attack", "eps", "clean_acc", "aa_acc", "n_examples", "warnings"]
    assert filters(table)["eps"] == ["8/255", "0.1"]
    assert ("norm", "Linf") in shared(table)
    cells = [dict(zip(columns(table), row.cells, strict=True)) for row in rows(records, table)]
    assert [row["aa_acc"].text for row in cells] == ["50.00", "50.00", ""]
    assert [row["eps"].order for row in cells] == [0.1, 8 / 255, -1.0]
    assert cells[0]["aa_acc"].hint == "AutoAttack, 95% interval [23.66, 76.34]"


def test_fewer_examples_are_marked(record: Make) -> None:
    records = [record(), record("amp", n_examples=8)]
    found = rows(records, frame(records))
    assert [row.cells[-2].text for row in found] == ["10", "8†"]


def test_records_without_a_training_or_images_have_no_such_charts(record: Make) -> None:
    assert details(record(details={}, axes=None)).charts == []
    assert Parts(page([record(details={}, axes=None)])).open == []


def test_pictures_are_on_the_page(record: Make, tmp_path: Path) -> None:
    digits = data.load("digits")
    chosen = torch.tensor([3, 5])
    clean = digits.x_test[chosen]
    examples = Examples(
        inputs=(clean + 0.1).clamp(0, 1),
        indices=chosen,
        labels=digits.y_test[chosen],
        predictions=(digits.y_test[chosen] + 1) % 10,
        attacks=("clean", "pgd20"),
        balls={"clean": ("Linf", 0.0), "pgd20": ("Linf", 0.1)},
    )
    file = examples.save(tmp_path / "pgd-0-0.1.safetensors")
    (pair,) = load_pairs(record(), file)
    assert pair.label == str(int(digits.y_test[5]))
    assert pair.attack == "pgd20"
    assert np.array_equal(pair.clean, digits.x_test[5].numpy())
    shown = pictures([record(), record("amp")], tmp_path)
    assert list(shown) == ["pgd-0-0.1"]
    found = {run["run_id"]: run["picture"] for run in details_of(page([record(), record("amp")], shown))}
    assert found.pop("pgd-0-0.1").startswith("data:image/png;base64,iVBOR")
    assert set(found.values()) == {""}
    for wrong in (
        {"indices": torch.tensor([3, 5000])},
        {"inputs": torch.zeros(2, 3, 8, 8)},
        {"labels": (digits.y_test[chosen] + 1) % 10},
    ):
        changed = copy.copy(examples)
        for name, value in wrong.items():
            object.__setattr__(changed, name, value)
        with pytest.raises(UserError, match=r"^examples .*wrong.safetensors: are not of digits"):
            load_pairs(record(), changed.save(tmp_path / "wrong.safetensors"))


def test_the_landscape_has_a_section_of_its_own(record: Make, tmp_path: Path) -> None:
    settings = {"what": "hessian", "name": "spectrum", "attack": {"eps": 8 / 255, "norm": "Linf", "steps": 10}, "k": 2}
    found = {"settings": settings, "facts": {"trace": 1.25}, "table": {"rank": [1, 2], "value": [3.5, None]}}
    analysis = record("pgd", seed=7)
    analysis |= {"metrics": {}, "intervals": {}, "protocol": None, "details": {"landscape": found}}
    (tmp_path / "spectrum.png").write_bytes(b"picture")
    shown = landscape_pictures([record(), analysis], tmp_path)
    assert shown == {analysis["run_id"]: "data:image/png;base64," + base64.b64encode(b"picture").decode()}
    html = page([record(), analysis], shown)
    parts = Parts(html)
    assert parts.open == []
    assert [run["run_id"] for run in details_of(html)] == [record()["run_id"]]
    assert len(parts.all("details", id=analysis["run_id"])) == 1
    assert "hessian: pgd on digits, lenet" in html
    assert "PGD-10, Linf eps 8/255" in html
    assert '<th scope="row">trace</th><td>1.25</td>' in html
    assert "<td>1</td><td>3.5</td></tr><tr><td>2</td><td></td>" in html
    assert any(a["src"] == shown[analysis["run_id"]] for a in parts.all("img"))
    assert "Loss landscape" not in page([record()])
    assert "hessian: pgd" in page([analysis])


def test_errors(record: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^results: there are no runs to report on$"):
        page([])
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        write_page([record()], tmp_path / "taken" / "report.html")
    found = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *a: None if name == "itables" else found(name, *a))
    asset.cache_clear()
    with pytest.raises(UserError, match=r"^report: itables is not installed; install the extra: pip install"):
        page([record()])
