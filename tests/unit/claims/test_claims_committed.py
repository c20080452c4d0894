"""The committed page of claims is what the committed records say, and its records are whole."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

import pytest

from toolkit_ext.claims import SEEDS, Group
from toolkit_ext.claims.claim import load_groups
from toolkit_ext.claims.figures import plot_group
from toolkit_ext.claims.page import build, shown_scales
from toolkit_ext.claims.rules import POINTS, Lower
from toolkit_ext.claims.runs import grid, of_claims, probed, runs_by_scale, titled
from toolkit_ext.claims.verdict import Verdict, source_values
from toolkit_ext.io import atomic_write
from toolkit_ext.results import Record, read_records

ROOT = Path(__file__).parents[3]
RESULTS, RECIPES = ROOT / "results", ROOT / "recipes" / "claims"
PAGE = RESULTS / "CLAIMS.md"
DRAWN = "pas_table"  # the group with the smallest figure

pytestmark = pytest.mark.skipif(not PAGE.is_file(), reason="there are no committed claims beside the tests")


def committed(folder: str, pattern: str) -> list[Path]:
    """Files of ``results/<folder>`` that git tracks; outside a checkout, all of them."""
    command = ["git", "-C", str(RESULTS), "ls-files", "-z", f"{folder}/{pattern}"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    names = listed.stdout.split("\0")[:-1] if listed.returncode == 0 else []
    return [RESULTS / name for name in names] if names else sorted((RESULTS / folder).glob(pattern))


def rebuild(folder: Path) -> dict[str, bytes]:
    (folder / "runs").mkdir()
    for path in committed("runs", "*.json"):
        (folder / "runs" / path.name).write_bytes(path.read_bytes())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in build(RECIPES, folder)}


def plot_one(group: Group, verdicts: Mapping[str, Verdict], path: Path) -> Path | None:
    """Draw the smallest figure, and take the others, which take seconds, as committed."""
    if group.name == DRAWN:
        return plot_group(group, verdicts, path)
    kept = RESULTS / "figures" / path.name
    return atomic_write(path, kept.read_bytes()) if kept.exists() else None


@pytest.fixture(scope="module")
def rebuilt(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("toolkit_ext.claims.page.plot_group", plot_one)
        return rebuild(tmp_path_factory.mktemp("results"))


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return of_claims(read_records(RESULTS / "runs"))


def test_the_pages_rebuilt_from_the_records_show_no_difference(rebuilt: dict[str, bytes]) -> None:
    pages = {name for name in rebuilt if name.endswith(".md")}
    assert pages - {PAGE.name} == {f"claims/{path.name}" for path in committed("claims", "*.md")}
    for name in pages:
        assert rebuilt[name].decode() == (RESULTS / name).read_text()


def test_the_summary_fits_on_a_screen() -> None:
    assert len(PAGE.read_text().splitlines()) <= 40


def test_a_margin_is_half_of_the_sources_effect_or_two_points() -> None:
    """The source of ``constant_eps`` has figures under PGD alone, of which its margins under AutoAttack are taken."""
    for group in load_groups(RECIPES):
        for claim in group.claims:
            for part in claim.rule.parts():
                if isinstance(part, Lower) and part.unit == " points":
                    known = {} if claim.own else source_values(group.claims)
                    stated = all(figure in known for figure in part.figures())
                    usual = round(abs(part.effect(known)) / 2, 6) if stated else POINTS
                    assert part.delta == usual or group.name == "constant_eps", (claim.name, part.label)


def test_a_figure_rebuilt_from_the_records_shows_no_difference(rebuilt: dict[str, bytes]) -> None:
    check_figures(rebuilt)


@pytest.mark.slow  # draws nine figures
def test_the_figures_rebuilt_from_the_records_show_no_difference(tmp_path: Path) -> None:
    check_figures(rebuild(tmp_path))


def check_figures(rebuilt: dict[str, bytes]) -> None:
    figures = {name: text for name, text in rebuilt.items() if name.startswith("figures/")}
    kept = {f"figures/{path.name}": path.read_bytes() for path in committed("figures", "claims_*.png")}
    assert figures.keys() == kept.keys()
    pinned = re.search(r"^matplotlib==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    if version("matplotlib") == pinned.group(1):  # another version draws text otherwise
        assert figures == kept


def test_every_record_says_where_with_what_and_how_long(records: list[Record]) -> None:
    for record in records:
        assert record["hardware"]["cpu"], record["run_id"]
        assert record["versions"]["torch"], record["run_id"]
        seconds = [record["times"]["train_s"], record["times"]["eval_s"]]
        assert any(value and value > 0 for value in seconds), record["run_id"]
        assert record["command"].startswith("python recipes/claims/"), record["run_id"]
        assert record["git"] is not None, record["run_id"]


# Of settings that were changed: the page says why, and what they showed.
EARLIER = {
    "speed": (
        *("LeNet on MNIST: fp32", "LeNet on MNIST: examples in bf16", "LeNet on MNIST: all in bf16"),
        *("residual network on MNIST: not folded", "residual network on MNIST: folded"),
        *("residual network on digits: not folded", "residual network on digits: folded"),
    )
}


def used_by(group: Group, records: list[Record]) -> set[str]:
    """The runs of the arms of ``group``, those that chose their hyper-parameters, and what was probed of them."""
    found = set()
    for scale, runs in runs_by_scale(group, records).items():
        for arm in group.arms:
            experiment = arm.at(scale)
            tried = grid(arm, experiment, records) if experiment else None
            found |= {candidate["run_id"] for candidate in tried or []}
            found |= {run["run_id"] for run in runs.of[arm.name]}
    return found | {record["run_id"] for record in records if probed(record).get("of") in found}


def test_no_record_of_a_claim_is_left_over(records: list[Record]) -> None:
    groups = load_groups(RECIPES)
    used = set().union(*(used_by(group, records) for group in groups))
    told = {(name, arm) for name, arms in EARLIER.items() for arm in arms}
    of = {(r["details"]["claim"].get("group"), r["details"]["claim"].get("arm")) for r in records}
    assert told <= of
    for record in records:
        claim = record["details"]["claim"]
        if (claim.get("group"), claim.get("arm")) not in told:
            assert record["run_id"] in used, (claim.get("group"), claim.get("arm"), record["run_id"])


def test_every_figure_has_enough_seeds_or_says_not_measured(records: list[Record]) -> None:
    for group in load_groups(RECIPES):
        text = (RESULTS / "claims" / f"{group.name}.md").read_text()
        lines = [line for line in text.splitlines() if line.startswith("| ") and "[seed " not in line]
        runs = runs_by_scale(group, records)
        for claim in group.measurable(shown_scales(runs)).claims:
            for row in claim.rows:
                counts = [len(runs[scale].values((row.arm, row.metric))) for scale in shown_scales(runs)]
                start = f"| {row.arm} | {titled(row.metric)} |"
                missing = {line.count("not measured") for line in lines if line.startswith(start)}
                assert missing == {sum(count < SEEDS for count in counts)}, (row, counts)


def test_runs_of_a_grid_were_never_chosen_on_test_data(records: list[Record]) -> None:
    for record in records:
        told = record["details"]["claim"]
        if told.get("tuning"):
            assert record["metrics"].keys() <= {"clean_acc", "union_acc"}, record["run_id"]
        if "grid" in told and not probed(record):
            best = max(told["grid"], key=lambda c: (c["val_robust_acc"], c["val_clean_acc"]))
            given = record["hyper_parameters"]
            assert all(given[name] == value for name, value in best["hyper_parameters"].items()), record["run_id"]
