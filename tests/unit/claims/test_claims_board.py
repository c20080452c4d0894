"""A leaderboard ranks what was measured, and marks what may be chance."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from toolkit_ext.claims import Arm, Group
from toolkit_ext.claims.page import board, group_page, ranking
from toolkit_ext.claims.runs import Runs, runs_by_scale
from toolkit_ext.claims.verdict import judge_group
from toolkit_ext.errors import UserError
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.results import Record

MakeRun = Callable[..., Record]
Make = Callable[..., Experiment]


def survived(share: float, seed: int) -> dict[str, Any]:
    """Which of 200 images survived AutoAttack, packed as records keep them."""
    bits = np.random.default_rng(seed).permutation(200) < 200 * share
    return {"aa": np.packbits(bits).tobytes().hex()}


@pytest.fixture
def runs(recorded: MakeRun, experiment: Make) -> Runs:
    """Three arms of three seeds: one far behind, two alike; and one of two seeds."""

    def run(method: str, share: float, seed: int) -> Record:
        return recorded(
            experiment(method),
            seed,
            {"clean_acc": 0.9, "aa_acc": share, "union_acc": share},
            details={"robust": survived(share, seed)},
        )

    means = {"pgd": 0.60, "trades": 0.61, "fgsm": 0.20}
    found = {name: [run(name, mean + 0.01 * seed, seed) for seed in range(3)] for name, mean in means.items()}
    return Runs(found | {"mim": [run("mim", 0.9, seed) for seed in range(2)]})


def test_ranks_arms_with_enough_seeds(runs: Runs) -> None:
    assert ranking(("fgsm", "pgd", "mim", "trades"), runs) == pytest.approx({"trades": 0.62, "pgd": 0.61, "fgsm": 0.21})
    assert list(ranking(tuple(runs.of), runs)) == ["trades", "pgd", "fgsm"]


def test_of_equals_the_better_clean_accuracy_comes_first(recorded: MakeRun, experiment: Make) -> None:
    def run(seed: int, clean: float, aa: float) -> Record:
        return recorded(experiment(), seed, {"clean_acc": clean, "aa_acc": aa, "union_acc": aa})

    first = [run(seed, 0.98, aa) for seed, aa in enumerate((0.755, 0.795, 0.775))]
    second = [run(seed, 0.99, aa) for seed, aa in enumerate((0.78, 0.78, 0.765))]
    assert list(ranking(("first", "second"), Runs({"first": first, "second": second}))) == ["second", "first"]


def test_marks_the_best_and_what_is_not_significantly_worse(runs: Runs) -> None:
    lines = board(tuple(runs.of), runs).splitlines()
    assert lines[0] == "| method | runs | clean | AutoAttack |"
    assert [line.split(" | ")[0] for line in lines[2:5]] == ["| trades", "| pgd", "| fgsm"]
    assert "**62.00(100)**" in lines[2]
    assert lines[3].endswith("| 61.00(100)≈ |")
    assert lines[4].endswith("| 21.00(100) |")


def test_an_arm_that_ended_constant_is_named_and_not_ranked(runs: Runs) -> None:
    for run in runs.of["fgsm"]:
        run["details"]["training"] = {"history": [{"epoch": 9, "seconds": 1.0, "val_top_share": 1.0}]}
    assert list(ranking(tuple(runs.of), runs)) == ["trades", "pgd"]
    assert "Not ranked, as they ended as a constant classifier: fgsm." in board(tuple(runs.of), runs)


def test_nothing_to_rank_is_no_table(runs: Runs) -> None:
    assert board(("pgd", "mim"), runs) == ""


def test_the_page_has_the_boards_of_a_group(recorded: MakeRun, experiment: Make) -> None:
    arms = tuple(Arm(name, experiment(name)) for name in ("pgd", "trades"))
    made = [recorded(arm.small, seed) for arm in arms for seed in range(3)]
    group = Group(1, "example", "TRADES or PGD?", "A paper", arms, (), boards={"digits": ("pgd", "trades")})

    def page(records: list[Record]) -> str:
        runs = runs_by_scale(group, records)
        return group_page(group, runs, judge_group(group, runs))

    assert "## Leaderboard: digits (small)\n\n| method |" in page(made)
    assert "Leaderboard" not in page(made[:4])


def test_an_unknown_arm_on_a_board_is_refused(experiment: Make) -> None:
    with pytest.raises(UserError, match="arm: 'trades' is not known"):
        Group(1, "example", "?", "A paper", (Arm("pgd", experiment()),), (), boards={"digits": ("trades",)})
