"""The page and its figure say what the records say, and no more."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from toolkit_ext.claims import Arm, Claim, Group, Lower, Row
from toolkit_ext.claims.claim import load_groups
from toolkit_ext.claims.figures import plot_group
from toolkit_ext.claims.page import build, page
from toolkit_ext.claims.runs import runs_by_scale
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.results import Record, write_record

Both = Callable[[Sequence[float], Sequence[float]], list[Record]]
LOW, HIGH = [0.40, 0.41, 0.42], [0.60, 0.61, 0.62]


def line(text: str, start: str) -> str:
    """The one line that starts so."""
    (found,) = [line for line in text.splitlines() if line.startswith(start)]
    return found


def test_the_row_has_both_figures_and_the_verdict_follows(group: Group, runs_of_both: Both) -> None:
    text = page([group], runs_of_both(LOW, HIGH))
    assert line(text, "| pgd | AutoAttack") == (
        "| pgd | AutoAttack accuracy [%] | 47.5 (table 3) | 41.00(100) | not measured |"
    )
    assert "| TRADES is more robust than PGD. | **only at reduced scale** | small |" in text
    assert "- small: holds: AutoAttack accuracy of trades less that of pgd is 20.00 points" in text
    assert "[seed 0](runs/" in line(text, "| pgd | small |")
    assert "python recipes/claims/example.py --scale paper --seeds 0,1,2" in text


def test_the_command_has_the_seeds_of_the_records(group: Group, runs_of_both: Both) -> None:
    text = page([group], runs_of_both([*LOW, 0.43], HIGH))
    assert "python recipes/claims/example.py --scale small --seeds 0,1,2,3" in text


def test_a_refuted_claim_says_so(group: Group, runs_of_both: Both) -> None:
    text = page([group], runs_of_both(HIGH, LOW))
    assert "| TRADES is more robust than PGD. | **not reproduced** | small |" in text
    assert "**Not reproduced**. Rule: AutoAttack accuracy of pgd is lower" in text
    assert "does not hold: AutoAttack accuracy of trades less that of pgd is -20.00 points" in text


def test_the_cost_of_a_run_counts_each_pass_once(group: Group, runs_of_both: Both) -> None:
    records = runs_of_both(LOW, HIGH)
    passes = {"forward": 6.0, "backward": 6.0, "weight_forward": 1.0, "weight_backward": 1.0}  # the last are among them
    for record in records:
        record["details"]["claim"] = {"passes": passes}
    epochs = records[0]["hyper_parameters"]["epochs"]
    assert f", {12 * epochs:g} passes |" in line(page([group], records), "| pgd | small |")


@pytest.mark.parametrize("missing", [slice(0, 2), slice(0, 0)], ids=["two seeds", "no run"])
def test_fewer_than_three_seeds_are_no_figure_and_no_verdict(missing: slice, group: Group, runs_of_both: Both) -> None:
    text = page([group], runs_of_both(LOW[missing], HIGH))
    assert line(text, "| pgd | AutoAttack").endswith("| not measured | not measured |")
    assert "| TRADES is more robust than PGD. | not measured |  |" in text
    assert "61.00(100)" in line(text, "| trades | AutoAttack")


def test_runs_that_were_not_made_for_a_claim_do_not_count(group: Group, runs_of_both: Both) -> None:
    others = [{**record, "tables": ["digits_methods"]} for record in runs_of_both(LOW, HIGH)]
    assert "not measured |\n" in page([group], others)  # type: ignore[arg-type]
    assert "41.00" not in page([group], others)  # type: ignore[arg-type]


def test_no_figure_without_a_measurement_and_none_is_left_over(
    group: Group, runs_of_both: Both, tmp_path: Path
) -> None:
    path = tmp_path / "claims_example.png"
    measured = runs_of_both(LOW, HIGH)
    assert plot_group(group, runs_by_scale(group, measured), path) == path
    assert path.read_bytes().startswith(b"\x89PNG")
    assert plot_group(group, runs_by_scale(group, []), path) is None
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
    assert {path.name for path in first} == {"CLAIMS.md", "claims_example.png"}
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
