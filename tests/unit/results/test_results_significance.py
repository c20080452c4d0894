"""Significance: the marks follow from the images and seeds, and nothing is claimed without them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.multitest import multipletests

from toolkit_ext.results import Record, aggregate, frame, members, per_example, sort, to_latex, to_markdown, vs_best
from toolkit_ext.results.tables.rendering import render
from toolkit_ext.results.tables.significance import holm

Make = Callable[..., Record]
N = 200


def _hex(bits: Any) -> str:
    return np.packbits(np.asarray(bits, dtype=bool)).tobytes().hex()


def _run(make: Make, method: str, bits: Any, seed: int = 0, **given: Any) -> Record:
    kept = {"robust": {"aa": _hex(bits)}}
    return make(method, seed=seed, n=len(bits), aa_acc=float(np.mean(bits)), details=kept, **given)


def _first(count: int, n: int = N) -> Any:
    return np.arange(n) < count


def _verdicts(records: list[Record], **given: Any) -> dict[str, str]:
    runs = frame(records)
    table = aggregate(runs, allow_mixed=True)
    return dict(zip(table["method"], vs_best(table, runs, records, **given)["aa_acc"], strict=True))


@given(st.lists(st.booleans(), min_size=1, max_size=40))
def test_bits_are_read_back(make: Make, bits: list[bool]) -> None:
    record = _run(make, "pgd", bits)
    found = per_example(record, "aa")
    assert found is not None
    assert found.tolist() == bits
    assert per_example(record, "pgd20") is None


def test_a_large_difference_is_claimed_and_a_small_one_is_not(make: Make) -> None:
    records = [_run(make, name, _first(count)) for name, count in (("amp", 150), ("pgd", 148), ("mim", 90))]
    assert _verdicts(records) == {"amp": "best", "pgd": "tied", "mim": "worse"}


@pytest.mark.parametrize("draws", [499, 500, 701])
def test_any_number_of_resamples_will_do(make: Make, draws: int) -> None:
    records = [_run(make, name, _first(count)) for name, count in (("amp", 150), ("mim", 90))]
    assert _verdicts(records, draws=draws) == {"amp": "best", "mim": "worse"}


def test_pairing_finds_what_independent_samples_hide(make: Make) -> None:
    """12 of 200 images more, all others alike: an exact sign test gives p = 2 ** -11; as two samples p is 0.22."""
    nested = [_run(make, "amp", _first(112)), _run(make, "pgd", _first(100))]
    assert _verdicts(nested) == {"amp": "best", "pgd": "worse"}
    shuffled = np.random.default_rng(0).permutation(_first(100))
    assert _verdicts([nested[0], _run(make, "pgd", shuffled)]) == {"amp": "best", "pgd": "tied"}


def test_the_spread_between_seeds_counts(make: Make) -> None:
    steady = [_run(make, "amp", _first(count), seed) for seed, count in enumerate((149, 150, 151))]
    wild = [_run(make, "pgd", _first(count), seed) for seed, count in enumerate((80, 120, 190))]
    assert _verdicts(steady + wild) == {"amp": "best", "pgd": "tied"}
    low = [_run(make, "pgd", _first(count), seed) for seed, count in enumerate((129, 130, 131))]
    assert _verdicts(steady + low) == {"amp": "best", "pgd": "worse"}


@settings(max_examples=8)
@given(st.lists(st.floats(0, 0.2), max_size=8))
def test_holm_is_that_of_statsmodels(values: list[float]) -> None:
    expected = multipletests(values, 0.05, method="holm")[0].tolist() if values else []
    assert holm(values) == expected


def test_holm_guards_against_many_rivals(make: Make) -> None:
    best = _run(make, "amp", _first(107))
    assert _verdicts([best, _run(make, "m00", _first(100))])["m00"] == "worse"
    many = [_run(make, f"m{index:02}", _first(100)) for index in range(30)]
    assert set(_verdicts([best, *many]).values()) == {"best", "tied"}


@pytest.mark.parametrize("broken", [None, "", "zz", "ff"])
def test_nothing_is_claimed_where_data_are_missing(make: Make, broken: str | None) -> None:
    details = {} if broken is None else {"robust": {"aa": broken}}
    without = make("mim", n=N, aa_acc=0.1, details=details)
    assert _verdicts([_run(make, "amp", _first(150)), without]) == {"amp": "best", "mim": "untested"}
    leader = make("mim", n=N, aa_acc=0.9, details=details)
    assert _verdicts([_run(make, "amp", _first(50)), leader]) == {"mim": "best", "amp": "untested"}


def test_one_seed_without_images_is_missing_data(make: Make) -> None:
    partial = [_run(make, "mim", _first(20)), make("mim", seed=1, n=N, aa_acc=0.1)]
    assert _verdicts([_run(make, "amp", _first(150)), *partial])["mim"] == "untested"


def test_other_images_are_not_compared(make: Make) -> None:
    records = [_run(make, "amp", _first(150)), _run(make, "pgd", _first(50))]
    for record, digest in zip(records, ("a", "b"), strict=True):
        record["details"]["settings"] = {"data_sha256": digest}
    assert _verdicts(records)["pgd"] == "untested"
    records[1]["details"]["settings"] = {}
    assert _verdicts(records)["pgd"] == "worse"


def test_other_budgets_and_fewer_examples_are_not_compared(make: Make) -> None:
    records = [
        _run(make, "amp", _first(150)),
        _run(make, "pgd", _first(10, 100)),
        _run(make, "mim", _first(5), eps=0.2),
    ]
    assert _verdicts(records) == {"amp": "", "pgd": "", "mim": ""}


@settings(max_examples=6)
@given(st.lists(st.integers(0, 40), min_size=2, max_size=4), st.integers(0, 3))
def test_order_does_not_matter_and_equals_are_never_worse(make: Make, counts: list[int], seed: int) -> None:
    records = [_run(make, f"m{index}", _first(count, 40)) for index, count in enumerate(counts)]
    found = _verdicts(records, draws=200, seed=seed)
    assert found == _verdicts(records[::-1], draws=200, seed=seed)
    top = max(counts)
    assert {found[f"m{index}"] for index, count in enumerate(counts) if count == top} == {"best"}


def test_marks_and_what_they_mean(make: Make) -> None:
    records = [_run(make, name, _first(count)) for name, count in (("amp", 150), ("pgd", 148), ("mim", 90))]
    records.append(make("awp", n=N, aa_acc=0.2))
    runs = frame(records)
    table = sort(aggregate(runs), ["-aa_acc"])
    verdicts = vs_best(table, runs, records)
    text = to_markdown(table, ["method", "aa_acc"], verdicts).splitlines()
    assert text[2:6] == ["| amp | **75.00** |", "| pgd | 74.00≈ |", "| mim | 45.00 |", "| awp | 20.00? |"]
    assert text[-3].startswith("≈ not significantly worse than the best")
    assert text[-1].startswith("? not tested against the best")
    latex = to_latex(table, ["method", "aa_acc"], verdicts)
    assert r"pgd & 74.0 {$\approx$} \\" in latex
    assert r"5\%)" in latex
    assert r"amp & \bfseries 75.0 \\" in latex
    shown = render(table, "csv", ["method", "aa_acc"], verdicts).splitlines()
    assert shown[:2] == ["method,aa_acc,aa_acc_vs_best", "amp,75.00,best"]
    assert "≈" not in to_markdown(table, ["method"], verdicts)


def test_only_the_metrics_asked_for_are_compared(make: Make) -> None:
    records = [_run(make, name, _first(count), clean_acc=0.9) for name, count in (("amp", 150), ("mim", 90))]
    runs = frame(records)
    table = aggregate(runs)
    every, one = vs_best(table, runs, records), vs_best(table, runs, records, metrics=["aa_acc"])
    assert {"clean_acc", "aa_acc"} <= set(every.columns)
    assert list(one.columns) == ["aa_acc"]
    assert list(one["aa_acc"]) == list(every["aa_acc"])


def test_members_are_the_runs_that_were_averaged(make: Make) -> None:
    records = [
        make("pgd", seed=1),
        make("pgd"),
        make("amp"),
        make("amp", run_id="amp-old", created="2025-01-01T00:00:00Z"),
    ]
    runs = frame(records)
    table: pd.DataFrame = sort(aggregate(runs, ["method"]), ["-method"])
    assert members(runs, table) == [["pgd-0", "pgd-1"], ["amp-0"]]
