"""Two runs are compared image by image and seed by seed, or refused in one line."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from scipy.stats import ttest_rel
from statsmodels.stats.proportion import proportion_confint

from toolkit_ext.cli import cli
from toolkit_ext.errors import UserError
from toolkit_ext.results import Record, read_records, write_record
from toolkit_ext.results.inference.compare import compare, find_runs
from toolkit_ext.results.inference.samples import outcomes, sample_of

Make = Callable[..., Record]
ROOT = Path(__file__).parents[3] / "results" / "runs"


def bits(share: float, seed: int) -> np.ndarray[Any, Any]:
    return np.random.default_rng(seed).permutation(200) < 200 * share


@pytest.fixture(name="run")
def _run(make: Make) -> Make:
    """A run with outcomes by image under AutoAttack."""

    def run(method: str, seed: int, share: float, images: str = "abc", **given: Any) -> Record:
        robust = {"aa": np.packbits(bits(share, 10 * seed)).tobytes().hex()}
        details = {"robust": robust, "settings": {"data_sha256": images}}
        usual: dict[str, Any] = {"run_id": f"{method}-{seed}-{images}", "details": details, "n": 200}
        return make(method, seed=seed, clean_acc=0.9, aa_acc=share, **{**usual, **given})

    return run


PAIR = (("pgd", 0.5), ("trades", 0.7))


def test_several_seeds_count_seeds_and_images(run: Make) -> None:
    first, second = ([run(name, seed, share + 0.01 * seed) for seed in range(3)] for name, share in PAIR)
    found = compare(first, second)
    (aa,) = found.differences
    assert (aa.metric, aa.first, aa.second) == ("aa_acc", 51.0, 71.0)
    assert aa.estimate.value == pytest.approx(20.0)
    assert "over 200 images and 3 and 3 seeds, paired by seed" in found.headline()
    assert "is higher than that of pgd-0-abc (3 seeds): +20.00 points" in found.headline()
    header, rule, row = found.table().splitlines()
    assert header == "| metric | first | second | difference | 90% interval | p | detectable |"
    assert rule == "| --- | --- | --- | --- | --- | --- | --- |"
    assert row.startswith("| AutoAttack | 51.00 | 71.00 | +20.00 |")
    assert "seeds apart" in compare(first, second[:2]).counted


@pytest.mark.parametrize(
    ("share", "side"), [(0.7, "higher than"), (0.3, "lower than"), (0.5, "not distinguished from")]
)
def test_the_headline_says_on_which_side_the_interval_lies(run: Make, share: float, side: str) -> None:
    headline = compare([run("pgd", 0, 0.5)], [run("trades", 1, share)]).headline()
    assert headline.startswith(f"AutoAttack accuracy of trades-1-abc is {side} that of pgd-0-abc: ")


def test_single_runs_with_the_same_outcomes_have_the_interval_of_clopper_and_pearson(run: Make) -> None:
    (same,) = compare([run("pgd", 0, 0.5)], [run("trades", 0, 0.5)]).differences
    _, high = proportion_confint(0, 200, alpha=0.1, method="beta")
    assert same.estimate.interval() == pytest.approx((-100 * high, 100 * high))


def test_single_runs_count_images_alone_and_say_so(run: Make) -> None:
    first, second = run("pgd", 0, 0.5), run("trades", 1, 0.7)
    found = compare([first], [second])
    p = ttest_rel(bits(0.7, 10).astype(float), bits(0.5, 0).astype(float)).pvalue
    assert found.differences[0].p == pytest.approx(p)
    assert "over 200 images alone, as one side is a single run" in found.headline()


OTHER: dict[str, dict[str, Any]] = {
    r"test images \(data_sha256\)": {"images": "other"},
    "eps": {"protocol": {"name": "p", "norm": "Linf", "eps": 0.2, "version": "standard"}},
    "norms": {"protocol": {"name": "p", "norm": "L2", "eps": 0.1, "version": "standard"}},
    "protocols": {"protocol": {"name": "q", "norm": "Linf", "eps": 0.1, "version": "standard"}},
    "versions of AutoAttack": {"protocol": {"name": "p", "norm": "Linf", "eps": 0.1, "version": "plus"}},
}


@pytest.mark.parametrize("what", OTHER)
def test_runs_that_do_not_compare_are_refused(what: str, run: Make) -> None:
    protocol = {"name": "p", "norm": "Linf", "eps": 0.1, "version": "standard"}
    first, second = (
        run("pgd", 0, 0.5, protocol=protocol),
        run("trades", 0, 0.7, **{"protocol": protocol, **OTHER[what]}),
    )
    with pytest.raises(UserError, match=f"RUN: the runs have different {what}"):
        compare([first], [second])


def test_the_same_run_twice_and_runs_without_outcomes_are_refused(run: Make) -> None:
    one = run("pgd", 0, 0.5)
    with pytest.raises(UserError, match="is on both sides"):
        compare([one], [one])
    bare = run("trades", 0, 0.5)
    bare["details"].pop("robust")
    with pytest.raises(UserError, match="no outcomes by image"):
        compare([one], [bare])


def test_runs_without_outcomes_are_a_number_each(run: Make) -> None:
    runs = {seed: run("pgd", seed, 0.5 + seed / 10) for seed in range(3)}
    assert outcomes(runs[0], "aa_gap") is None
    del runs[1]["details"]["robust"]
    found = sample_of(runs, "aa_acc", lambda record, metric: 100 * record["metrics"][metric])
    assert found.outcomes == pytest.approx(np.array([[50.0], [60.0], [70.0]]))
    assert (found.seeds, found.images) == ((0, 1, 2), "")


def test_runs_are_found_by_name_path_pattern_and_seed(run: Make, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    for seed in range(3):
        write_record(run("pgd", seed, 0.5), folder)
    write_record(run("trades", 0, 0.7), folder)

    def seeds(text: str, **given: bool) -> list[int]:
        return [each["seed"] for each in find_runs(text, folder, **given)]

    assert seeds("pgd-1-abc") == seeds(str(folder / "pgd-1-abc.json")) == [1]
    assert seeds("pgd-*-abc") == seeds(str(folder / "pgd-?-abc")) == seeds("pgd-1-abc", all_seeds=True) == [0, 1, 2]
    assert seeds("pgd-2-abc,pgd-0-abc") == [0, 2]
    with pytest.raises(UserError, match="names 4 runs that differ in more than their seed"):
        seeds("*-abc")
    other = run("pgd", 3, 0.5)
    other["hyper_parameters"]["lr"] = 0.5
    write_record(other, folder)
    assert seeds("pgd-1-abc", all_seeds=True) == [0, 1, 2]
    with pytest.raises(UserError, match="names 4 runs that differ in more than their seed"):
        seeds("pgd-*-abc")
    with pytest.raises(UserError, match="'mim' names no record"):
        seeds("mim")
    (folder / "broken.json").write_text("{")
    with pytest.raises(UserError, match=r"broken\.json: is not a sound run record"):
        seeds("broken")


def test_the_command_prints_one_line_and_a_table(run: Make, tmp_path: Path) -> None:
    for record in (run("pgd", 0, 0.5), run("trades", 0, 0.7)):
        write_record(record, tmp_path / "runs")
    done = CliRunner().invoke(cli, ["compare", "pgd-0-abc", "trades-0-abc", "--results", str(tmp_path)])
    assert done.exit_code == 0, done.output
    first, empty, *table = done.output.splitlines()
    assert first.startswith("AutoAttack accuracy of trades-0-abc is higher than that of pgd-0-abc: +20.00 points")
    assert empty == ""
    assert len(table) == 3


@pytest.mark.skipif(not ROOT.is_dir(), reason="there are no committed records beside the tests")
def test_the_outcomes_of_committed_records_have_their_accuracies() -> None:
    for record in read_records(ROOT):
        for metric, value in record["metrics"].items():
            found = outcomes(record, metric)
            assert found is None or found.mean() == pytest.approx(100 * value, abs=1e-4), (record["run_id"], metric)
