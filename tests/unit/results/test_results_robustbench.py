"""The export of a run has what RobustBench's generator and template read."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from jinja2 import Environment, StrictUndefined

from toolkit_ext.errors import UserError
from toolkit_ext.results import Record, model_info, write_entry, write_model_info, write_record
from toolkit_ext.types import Paper

Make = Callable[..., Record]
PAPER = Paper("A. Author, B. Author", "A Title & More", "ICML 2099", "https://example.org/paper")
# The fields of the structure that leaderboard/template.py documents, all of them of these types there.
DOCUMENTED: dict[str, type] = {
    "link": str,
    "name": str,
    "authors": str,
    "additional_data": bool,
    "number_forward_passes": int,
    "dataset": str,
    "venue": str,
    "architecture": str,
    "eps": str,
    "clean_acc": str,
    "reported": str,
    "autoattack_acc": str,
}
# The expressions on a model that leaderboard.html.j2 evaluates, with acc_field as template.py sets it.
CELLS = (
    "{{ model.link }}|{{ model.name }}|{{ model.footnote }}|{{ model.clean_acc }}%|{{ model[acc_field] }}%|"
    "{{ 'yes' if model.additional_data else 'no' }}|{{ model.architecture }}|{{ model.venue }}"
)


def test_the_documented_fields(make: Make) -> None:
    info = model_info(make("trades", eps=8 / 255, clean_acc=0.84921, aa_acc=0.5308), PAPER)
    assert {name: type(info[name]) for name in DOCUMENTED} == DOCUMENTED
    assert (info["clean_acc"], info["autoattack_acc"], info["eps"]) == ("84.92", "53.08", "8/255")
    assert info["dataset"] == "digits"
    assert info["unreliable"] is False


def test_the_template_has_all_it_prints(make: Make, tmp_path: Path) -> None:
    path = write_model_info(make(clean_acc=0.9, aa_acc=0.5), tmp_path / "pgd.json", PAPER)
    model = json.loads(path.read_text())
    template = Environment(undefined=StrictUndefined, autoescape=True).from_string(CELLS)
    cells = template.render(model=model, acc_field="autoattack_acc").split("|")
    assert cells[:2] == ["https://example.org/paper", "A Title &amp; More"]
    assert cells[3:] == ["90.00%", "50.00%", "no", "lenet", "ICML 2099"]


def test_models_sort_as_numbers(make: Make) -> None:
    accuracies = [float(model_info(make(clean_acc=0.9, aa_acc=a))["autoattack_acc"]) for a in (0.09, 0.5, 0.1)]
    assert sorted(accuracies, reverse=True) == [50.0, 10.0, 9.0]


def test_doubts_and_foreign_models_are_said(make: Make) -> None:
    record = make(clean_acc=0.9, aa_acc=0.5, warnings=["zero_gradients: at 3 starts"], axes=None)
    info = model_info(record)
    assert info["unreliable"] is True
    assert "zero_gradients" in info["footnote"]
    assert info["additional_data"] is None
    assert info["name"] == "pgd"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"clean_acc": 0.9}, r"^--robustbench pgd-0: has no aa_acc"),
        ({"aa_acc": 0.9}, r"^--robustbench pgd-0: has no clean_acc"),
        (
            {
                "clean_acc": 0.9,
                "aa_acc": 0.5,
                "protocol": {"name": "p", "norm": "Linf", "eps": 0.1, "version": "rand"},
            },
            "version 'rand'; RobustBench takes standard alone",
        ),
    ],
)
def test_runs_that_robustbench_cannot_take(make: Make, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        model_info(make(**given))


CIFAR10 = {"name": "cifar10", "train": 45_000, "validation": 5_000, "test": 10_000, "num_classes": 10}


def ranked(make: Make, **given: Any) -> Record:
    """A run that RobustBench can take."""
    return make(**{"clean_acc": 0.84921, "aa_acc": 0.5308, "eps": 8 / 255, "n": 10_000, "data": CIFAR10, **given})


def test_an_entry_lies_where_robustbench_looks(make: Make, tmp_path: Path) -> None:
    path = write_entry(ranked(make), tmp_path, PAPER)
    assert path.relative_to(tmp_path).as_posix() == "cifar10/Linf/Author2099A.json"
    entry = json.loads(path.read_text())
    assert {name: type(entry[name]) for name in DOCUMENTED} == DOCUMENTED
    assert entry["additional_data"] is False
    l2 = {"name": "l2", "norm": "L2", "eps": 0.5, "version": "standard"}
    path = write_entry(ranked(make, protocol=l2), tmp_path, PAPER, name="Mine2099Best")
    assert path.relative_to(tmp_path).as_posix() == "cifar10/L2/Mine2099Best.json"
    assert json.loads(path.read_text())["eps"] == "0.5"


def test_extra_data_is_said(make: Make, tmp_path: Path) -> None:
    extra = {"data": {"extra": {"sha256": "0", "fraction": 0.7}}}
    assert json.loads(write_entry(ranked(make, details=extra), tmp_path, PAPER).read_text())["additional_data"] is True
    foreign = ranked(make, axes=None)
    with pytest.raises(UserError, match=r"^additional_data: pgd-0 was not trained here; give --additional-data or"):
        write_entry(foreign, tmp_path, PAPER)
    path = write_entry(foreign, tmp_path, PAPER, additional_data=True)
    assert json.loads(path.read_text())["additional_data"] is True


@pytest.mark.parametrize(
    ("given", "name", "message"),
    [
        ({"data": {**CIFAR10, "name": "digits"}}, "A", "data: 'digits' is not known; allowed: cifar10, cifar100"),
        ({}, None, "name: is missing"),
        ({}, "../A", "name: '../A' is not allowed"),
    ],
)
def test_entries_that_robustbench_cannot_take(
    given: dict[str, Any], name: str | None, message: str, make: Make, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        write_entry(ranked(make, **given), tmp_path, name=name)
    assert not list(tmp_path.iterdir())


def test_the_command_exports_a_run(toolkit: Any, make: Make, tmp_path: Path) -> None:
    path = write_record(ranked(make, n=1000), tmp_path / "results" / "runs")
    for run, name in (("pgd-0", "Madry2018Towards"), (str(path), "Own2026Model")):
        done = toolkit("leaderboard", "--export-robustbench", run, "--name", name)
        assert done.code == 0, done.err
        assert "this one is on 1000" in done.err
        assert (tmp_path / "model_info" / "cifar10" / "Linf" / f"{name}.json").is_file()
    done = toolkit("leaderboard", "--export-robustbench", "pgd-1")
    assert done.code == 2
    assert "did you mean pgd-0" in done.err
    done = toolkit("leaderboard", "--name", "X")
    assert "--name: has no effect without --export-robustbench" in done.err


@pytest.mark.filterwarnings("ignore")  # of the packages that RobustBench imports
def test_robustbench_itself_reads_the_entry(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own leaderboard, LaTeX table and bibliography, made from the file."""
    try:
        from robustbench.leaderboard import template
        from robustbench.utils import get_leaderboard_bibtex, get_leaderboard_latex
    except ImportError as error:
        pytest.skip(f"robustbench, which pins timm 1.0.9, cannot be imported ({error})")
    if not (Path(template.__file__).parent / "leaderboard.html.j2").is_file():
        pytest.skip("this robustbench was installed without its template; install it from its repository")
    monkeypatch.chdir(tmp_path)
    for name, accuracy in (("Better2099Title", 0.6), ("Mine2099Title", 0.5308)):
        write_entry(ranked(make, aa_acc=accuracy), "model_info", PAPER, name=name)
    page = template.generate_leaderboard("cifar10", "Linf", "model_info")
    assert re.findall(r'class="aatd">([\d.]+)%', page) == ["60.00", "53.08"]
    assert page.count(PAPER.title) == 2
    assert "Unknown" not in page
    rows = get_leaderboard_latex("cifar10", "Linf", sort_by="autoattack_acc").splitlines()
    assert rows[1] == r"2 &\citet{Mine2099Title} & 84.92 & 53.08 & N & lenet & ICML 2099 & N/A\\"
    entries, _ = get_leaderboard_bibtex("cifar10", "Linf")
    assert any("year\t= {2099}" in entry and "A. Author and B. Author" in entry for entry in entries)
