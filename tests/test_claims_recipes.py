"""The recipes of claims: all there, possible, of equal cost where they say so, and each has a smoke test."""

from __future__ import annotations

import json
import runpy
import sys
from functools import cache
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import SGD

from toolkit_ext.claims import SCALES, Arm, Group
from toolkit_ext.claims.claim import load_groups
from toolkit_ext.evaluation import protocol_for
from toolkit_ext.experiments.counting import count_passes, deciding
from toolkit_ext.experiments.recipe import with_hyper_parameters
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.trainers import TRAINERS
from toolkit_ext.trainers.compose import compose
from toolkit_ext.trainers.optim import make_schedulers

FOLDER = Path(__file__).parents[1] / "recipes" / "claims"
GROUPS = {group.name: group for group in load_groups(FOLDER)}
NAMES = ("constant_eps", "pas_table", "landscape", "multi_attack", "amp", "dual", "deep", "leaderboard", "speed")


def experiments(group: Group) -> list[tuple[Arm, Experiment]]:
    """Every run of every arm at every scale, one for each candidate."""
    return [
        (arm, with_hyper_parameters(found, candidate))
        for arm in group.arms
        for scale in SCALES
        if (found := arm.at(scale)) is not None
        for candidate in arm.candidates or ({},)
    ]


def test_all_nine_are_there() -> None:
    assert tuple(GROUPS) == NAMES
    assert [group.number for group in GROUPS.values()] == list(range(1, 10))


@pytest.mark.parametrize("name", NAMES)
def test_every_run_is_possible(name: str) -> None:
    for _, each in experiments(GROUPS[name]):
        axes = compose(TRAINERS[each.method].method, each.hyper_parameters)
        axes.schedule.bind(each.epochs)
        optimizer = SGD([nn.Parameter(torch.zeros(1))], lr=axes.loop.lr)
        make_schedulers([optimizer], axes.loop, 10, each.epochs, axes.schedule.resets(each.epochs))
        given = axes.hyper_parameters()
        usual = protocol_for(each.data, given.get("norm"), given.get("eps"))
        assert each.protocol or usual.eps == axes.attack.eps


@pytest.mark.parametrize("name", NAMES)
def test_accuracy_always_comes_with_autoattack(name: str) -> None:
    for arm, each in experiments(GROUPS[name]):
        # At the medium scale the first two parts of AutoAttack stand in for it; clean training is not attacked at all.
        assert {"aa", "apgd_ce_t"} & {*each.attacks} or each.attacks == ("clean",), arm.name
        assert each.n_test is not None, arm.name
        assert each.n_test >= 100, arm.name


@pytest.mark.parametrize("name", NAMES)
def test_no_two_arms_are_taken_for_each_other(name: str) -> None:
    """What a record is matched by differs, unless two arms are the same run on purpose: one is a choice."""
    fixed = [(arm, scale, arm.at(scale)) for arm in GROUPS[name].arms for scale in SCALES if not arm.candidates]
    for (one, _, first), (other, _, second) in combinations([each for each in fixed if each[2]], 2):
        assert first is not None
        assert second is not None
        assert differ(first, second), (one.name, other.name)


def differ(first: Experiment, second: Experiment) -> bool:
    """Whether a record of one cannot be one of the other: something that both name has two values."""
    axes = [compose(TRAINERS[each.method].method, each.hyper_parameters).names for each in (first, second)]
    facts: list[dict[str, Any]] = [
        {**each.hyper_parameters, "epochs": each.epochs, "batch": each.batch_size} for each in (first, second)
    ]
    sizes = {each.n_train for each in (first, second)}
    named = any(facts[0][key] != facts[1][key] for key in facts[0].keys() & facts[1].keys() - axes[0].keys())
    places = [(e.method, e.data, e.backbone, dict(e.backbone_args), e.attacks, e.n_test) for e in (first, second)]
    return (None not in sizes and len(sizes) == 2) or named or axes[0] != axes[1] or places[0] != places[1]


def ids(arm: Arm, scale: str) -> list[str]:
    """The name of the arm's run at ``scale``, if there is one."""
    found = arm.at(scale)
    return [found.run_id] if found else []


def test_the_table_of_schedules_shares_its_runs_on_mnist_with_the_grid_of_learning_rates() -> None:
    table, grid = GROUPS["pas_table"], GROUPS["constant_eps"]
    for schedule in ("constant", "cosine", "linear"):
        ours, theirs = table.arm(f"MNIST, {schedule}"), grid.arm(f"{schedule} 1e-4")
        for scale in SCALES:
            assert ids(ours, scale) == ids(theirs, scale) != []
    same = GROUPS["landscape"].arm("ResNet-18, eps 8/255"), table.arm("CIFAR-10, no periods")
    assert ids(same[0], "medium") == ids(same[1], "medium") != []


# How far these reach changes no count of passes, unless they are 0.
STRENGTHS = {"eps", "amp_epsilon", "awp_gamma", "dual_gamma", "penalty_lambda"}


def what_costs(experiment: Experiment) -> tuple[tuple[str, Any], ...]:
    given = sorted(deciding(experiment.method, experiment.hyper_parameters).items())
    return tuple((name, value) for name, value in given if name not in STRENGTHS or value == 0)


@cache
def cost_of_a_step(method: str, options: tuple[tuple[str, Any], ...]) -> float:
    found = count_passes(method, **dict(options))
    return found.forward + found.backward


EQUAL = [(group.name, names) for group in GROUPS.values() for names in group.equal_cost]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "arms"), EQUAL, ids=lambda value: value if isinstance(value, str) else "")
def test_arms_of_equal_cost_are_within_five_percent(name: str, arms: tuple[str, ...]) -> None:
    for scale in ("small", "medium"):
        costs = {}
        for arm in arms:
            each = GROUPS[name].arm(arm)
            for candidate in each.candidates or ({},):
                if (found := each.at(scale)) is None:
                    continue
                chosen = with_hyper_parameters(found, candidate)
                cost = cost_of_a_step(chosen.method, what_costs(chosen)) * chosen.epochs * (chosen.n_train or 1)
                costs[f"{arm} {candidate}"] = cost
        assert not costs or max(costs.values()) <= 1.05 * min(costs.values()), costs


@pytest.mark.parametrize("name", NAMES)
def test_the_figures_of_a_source_say_where_they_stand(name: str) -> None:
    rows = [row for claim in GROUPS[name].claims for row in claim.rows]
    assert all(row.where for row in rows if row.source is not None)
    assert any(row.source is not None for row in rows) is (name not in ("dual", "deep", "speed"))


def start(name: str, monkeypatch: pytest.MonkeyPatch, folder: Path, *options: str) -> list[dict[str, Any]]:
    """Run the recipe as a script, with its records in ``folder``; they are returned."""
    places = ["--results", str(folder), "--output", str(folder / "outputs"), "--no-progress"]
    monkeypatch.setattr(sys, "argv", [name, *places, *options])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    return [json.loads(file.read_text()) for file in sorted((folder / "runs").glob("*.json"))]


SMOKE = {
    "constant_eps": "cosine 1e-3",
    "pas_table": "CIFAR-10, cosine",
    "landscape": "ResNet-18, eps 8/255",
    "multi_attack": "multi-attack",
    "amp": "PGD with AMP",
    "dual": "dual, η 0.1, γ 0.001",
    "deep": "pgd",
    "leaderboard": "MNIST 0.3: pas + multi-attack + awp + ema",
    "speed": "residual network on digits: folded",
}


@pytest.mark.parametrize("name", NAMES)
def test_smoke_runs_from_data_to_record(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    group, arm = GROUPS[name], SMOKE[name]
    records = start(name, monkeypatch, tmp_path, "--smoke", "--seeds", "3", "--only", arm)
    assert len(records) == 1 + len(group.arm(arm).probes)
    for record in records:
        assert record["details"]["claim"] | {"passes": None} == {
            "group": name, "arm": arm, "scale": "smoke", "passes": None,
        }  # fmt: skip
        assert record["seed"] == 3
        assert record["tables"] == []  # a smoke test is no evidence
    probes = [record["details"]["probe"] for record in records if "probe" in record["details"]]
    assert [probe["name"] for probe in probes] == list(group.arm(arm).probes)


def test_an_unknown_arm_ends_in_one_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        start("amp", monkeypatch, tmp_path, "--only", "AWP")
    assert stopped.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("error: only: 'AWP' is not known")
    assert error.count("\n") == 1
