"""The pages and their figures say what the records say, and no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from toolkit_ext.claims import Arm, Claim, Group, Lower, Row
from toolkit_ext.claims.claim import load_groups
from toolkit_ext.claims.figures import plot_group
from toolkit_ext.claims.page import build, group_page, summary
from toolkit_ext.claims.runs import runs_by_scale
from toolkit_ext.claims.verdict import judge_group
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.results import Record, write_record

Both = Callable[[Sequence[float], Sequence[float]], list[Record]]
LOW, HIGH = [0.40, 0.41, 0.42], [0.60, 0.61, 0.62]


def page(group: Group, records: Sequence[Record], drawn: bool = False) -> str:
    """The page of ``group``."""
    runs = runs_by_scale(group, records)
    return group_page(group, runs, judge_group(group, runs), drawn)


def line(text: str, start: str) -> str:
    """The one line that starts so."""
    (found,) = [line for line in text.splitlines() if line.startswith(start)]
    return found


def test_the_row_has_both_figures_and_the_verdict_follows(group: Group, runs_of_both: Both) -> None:
    text = page(group, runs_of_both(LOW, HIGH))
    assert line(text, "| pgd | AutoAttack") == (
        "| pgd | AutoAttack accuracy [%] | 47.5 (table 3) | 41.00(100) | not measured |"
    )
    assert "| source | TRADES is more robust than PGD. | **supported** | small | 0 | 1 | yes |" in text
    found = "| AutoAttack accuracy: trades − pgd | best | 4.75 points | 20.00 points | 20.00 to 20.00 | 0.00 points |"
    assert line(text, "| AutoAttack accuracy: trades").startswith(found)
    assert "[seed 0](../runs/" in line(text, "| pgd | small |")
    assert "python recipes/claims/example.py --scale paper --seeds 0,1,2" in text


def test_the_command_has_the_seeds_of_the_records(group: Group, runs_of_both: Both) -> None:
    command = "python recipes/claims/example.py --scale small --seeds"
    alike = page(group, runs_of_both([*LOW, 0.43], [*HIGH, 0.6])).splitlines()
    assert f"{command} 0,1,2,3" in alike
    apart = page(group, runs_of_both([*LOW, 0.43], HIGH)).splitlines()
    assert {f'{command} 0,1,2,3 --only "pgd"', f'{command} 0,1,2 --only "trades"'} < set(apart)


def test_a_refuted_claim_says_so(group: Group, runs_of_both: Both) -> None:
    text = page(group, runs_of_both(HIGH, LOW))
    assert "| TRADES is more robust than PGD. | **refuted** | small | 1 | 0 | yes |" in text
    assert "**Refuted**. Rule: AutoAttack accuracy of pgd is lower" in text
    assert "| best | 4.75 points | -20.00 points |" in text


def test_the_summary_counts_sources_and_own_questions_apart(group: Group, runs_of_both: Both) -> None:
    own = replace(group.claims[0], name="own", rule=Lower(("trades", "aa_acc"), ("pgd", "aa_acc")), own=True)
    both = replace(group, claims=(*group.claims, own))
    text = summary([both], {both.name: judge_group(both, runs_by_scale(both, runs_of_both(LOW, HIGH)))})
    assert "Of 1 statements of the sources: 1 supported; 1 precise." in text
    assert "Of 1 questions of this project: 1 refuted; 1 precise." in text
    assert "| [1. TRADES or PGD?](claims/example.md) | 1 supported | 1 refuted |" in text


def test_an_arm_that_ended_constant_is_named_and_not_compared(group: Group, runs_of_both: Both) -> None:
    records = runs_of_both(LOW, HIGH)
    for record in records[:2]:  # two of three runs of pgd
        record["details"]["training"]["history"][-1]["val_top_share"] = 1.0
    assert "pgd ended as a constant classifier with seed 0, 1: it is not compared." in page(group, records)
    assert "| **inconclusive** | small |" in page(group, records)
    about = replace(group, claims=(replace(group.claims[0], about_collapse=True),))
    assert "| **supported** | small |" in page(about, records)
    records[1]["details"]["training"]["history"][-1]["val_top_share"] = 0.2
    text = page(group, records)
    assert "pgd ended as a constant classifier with seed 0.\n" in text
    assert "| **supported** | small |" in text


def test_the_last_epoch_stands_beside_the_best(
    group: Group, runs_of_both: Both, recorded: Callable[..., Record], experiment: Callable[..., Experiment]
) -> None:
    records = runs_of_both(LOW, HIGH)
    last = [
        recorded(
            experiment(run["method"]),
            run["seed"],
            {"clean_acc": 0.9, "apgd_ce_acc": run["metrics"]["aa_acc"] - 0.05},
            run_id=f"{run['run_id']}-last",
            details={"probe": {"name": "last", "of": run["run_id"], "facts": {}}},
        )
        for run in records
    ]
    assert "last, APGD-CE" not in page(group, records)
    assert "| AutoAttack accuracy: trades − pgd | last, APGD-CE |  | 20.00 points |" in page(group, [*records, *last])


def test_the_cost_of_a_run_counts_each_pass_once(group: Group, runs_of_both: Both) -> None:
    records = runs_of_both(LOW, HIGH)
    passes = {"forward": 6.0, "backward": 6.0, "weight_forward": 1.0, "weight_backward": 1.0}  # the last are among them
    for record in records:
        record["details"]["claim"] = {"passes": passes}
    epochs = records[0]["hyper_parameters"]["epochs"]
    assert f", {12 * epochs:g} passes |" in line(page(group, records), "| pgd | small |")


@pytest.mark.parametrize("missing", [slice(0, 2), slice(0, 0)], ids=["two seeds", "no run"])
def test_fewer_than_three_seeds_are_no_figure_and_no_verdict(missing: slice, group: Group, runs_of_both: Both) -> None:
    text = page(group, runs_of_both(LOW[missing], HIGH))
    assert line(text, "| pgd | AutoAttack").endswith("| not measured | not measured |")
    assert "| TRADES is more robust than PGD. | not measured |  |  |  |  |" in text
    assert "61.00(100)" in line(text, "| trades | AutoAttack")


def test_runs_that_were_not_made_for_a_claim_do_not_count(group: Group, runs_of_both: Both) -> None:
    others = [{**record, "tables": ["digits_methods"]} for record in runs_of_both(LOW, HIGH)]
    assert "not measured |" in page(group, others)  # type: ignore[arg-type]
    assert "41.00" not in page(group, others)  # type: ignore[arg-type]


def test_no_figure_without_a_measurement_and_none_is_left_over(
    group: Group, runs_of_both: Both, tmp_path: Path
) -> None:
    path = tmp_path / "claims_example.png"
    measured = runs_of_both(LOW, HIGH)
    assert plot_group(group, judge_group(group, runs_by_scale(group, measured)), path) == path
    assert path.read_bytes().startswith(b"\x89PNG")
    assert plot_group(group, judge_group(group, runs_by_scale(group, [])), path) is None
    assert not path.exists()


SCRIPT = '''"""A claim."""
from toolkit_ext.claims import Arm, Claim, Group, Lower, Row
from toolkit_ext.experiments.settings import Experiment

ARMS = tuple(
    Arm(name, Experiment(name, backbone_args={"width": 8}, n_test=200, attacks=("clean", "aa")))
    for name in ("pgd", "trades")
)
RULE = Lower(("pgd", "aa_acc"), ("trades", "aa_acc"))
GROUP = Group(1, "example", "TRADES or PGD?", "A paper", ARMS, (Claim("wins", "TRADES wins.", RULE),))
'''


def test_building_twice_gives_the_same_bytes(runs_of_both: Both, tmp_path: Path) -> None:
    recipes, results = tmp_path / "recipes", tmp_path / "results"
    recipes.mkdir()
    (recipes / "example.py").write_text(SCRIPT)
    for record in runs_of_both(LOW, HIGH):
        write_record(record, results / "runs")
    first = {path: path.read_bytes() for path in build(recipes, results)}
    assert {path.name for path in first} == {"CLAIMS.md", "example.md", "claims_example.png"}
    assert {path: path.read_bytes() for path in build(recipes, results)} == first


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("example", "GROUP = 3", "does not define GROUP"),
        ("other", SCRIPT, "is named 'example'; it must have the file's name"),
        ("notes.txt", "", "holds no claims"),
    ],
)
def test_scripts_that_define_no_claim_are_named(name: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / (name if "." in name else f"{name}.py")).write_text(text)
    with pytest.raises(UserError, match=message):
        load_groups(tmp_path)


def test_a_claim_on_an_unknown_arm_is_refused(experiment: Callable[..., Experiment]) -> None:
    claim = Claim("wins", "TRADES wins.", Lower(("pgd", "aa_acc"), ("trade", "aa_acc")), rows=(Row("pgd", "aa_acc"),))
    arms = (Arm("pgd", experiment()), Arm("trades", experiment("trades")))
    with pytest.raises(UserError, match="arm: 'trade' is not known"):
        Group(1, "example", "TRADES or PGD?", "A paper", arms, (claim,))
    with pytest.raises(UserError, match="two of group example have the same name"):
        Group(1, "example", "TRADES or PGD?", "A paper", (arms[0], arms[0]), ())
