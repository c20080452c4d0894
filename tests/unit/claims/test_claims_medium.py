"""The medium scale: shown once it has runs, with its own probes, APGD-CE and APGD-T in place of AutoAttack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from toolkit_ext.claims import Arm, AtLeast, Claim, Found, Group, Lower, Row, run_group
from toolkit_ext.claims.claim import load_groups
from toolkit_ext.claims.page import group_page, shown_scales
from toolkit_ext.claims.probes import generalisation
from toolkit_ext.claims.runs import matches, measure, runs_by_scale
from toolkit_ext.claims.verdict import judge_group
from toolkit_ext.experiments.recipe import smoke, with_hyper_parameters
from toolkit_ext.experiments.settings import Experiment, RunContext
from toolkit_ext.results import Record

Make = Callable[..., Record]
MakeExperiment = Callable[..., Experiment]
FAST = ("clean", "apgd_ce_t")


def seen(_: Any) -> Found:
    return Found({"seen": 1.0})


def of(group: Group, small: list[Record], medium: list[Record]) -> str:
    runs = runs_by_scale(group, [*small, *medium])
    group = group.measurable(shown_scales(runs))
    return group_page(group, runs, judge_group(group, runs))


def test_the_page_has_the_scale_and_its_claims_once_there_are_runs(experiment: MakeExperiment, recorded: Make) -> None:
    ours, more = experiment(), experiment(epochs=40, attacks=FAST)
    arms = (Arm("pgd", ours, medium=more), Arm("new", medium=replace(more, epochs=50)))
    rules = {"robust": AtLeast(("pgd", "aa_acc"), 30.0), "both": Lower(("pgd", "aa_acc"), ("new", "aa_acc"))}
    claims = tuple(Claim(name, f"It is {name}.", rule) for name, rule in rules.items())
    group = Group(1, "example", "Robust?", "A paper", arms, claims)
    small = [recorded(ours, seed) for seed in range(3)]
    found = {"clean_acc": 0.9, "apgd_ce_t_acc": 0.2, "union_acc": 0.2}
    medium = [recorded(more, seed, found) for seed in range(3)]
    before, after = of(group, small, []), of(group, small, medium)
    assert before == of(replace(group, arms=(Arm("pgd", ours),), claims=claims[:1]), small, [])
    assert "| run | figure | source | ours, small | ours, paper |" in before
    assert "| source | It is robust. | **supported** | small |" in before
    assert "| run | figure | source | ours, small | ours, medium | ours, paper |" in after
    assert "| source | It is robust. | **refuted** | medium |" in after  # the larger scale decides
    assert "| source | It is both. | not measured |" in after
    assert "200 attacked (APGD-CE and APGD-T in place of AutoAttack)" in after
    assert "--scale medium --seeds 0,1,2" in after


def test_further_probes_are_of_the_medium_scale_alone(experiment: MakeExperiment) -> None:
    arm = Arm("pgd", experiment(), probes={"seen": seen}, medium=experiment(attacks=FAST), medium_probes={"more": seen})
    assert [*arm.probes_at("small", 0)] == ["seen"]
    assert [*arm.probes_at("medium", 0)] == ["seen", "more", "last", "full"]
    assert [*arm.probes_at("medium", 1)] == ["seen", "more", "last"]
    assert arm.measures("more:seen", "medium")
    assert not arm.measures("more:seen", "small")
    assert not arm.measures("aa_acc", "paper")


def test_a_run_of_the_scale_and_its_probes(tmp_path: Path) -> None:
    tiny = replace(smoke(Experiment("pgd", hyper_parameters={"eps": 0.1})), attacks=FAST)
    arm = Arm("pgd", medium=tiny, medium_probes={"generalisation": generalisation(16)})
    claim = Claim("robust", "It is robust.", AtLeast(("pgd", "aa_acc"), 0.0), rows=(Row("pgd", "last:apgd_ce_acc"),))
    group = Group(1, "example", "Robust?", "A paper", (arm,), (claim,))
    context = RunContext(results=tmp_path, output=tmp_path / "outputs", progress=False)
    records = run_group(group, "medium", (0,), context)
    assert records[0]["metrics"].keys() == {"clean_acc", "apgd_ce_t_acc", "union_acc"}
    facts, last, full = records[1:]
    found = facts["details"]["probe"]["facts"]
    assert found["gap"] == pytest.approx(100 * (found["test_err"] - found["train_err"]))
    assert last["metrics"].keys() == {"clean_acc", "apgd_ce_acc", "union_acc"}
    assert full["metrics"]["aa_acc"] <= full["metrics"]["apgd_ce_t_acc"] == records[0]["metrics"]["apgd_ce_t_acc"]
    assert run_group(group, "medium", (0,), context) == records  # read back, not run again


@pytest.mark.parametrize(("losses", "epoch"), [([2.0, 1.2, 1.1, 0.9], 3.0), ([2.0, 1.9], 3.0), ([], None)])
def test_the_epoch_of_half_the_loss(losses: list[float], epoch: float | None, recorded: Make, experiment: Any) -> None:
    history = [{"epoch": 1, "loss_adversarial": loss} for loss in losses]
    record = recorded(experiment(), details={"training": {"history": history}})
    assert measure(record, "half_loss_epoch") == epoch


RECIPES = Path(__file__).parents[3] / "recipes" / "claims"


@pytest.mark.parametrize("group", load_groups(RECIPES), ids=lambda group: group.name)
def test_a_record_of_the_scale_is_found_again_and_for_no_other_arm(group: Group, recorded: Make) -> None:
    found = {
        (arm.name, index): replace(with_hyper_parameters(arm.medium, chosen), n_train=None, n_test=200)
        for arm in group.arms
        if arm.medium
        for index, chosen in enumerate(arm.candidates or ({},))
    }
    for (name, _), one in found.items():
        metrics = dict.fromkeys([*(f"{attack}_acc" for attack in one.attacks), "union_acc"], 0.5)
        record = recorded(one, 0, metrics)
        assert record["protocol"]
        record["protocol"]["name"] = one.protocol or "usual"
        assert matches(one, record)
        # A choice among candidates may be one of the fixed arms on purpose, such as a cell of a grid.
        others = {arm for (arm, _), other in found.items() if arm != name and matches(other, record)}
        assert all(group.arm(name).candidates or group.arm(other).candidates for other in others), (name, others)
        assert not others or group.name == "dual", (name, others)
