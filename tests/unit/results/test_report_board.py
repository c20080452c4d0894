"""The leaderboard: ranked by threat with intervals and cost, escaped, and whole in one file."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from html_parts import Parts  # type: ignore[import-not-found]

from toolkit_ext.errors import UserError
from toolkit_ext.report import board, write_board
from toolkit_ext.report.board import board_sections
from toolkit_ext.results import Record, write_record
from toolkit_ext.types import Paper

Make = Callable[..., Record]
PAPERS = {"pgd": Paper("A. Madry", "Towards <deep> models", "ICLR 2018", "https://example.org/pgd")}
L2 = {"name": "l2", "norm": "L2", "eps": 0.5, "version": "standard"}


@pytest.fixture
def records(make: Make) -> list[Record]:
    """PGD with two seeds, TRADES that never trained here, and one run of another threat and network."""
    passes = {"claim": {"passes": {"forward": 3, "backward": 2}}}
    about = {"details": passes, "hyper_parameters": {"epochs": 10}}
    other = {"name": "resnet18", "args": {}, "parameters": 11_000_000}
    untrained = {"train_s": None, "eval_s": 5.0}
    return [
        make("pgd", seed=0, clean_acc=0.9, aa_acc=0.5, times={"train_s": 60.0, "eval_s": 5.0}, **about),
        make("pgd", seed=1, clean_acc=0.8, aa_acc=0.4, times={"train_s": 120.0, "eval_s": 5.0}, **about),
        make("trades", clean_acc=0.85, aa_acc=0.6, times=untrained),
        make("mart", clean_acc=0.7, aa_acc=0.3, protocol=L2, backbone=other, times=untrained),
    ]


def test_settings_are_ranked_by_threat_with_intervals_and_cost(records: list[Record]) -> None:
    linf, l2 = sorted(board_sections(records, PAPERS), key=lambda section: -len(section.lines))
    assert linf.title == "digits · Linf, eps 0.1 · 360 test images"
    assert [line.place.name for line in linf.lines] == ["trades", "pgd"]
    assert linf.headings == ["clean", "parameters", "training", "passes"]
    trades, pgd = linf.lines
    assert (trades.robust.text, trades.interval) == ("60.0", "54.9 to 64.9")  # Wilson's of 216 of 360
    assert (pgd.robust.text, pgd.interval) == ("45.0 ± 7.1", "37.9 to 52.1")
    assert [cell.text for cell in pgd.cells] == ["85.0 ± 7.1", "52,714", "90 s", "50"]
    assert [cell.order for cell in pgd.cells] == [pytest.approx(85), 52_714, 90, 50]
    assert [cell.text for cell in trades.cells] == ["85.0", "52,714", "", ""]
    assert pgd.facts == {"data": "digits", "threat": "Linf, eps 0.1", "backbone": "lenet", "method": "pgd"}
    assert pgd.paper == PAPERS["pgd"]
    assert trades.paper is None
    assert l2.headings == ["clean", "parameters"]
    assert l2.lines[0].facts == {"data": "digits", "threat": "L2, eps 0.5", "backbone": "resnet18", "method": "mart"}


def test_the_page_is_whole_and_needs_nothing_else(records: list[Record]) -> None:
    text = board(records, PAPERS, "Best <of> all")
    assert board(records, PAPERS, "Best <of> all") == text
    page = Parts(text)
    assert page.open == []
    assert [tag for tag, about in page.elements if "src" in about or tag == "link"] == []
    assert [about["href"] for tag, about in page.elements if tag == "a"] == ["https://example.org/pgd"]
    assert re.findall(r"url\(|@import|fetch\(", text) == []
    (policy,) = [about["content"] for tag, about in page.elements if about.get("http-equiv")]
    assert policy == "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'"
    assert "Best &lt;of&gt; all" in text
    assert "Towards &lt;deep&gt; models" in text
    rows = [about for tag, about in page.elements if tag == "tr" and "data-method" in about]
    assert {row["data-threat"] for row in rows} == {"Linf, eps 0.1", "L2, eps 0.5"}
    selects = [about["name"] for tag, about in page.elements if tag == "select"]
    assert selects == ["data", "threat", "backbone", "method"]


def test_names_in_records_are_text(make: Make) -> None:
    evil = '"><script>alert(1)</script>'
    text = board(
        [make(method=evil, run_id="x", backbone={"name": evil, "args": {}, "parameters": 1}, clean_acc=0.9, aa_acc=0.5)]
    )
    assert evil not in text
    assert text.count("<script") == 1
    assert Parts(text).open == []


def test_without_evaluated_runs_there_is_no_board(make: Make) -> None:
    nothing = make(metrics={}, intervals={}, n_examples=0)
    with pytest.raises(UserError, match="there are no evaluated runs"):
        board([{**nothing, "metrics": {}, "intervals": {}}])  # type: ignore[typeddict-item]


def test_the_command_writes_the_page(toolkit: Any, records: list[Record], tmp_path: Path) -> None:
    for record in records:
        write_record(record, tmp_path / "results" / "runs")
    done = toolkit("leaderboard", "--where", "norm=Linf", "--title", "Mine")
    assert done.code == 0, done.err
    text = (tmp_path / "leaderboard.html").read_text()
    assert "<h1>Mine</h1>" in text
    assert "mart" not in text
    assert 'href="https://' in text  # the papers of the methods
    assert toolkit("leaderboard", "--where", "norm=L3").code == 2


@pytest.mark.slow
def test_filters_and_sorting_work_from_the_disk(browser: Any, records: list[Record], tmp_path: Path) -> None:
    """No row is fetched: filters hide rows and empty sections, ranks begin at 1, and headings sort."""
    browser.get(write_board(records, tmp_path / "board.html", PAPERS, "Board").as_uri())

    def shown() -> list[str]:
        script = """return [...document.querySelectorAll('tbody tr')].filter((row) => row.offsetParent)
            .map((row) => row.querySelector('.rank').textContent + ' ' + row.dataset.method)"""
        return list(browser.execute_script(script))

    def choose(name: str, value: str) -> None:
        (option,) = [o for o in browser.find_elements("css selector", f"[name={name}] option") if o.text == value]
        option.click()

    def sort(text: str) -> None:
        (heading, *_) = [b for b in browser.find_elements("css selector", "button.sort") if text in b.text]
        heading.click()

    assert [line for line in browser.get_log("browser") if line["level"] in ("SEVERE", "WARNING")] == []
    assert sorted(shown()) == ["1 mart", "1 trades", "2 pgd"]
    choose("method", "pgd")
    assert shown() == ["1 pgd"]
    assert browser.find_element("id", "count").text == "1 setting"
    choose("threat", "L2, eps 0.5")
    assert shown() == []
    assert browser.find_element("id", "nothing").is_displayed()
    browser.find_element("css selector", "button[type=reset]").click()
    assert len(shown()) == 3
    choose("threat", "Linf, eps 0.1")
    sort("AutoAttack")
    assert shown() == ["2 pgd", "1 trades"]
    sort("training")  # trades has none, and stays last
    assert shown() == ["2 pgd", "1 trades"]
    sort("training")
    assert shown() == ["2 pgd", "1 trades"]
    sort("method")
    assert shown() == ["2 pgd", "1 trades"]
    sort("method")
    assert shown() == ["1 trades", "2 pgd"]
