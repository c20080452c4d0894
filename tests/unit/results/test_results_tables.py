"""Tables: the concise form, seeds, choosing and ordering, and the same bytes every time."""

from __future__ import annotations

import math
import re
import shutil
import statistics
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from toolkit_ext.errors import UserError
from toolkit_ext.results import (
    Record,
    RecordWarning,
    aggregate,
    columns,
    frame,
    printed,
    rebuild,
    sort,
    to_csv,
    to_latex,
    to_markdown,
    where,
    write_record,
    write_table,
)
from toolkit_ext.results.tables.formatting import budget, concise, interval, label, number
from toolkit_ext.results.tables.rendering import render

Make = Callable[..., Record]


@pytest.mark.parametrize(
    ("mean", "std", "text"),
    [
        (18.62, 0.06, "18.62(6)"),
        (18.6249, 0.0649, "18.62(6)"),
        (45.0, 0.0, "45.00(0)"),
        (45.0, 0.004, "45.00(0)"),
        (45.0, 0.006, "45.00(1)"),
        (89.714, 0.4321, "89.71(43)"),
        (50.0, 1.234, "50.00(123)"),
        (0.0, 12.5, "0.00(1250)"),
        (99.999, math.nan, "100.00"),
        (-0.001, math.nan, "0.00"),
        (math.nan, math.nan, ""),
    ],
)
def test_concise(mean: float, std: float, text: str) -> None:
    assert concise(mean, std) == text


@given(st.floats(-1e4, 1e4), st.floats(0, 1e3), st.integers(1, 4))
def test_concise_can_be_read_back(mean: float, std: float, decimals: int) -> None:
    found = re.fullmatch(rf"(-?\d+\.\d{{{decimals}}})\((\d+)\)", concise(mean, std, decimals))
    assert found
    half = 0.5000001 * 10**-decimals
    assert abs(float(found.group(1)) - mean) <= half
    assert abs(int(found.group(2)) * 10**-decimals - std) <= half


def test_intervals_and_budgets() -> None:
    assert interval(0.4412, 0.54487) == "[44.12, 54.49]"
    assert interval(math.nan, math.nan) == ""
    assert [budget(eps) for eps in (8 / 255, 2 / 255, 0.3, 0.5, 0.0, 1.0)] == ["8/255", "2/255", "0.3", "0.5", "0", "1"]
    assert number("8/255") == 8 / 255
    assert math.isnan(number("1/0"))
    assert label("aa_acc_95") == "AutoAttack 95%"


@given(st.integers(1, 254))
def test_grey_levels_are_read_back(levels: int) -> None:
    assert number(budget(levels / 255)) == levels / 255


# Frames


def test_frame_has_a_row_for_each_record(make: Make) -> None:
    table = frame([make("pgd", clean_acc=0.9, aa_acc=0.4), make("amp", seed=1, aa_acc=0.5)])
    assert list(table["method"]) == ["pgd", "amp"]
    row = table.iloc[0]
    assert (row["clean_acc"], row["aa_acc"], row["eps"], row["hp.steps"], row["backbone.width"]) == (
        0.9,
        0.4,
        0.1,
        10,
        8,
    )
    assert row["hp.milestones"] == "[2, 3]"
    assert row["alarms"] == "robust_overfitting"
    assert row["aa_acc_lo"] < 0.4 < row["aa_acc_hi"]
    assert math.isnan(table["clean_acc"].iloc[1])


def test_frame_columns_depend_on_names_alone(make: Make) -> None:
    records = [
        make("a", aa_acc=0.1, fgsm_acc=0.2),
        make("b", clean_acc=0.3, zeta_acc=0.1),
        make("c", hyper_parameters={}),
    ]
    orders = {tuple(frame([records[i] for i in order]).columns) for order in ([0, 1, 2], [2, 1, 0], [1, 0, 2])}
    assert len(orders) == 1
    names = [name for name in orders.pop() if name.endswith("_acc")]
    assert names == ["clean_acc", "fgsm_acc", "aa_acc", "zeta_acc"]


def test_frame_of_mixed_values_is_text(make: Make) -> None:
    table = frame([make(seed=s, hyper_parameters={"eps": value}) for s, value in enumerate(["cosine", 0.5, None])])
    assert table["hp.eps"].tolist()[:2] == ["cosine", "0.5"]
    assert to_csv(columns(table, ["hp.eps"])) == 'hp.eps\ncosine\n0.5\n""\n'


# Means over seeds


@settings(max_examples=40)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_means_over_seeds(make: Make, values: list[float]) -> None:
    table = aggregate(frame([make(seed=seed, aa_acc=value) for seed, value in enumerate(values)]))
    assert len(table) == 1
    row = table.iloc[0]
    assert row["runs"] == len(values)
    assert row["aa_acc"] == pytest.approx(statistics.fmean(values), abs=1e-12)
    if len(values) == 1:
        assert math.isnan(row["aa_acc_std"])
        assert row["aa_acc_lo"] <= values[0] <= row["aa_acc_hi"] + 1e-3
    else:
        assert row["aa_acc_std"] == pytest.approx(statistics.stdev(values), abs=1e-9)
        assert math.isnan(row["aa_acc_lo"])


def test_printed_by_hand(make: Make) -> None:
    # mean 18.62, sample deviation of (18.56, 18.62, 18.68) is 0.06
    records = [make(seed=seed, aa_acc=value) for seed, value in enumerate((0.1856, 0.1862, 0.1868))]
    table = printed(aggregate(frame([*records, make("amp", aa_acc=0.5)])))
    assert table["aa_acc"].tolist() == ["50.00", "18.62(6)"]
    assert table["runs"].tolist() == ["1", "3"]
    assert table["aa_acc_95"].tolist() == ["[44.86, 55.14]", ""]


def test_a_run_made_twice_counts_once(make: Make) -> None:
    old = make(run_id="a", aa_acc=0.1)
    new = make(run_id="b", aa_acc=0.2, created="2026-11-21T00:00:00Z")
    fewer = make(run_id="c", aa_acc=0.3, created="2026-11-22T00:00:00Z", n=100)
    bare = make(run_id="d", created="2026-11-23T00:00:00Z", protocol=None, metrics={}, intervals={}, n_examples=0)
    for records in ([old, new, fewer], [fewer, new, old]):
        row = aggregate(frame(records)).iloc[0]
        assert (row["runs"], row["aa_acc"], row["n_examples"]) == (1, 0.2, 360)
    assert aggregate(frame([old, bare]))["aa_acc"].dropna().tolist() == [0.1]


def test_runs_of_other_hyper_parameters_are_other_rows(make: Make) -> None:
    records = [make(run_id=f"r{steps}", aa_acc=steps / 100, hyper_parameters={"steps": steps}) for steps in (5, 10)]
    table = aggregate(frame(records))
    assert table["hp.steps"].tolist() == [5, 10]
    with pytest.raises(UserError, match=r"^--by method: runs that differ in hp\.steps would be averaged .*5, 10"):
        aggregate(frame(records), by=["method"])
    pooled = aggregate(frame(records), by=["method"], allow_mixed=True)
    assert pooled["aa_acc"].tolist() == pytest.approx([0.075])


@pytest.mark.parametrize(
    ("field", "value", "shown"),
    [
        ("eps", 0.2, "eps (0.1, 0.2)"),
        ("data", {"name": "mnist", "train": 1, "validation": 0, "test": 1, "num_classes": 10}, "data (digits, mnist)"),
        ("protocol", {"name": "p", "norm": "L2", "eps": 0.1, "version": "standard"}, "norm (L2, Linf)"),
        ("protocol", {"name": "p", "norm": "Linf", "eps": 0.1, "version": "rand"}, "version (rand, standard)"),
    ],
)
def test_mixtures_are_refused_unless_asked_for(make: Make, field: str, value: Any, shown: str) -> None:
    table = frame([make("pgd", aa_acc=0.5), make("amp", aa_acc=0.6), make("pgd", seed=1, aa_acc=0.9, **{field: value})])
    with pytest.raises(UserError, match=re.escape(f"the runs mix several values of {shown} in one ranking")):
        aggregate(table)
    mixed = aggregate(table, allow_mixed=True)
    assert len(mixed) == 3
    # the best is sought among runs of one kind, and a run that is alone has no rival
    bold = [line.split(" | ") for line in to_markdown(mixed).splitlines() if "**" in line]
    assert [any("amp" in cell for cell in line) for line in bold] == [True]


def test_aggregate_errors(make: Make) -> None:
    table = frame([make()])
    for by, metrics, message in [
        (["mehtod"], None, r"^--by: 'mehtod' is not known \(did you mean method\?\)"),
        (["method", "method"], None, "^--by: 'method' is named twice"),
        ([], None, "^--by: no column is named"),
        (["aa_acc"], None, "^--by: 'aa_acc' is not known"),
        (None, ["cpu"], "^--columns: 'cpu' is not known"),
    ]:
        with pytest.raises(UserError, match=message):
            aggregate(table, by, metrics)
    with pytest.raises(UserError, match=r"^results: there are no runs"):
        aggregate(frame([]))


# Choosing and ordering


@pytest.fixture
def runs(make: Make) -> pd.DataFrame:
    made = [make(m, seed=s, eps=e, aa_acc=a) for m, s, e, a in [("pgd", 0, 8 / 255, 0.4), ("pgd", 1, 4 / 255, 0.5)]]
    made += [make("amp", seed=2, eps=8 / 255, aa_acc=0.6), make("mim", seed=3, protocol=None, metrics={}, intervals={})]
    return frame(made)


@pytest.mark.parametrize(
    ("conditions", "seeds"),
    [
        ([], [0, 1, 2, 3]),
        (["method=pgd"], [0, 1]),
        (["method==PGD"], [0, 1]),
        (["method!=pgd"], [2, 3]),
        (["method=amp,mim"], [2, 3]),
        (["eps=8/255"], [0, 2]),
        (["eps=0.0313725490196"], [0, 2]),
        (["eps!=8/255"], [1, 3]),
        (["eps<8/255"], [1]),
        (["eps <= 8/255"], [0, 1, 2]),
        (["aa_acc>0.45"], [1, 2]),
        (["aa_acc>=0.5", "method=pgd"], [1]),
        (["seed=0,3"], [0, 3]),
        (["created>2026"], [0, 1, 2, 3]),
        (["norm=Linf"], [0, 1, 2]),
        (["hp.milestones=[2, 3]"], []),
    ],
)
def test_where(runs: pd.DataFrame, conditions: list[str], seeds: list[int]) -> None:
    if not seeds:
        with pytest.raises(UserError, match="no run matches"):
            where(runs, conditions)
    else:
        assert where(runs, conditions)["seed"].tolist() == seeds


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        (["method"], "^--where: 'method' is not KEY=VALUE; the comparisons are =, !=, <, <=, > and >=$"),
        (["=pgd"], "^--where: '=pgd' is not KEY=VALUE"),
        (["metod=pgd"], r"^--where: 'metod' is not known \(did you mean method"),
        (["method=trades"], "^--where method=trades: no run matches; method has: amp, mim, pgd$"),
        (["method=pgd", "seed=2"], "^--where seed=2: no run matches; seed has: 0, 1$"),
        (["aa_acc>0.9"], "^--where aa_acc>0.9: no run matches; aa_acc has: 0.4, 0.5, 0.6$"),
        (["gpu=A100"], "^--where gpu=A100: no run matches; gpu has: no values$"),
        (["eps=large"], "^--where eps=large: 'large' is not a number"),
        (["eps<"], "^--where eps<: '' is not a number"),
    ],
)
def test_where_says_what_exists(runs: pd.DataFrame, conditions: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        where(runs, conditions)


def test_where_without_runs() -> None:
    with pytest.raises(UserError, match=r"^results: there are no runs"):
        where(frame([]), ["method=pgd"])


def test_columns(runs: pd.DataFrame) -> None:
    assert list(columns(runs, ["aa_acc", "method"]).columns) == ["aa_acc", "method"]
    with pytest.raises(UserError, match=r"^--columns: 'aa' is not known"):
        columns(runs, ["aa"])
    with pytest.raises(UserError, match=r"^--columns: 'method' is named twice"):
        columns(runs, ["method", "method"])


def test_sort(runs: pd.DataFrame) -> None:
    assert sort(runs, ["-aa_acc"])["seed"].tolist() == [2, 1, 0, 3]
    assert sort(runs, ["aa_acc"])["seed"].tolist() == [0, 1, 2, 3]
    assert sort(runs, ["method", "-seed"])["seed"].tolist() == [2, 3, 1, 0]
    assert sort(runs, ["-method"])["seed"].tolist() == [0, 1, 3, 2]
    with pytest.raises(UserError, match=r"^--sort: 'robust' is not known"):
        sort(runs, ["robust"])


# Rendering


@pytest.fixture
def ranking(make: Make) -> pd.DataFrame:
    rows = [
        ("amp", 0.9, 0.51234, 360),
        ("clean_adv", 0.95, 0.51231, 360),
        ("pgd", 0.7, 0.6, 100),
        ("mim", 0.5, 0.1, 360),
    ]
    return aggregate(frame([make(m, eps=8 / 255, clean_acc=c, aa_acc=a, n=n) for m, c, a, n in rows]))


def test_markdown(ranking: pd.DataFrame) -> None:
    shown = ["method", "eps", "clean_acc", "aa_acc"]
    assert to_markdown(ranking, shown).splitlines() == [
        "| method | eps | clean | AutoAttack |",
        "| --- | --- | --- | --- |",
        "| amp | 8/255 | 90.00 | **51.23** |",
        "| clean_adv | 8/255 | **95.00** | **51.23** |",  # equal as printed: both are best
        "| mim | 8/255 | 50.00 | 10.00 |",
        "| pgd† | 8/255 | 70.00 | 60.00 |",  # on fewer examples: marked, and no rival
        "",
        "† evaluated on fewer examples than the rest of the table",
    ]


def test_latex(ranking: pd.DataFrame) -> None:
    text = to_latex(ranking, ["method", "aa_acc", "aa_acc_95"])
    lines = text.splitlines()
    assert "method & {AutoAttack} & AutoAttack 95\\% \\\\" in lines
    assert r"clean\_adv & \bfseries 51.2 & [45.96, 56.24] \\" in lines
    assert r"amp & \bfseries 51.2 & [45.96, 56.24] \\" in lines
    assert any(line.startswith(r"pgd\textdagger{} & 60.0 &") for line in lines)
    assert r"\begin{tabular}{lS[table-format=2.1]l}" in lines
    assert (lines[1], lines[-1]) == (r"\begin{table}", r"\end{table}")
    assert r"\textdagger{} evaluated on fewer examples than the rest of the table" in text
    assert r"\label{tab:robustness}" in lines
    assert any("retain-zero-uncertainty = true" in line for line in lines)  # else siunitx prints 48.5 for 48.5(0)
    assert r"\caption{100\% of a\_b}" in to_latex(ranking, ["method"], caption="100% of a_b", label="t")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="TeX Live is not installed")
def test_tex_live_compiles_the_table_without_a_warning(ranking: pd.DataFrame, tmp_path: Path) -> None:
    table = to_latex(ranking, ["method", "aa_acc", "aa_acc_95"])
    packages = r"\usepackage{booktabs, siunitx, textcomp}"
    text = [
        r"\documentclass{article}",
        packages,
        r"\begin{document}",
        table,
        r"\ref{tab:robustness}",
        r"\end{document}",
    ]
    (tmp_path / "page.tex").write_text("\n".join(text))
    for _ in range(2):  # the second time with the number of the table
        command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "page"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout
    assert "Output written on page.pdf (1 page" in done.stdout
    assert "Warning" not in done.stdout
    assert "Overfull" not in done.stdout


def test_csv_of_a_ranking(ranking: pd.DataFrame) -> None:
    assert render(ranking, "csv", ["method", "eps", "aa_acc"]) == (
        "method,eps,aa_acc\namp,0.0313725490196,51.23\nclean_adv,0.0313725490196,51.23\n"
        "mim,0.0313725490196,10.00\npgd†,0.0313725490196,60.00\n"
    )
    with pytest.raises(UserError, match=r"^--format: 'html' is not known"):
        render(ranking, "html")
    with pytest.raises(UserError, match=r"^--columns: 'speed' is not known"):
        render(ranking, "latex", ["speed"])


def test_no_dagger_where_all_are_equal(make: Make) -> None:
    text = to_markdown(aggregate(frame([make("pgd", n=100), make("amp", n=100)])))
    assert "†" not in text
    assert "†" in to_markdown(aggregate(frame([make("pgd", n=99), make("amp", n=100)])), ["backbone", "aa_acc"])


def test_lower_errors_are_better(make: Make) -> None:
    rows = [make(m, metrics={"aa_err": e}, intervals={}) for m, e in (("pgd", 0.2), ("amp", 0.3))]
    assert "| pgd | **20.00** |" in to_markdown(aggregate(frame(rows)), ["method", "aa_err"])


def test_a_ranking_in_another_order_keeps_its_marks(ranking: pd.DataFrame) -> None:
    text = to_markdown(sort(ranking, ["-aa_acc"]), ["method", "aa_acc"]).splitlines()
    assert text[2:6] == ["| pgd† | 60.00 |", "| amp | **51.23** |", "| clean_adv | **51.23** |", "| mim | 10.00 |"]


# Files


def _fill(make: Make, results: Path) -> None:
    for seed in (1, 0):
        write_record(make("pgd", seed=seed, aa_acc=0.4 + seed / 100, tables=["main", "quickstart"]), results / "runs")
    write_record(make("amp", aa_acc=1 / 3, tables=["quickstart"]), results / "runs")
    write_record(make("mim", eps=0.2, hyper_parameters={"lr": 1e-4}), results / "runs")


def test_rebuild_has_the_same_bytes(make: Make, tmp_path: Path) -> None:
    _fill(make, tmp_path)
    written = rebuild(tmp_path)
    assert [path.name for path in written] == ["all_runs.csv", "main.csv", "quickstart.csv"]
    first = {path.name: path.read_bytes() for path in written}
    assert {path.name: path.read_bytes() for path in rebuild(tmp_path)} == first
    assert not any(b"\r" in content for content in first.values())
    assert first["quickstart.csv"].decode() == (
        "data,backbone,norm,eps,method,runs,n_examples,aa_acc,aa_acc_95\n"
        'digits,lenet,Linf,0.1,amp,1,360,33.33,"[28.66, 38.36]"\n'
        "digits,lenet,Linf,0.1,pgd,2,360,40.50(71),\n"
    )
    everything = pd.read_csv(tmp_path / "tables" / "all_runs.csv")
    assert everything["run_id"].tolist() == ["amp-0", "mim-0", "pgd-0", "pgd-1"]
    assert everything["aa_acc"].tolist() == pytest.approx([1 / 3, 0.5, 0.4, 0.41], abs=1e-11)


def test_runs_that_hyper_parameters_were_chosen_by_are_in_no_mean(make: Make, tmp_path: Path) -> None:
    _fill(make, tmp_path)
    first = {path.name: path.read_bytes() for path in rebuild(tmp_path)}
    told = {"claim": {"tuning": True}}
    write_record(make("pgd", seed=100, clean_acc=0.9, details=told, tables=["quickstart", "other"]), tmp_path / "runs")
    second = {path.name: path.read_bytes() for path in rebuild(tmp_path)}
    assert second.keys() == first.keys()
    assert second["quickstart.csv"] == first["quickstart.csv"]
    assert len(second["all_runs.csv"].splitlines()) == len(first["all_runs.csv"].splitlines()) + 1


def test_rebuild_names_what_it_leaves_out(make: Make, tmp_path: Path) -> None:
    _fill(make, tmp_path)
    rebuild(tmp_path)
    before = (tmp_path / "tables" / "main.csv").read_bytes()
    (tmp_path / "runs" / "broken.json").write_text("{")
    with pytest.warns(RecordWarning, match=r"^broken\.json"):
        rebuild(tmp_path)
    assert (tmp_path / "tables" / "main.csv").read_bytes() == before


def test_rebuild_of_no_runs(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    assert [path.read_text() for path in rebuild(tmp_path)] == ["\n"]


def test_table_names(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^table: '\.\./x' is not allowed"):
        write_table("../x", pd.DataFrame({"a": [1]}), tmp_path)
    assert write_table("x", pd.DataFrame({"a": [1]}), tmp_path).read_bytes() == b"a\n1\n"


@settings(max_examples=15)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=4), st.randoms())
def test_a_table_does_not_depend_on_the_order_of_runs(make: Make, values: list[float], random: Any) -> None:
    assume(len(set(values)) > 1)
    records = [make(f"m{i % 2}", seed=i, aa_acc=value) for i, value in enumerate(values)]
    shuffled = random.sample(records, len(records))
    assert to_markdown(aggregate(frame(records))) == to_markdown(aggregate(frame(shuffled)))


def test_seeds_from_before_an_option_stand_with_those_after(make: Make) -> None:
    older = make(seed=0, aa_acc=0.4, hyper_parameters={"augment": "crop", "seed": 0})
    newer = make(seed=1, aa_acc=0.6, hyper_parameters={"augment": "crop", "crop_padding": 4, "seed": 1})
    other = make(seed=2, aa_acc=0.9, hyper_parameters={"augment": "crop", "crop_padding": 2, "seed": 2})
    means = aggregate(frame([older, newer, other])).set_index("hp.crop_padding")
    assert means["runs"].to_dict() == {4: 2, 2: 1}
    assert means["aa_acc"].to_dict() == pytest.approx({4: 0.5, 2: 0.9})
    faster = {"augment": "crop", "crop_padding": 4, "onednn_linear": "auto", "shifted_sums": "auto", "seed": 3}
    joined = aggregate(frame([older, newer, make(seed=3, aa_acc=0.8, hyper_parameters=faster)]))
    assert joined["runs"].tolist() == [3]
    planned = make(seed=3, aa_acc=0.8, hyper_parameters={"augment": "crop", "crop_padding": 4, "speed": "auto"})
    apart = aggregate(frame([older, newer, planned])).set_index("hp.speed")
    assert apart["runs"].to_dict() == {"0.1": 2, "auto": 1}
    evaluated = frame([make(hyper_parameters={"checkpoint": "outputs/run/best"})])
    assert "hp.crop_padding" not in evaluated  # nothing was trained
