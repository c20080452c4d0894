"""``table``, ``plot`` and ``report`` from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from toolkit_ext.results import Record, write_record

Make = Callable[..., Record]


@pytest.fixture
def command(record: Make, toolkit: Any, tmp_path: Path) -> Any:
    """``toolkit-ext`` in a folder with three runs."""
    for made in (record(), record(eps=0.2), record("amp")):
        write_record(made, tmp_path / "results" / "runs")
    return toolkit


def test_table_marks_and_can_leave_the_marks_out(command: Any) -> None:
    words = ["table", "--where", "eps=0.1", "--columns", "method,aa_acc", "--format", "markdown"]
    code, out, _ = command(*words)
    assert code == 0
    assert "**50.00**" in out
    _, out, _ = command("table", "--where", "eps=0.1", "--format", "csv", "--columns", "method,aa_acc")
    assert out.splitlines()[0] == "method,aa_acc,aa_acc_vs_best"
    _, out, _ = command(*words, "--format", "csv", "--no-significance")
    assert out.splitlines()[0] == "method,aa_acc"


def test_the_table_on_the_screen_needs_no_legend(command: Any) -> None:
    code, out, _ = command("table", "--no-rebuild")
    assert code == 0
    assert out.count("digits · lenet · Linf, eps 0.") == 2
    for said in ("eps 0.1 · 10 test images · accuracy in %", "50.0 [23.7, 76.3]", "against the best", "│ best"):
        assert said in out, said
    assert not set("†≈?") & set(out)
    _, named, _ = command("table", "--no-rebuild", "--columns", "method,variant,aa_acc")
    assert [cell.strip() for cell in named.splitlines()[0].split("┃")] == ["method", "variant", "AutoAttack"]
    _, everything, _ = command("table", "--no-rebuild", "--all")
    assert everything.startswith("| data | backbone | norm | eps | method |")


def test_the_form_of_a_table_follows_its_file(command: Any, tmp_path: Path) -> None:
    for name, start in (("a.tex", "% \\usepackage"), ("a.csv", "data,backbone"), ("a.md", "| eps | method")):
        assert command("table", "--no-rebuild", "--out", name)[0] == 0
        assert (tmp_path / name).read_text().startswith(start), name
    for words, message in (
        (["--format", "screen", "--out", "a.md"], "error: --format: screen is not for a file such as a.md"),
        (["--format", "html"], "error: --format: 'html' is not known"),
        (["--errors", "sd"], "error: --errors: 'sd' is not known; allowed: paren, pm"),
    ):
        code, _, err = command("table", *words)
        assert code == 2
        assert message in err


def test_one_record_is_read_alone(command: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("toolkit_ext.results.read_records", None)
    for words in (["table", "--robustbench", "pgd-0-0.1"], ["plot", "--kind", "training", "--run", "pgd-0-0.1"]):
        code, _, err = command(*words, "--out", "a.json" if words[0] == "table" else "a.png")
        assert code == 0, err


def test_broken_and_foreign_records_are_named_once(command: Any, tmp_path: Path) -> None:
    (tmp_path / "results" / "runs" / "broken.json").write_text('{"schema": 1')
    (tmp_path / "results" / "runs" / "newer.json").write_text('{"schema": 2}')
    for words in (["table"], ["plot", "--kind", "attacks", "--out", "a.png"]):
        code, _, err = command(*words)
        assert code == 0
        assert err.count("warning: broken.json in") == 1
        assert err.count("warning: newer.json in") == 1
        assert "schema: 2 is not allowed; this version reads 1" in err


def test_no_run_matches(command: Any) -> None:
    for words in (["table"], ["plot", "--out", "a.png"], ["report"]):
        code, _, err = command(*words, "--where", "method=trades")
        assert code == 2
        assert err.splitlines()[-1] == "error: --where method=trades: no run matches; method has: amp, pgd"


def test_robustbench_export(command: Any, tmp_path: Path) -> None:
    code, _, err = command("table", "--robustbench", "pgd-0-0.1", "--out", "info.json")
    assert code == 0, err
    assert "note: RobustBench has leaderboards for cifar10, cifar100, imagenet, not for digits" in err
    info = json.loads((tmp_path / "info.json").read_text())
    assert (info["autoattack_acc"], info["link"].startswith("http")) == ("50.00", True)
    for words, message in (
        (["--robustbench", "pgd-0-0.1"], "error: --out: is missing"),
        (["--robustbench", "pgd-0-0.3", "--out", "a.json"], "error: --robustbench: 'pgd-0-0.3' is not known"),
    ):
        code, _, err = command("table", *words)
        assert code == 2
        assert message in err


@pytest.mark.parametrize("kind", ["accuracy", "curve", "attacks", "matrix", "training"])
def test_every_kind_of_figure(command: Any, tmp_path: Path, kind: str) -> None:
    where = [] if kind == "curve" else ["--where", "eps=0.1"]
    run = ["--run", "amp-0-0.1"] if kind in ("matrix", "training") else []
    code, _, err = command("plot", "--kind", kind, "--out", "a.png", *where, *run)
    assert code == 0, err
    assert (tmp_path / "a.png").stat().st_size > 5000


def test_figures_of_one_run_need_its_name(command: Any) -> None:
    for words, message in (
        (["--kind", "matrix"], "error: --run: is missing; this figure shows one run of: amp-0-0.1, pgd-0-0.1"),
        (["--kind", "training", "--run", "amp-0"], "error: --run: 'amp-0' is not known (did you mean amp-0-0.1"),
        (["--kind", "examples"], "error: --examples: is missing"),
        (["--kind", "curves"], "error: --kind: 'curves' is not known (did you mean curve"),
    ):
        code, _, err = command("plot", "--out", "a.png", *words)
        assert code == 2
        assert message in err


def test_report(command: Any, tmp_path: Path) -> None:
    pytest.importorskip("itables", reason="the extra report is not installed")
    pytest.importorskip("plotly", reason="the extra report is not installed")
    code, _, err = command("report", "--where", "method=pgd", "--title", "My runs", "--out", "page/report.html")
    assert code == 0, err
    assert "report: page/report.html (2 runs, 0 with pictures)" in err
    text = (tmp_path / "page" / "report.html").read_text()
    assert "2 runs: 2 in 2 groups" in text
    assert "<h1>My runs</h1>" in text
    assert "amp-0-0.1" not in text
