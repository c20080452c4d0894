"""Claim 6: SGD on the clean and Adam on the adversarial loss, against one optimiser for both, at equal cost.

Lee: Formulation. Graduation project, Konkuk University, 2024. The source measures nothing. It proposes the update with
a large learning rate η of SGD and a small one γ of Adam, and asks whether Adam explodes. Both are chosen on the
validation split. Small: LeNet of width 8 on digits, L2-PGD at eps 0.5. Medium: all 360 test images and a
constant γ.
"""

from __future__ import annotations

from typing import Any

from toolkit_ext.claims import Arm, AtLeast, AtMost, Claim, Group, Lower, Row
from toolkit_ext.claims.probes import other_budget
from toolkit_ext.claims.recipe import recipe
from toolkit_ext.experiments.recipe import cifar10, digits
from toolkit_ext.experiments.settings import Experiment

LINF = {"Linf": other_budget("linf_0.1_digits")}
SGD = tuple({"lr": rate} for rate in (0.01, 0.03, 0.1))
ADAM = tuple({"lr": rate} for rate in (3e-4, 1e-3, 3e-3))
BOTH = tuple({"lr": eta, "dual_gamma": gamma} for eta in (0.01, 0.03, 0.1) for gamma in (1e-4, 1e-3, 3e-3))


WITH_ADAM: dict[str, Any] = {"optimizer": "adam", "weight_decay": 0.0}
L2 = {"norm": "L2", "eps": 0.5, "steps": 10}


def small(method: str, epochs: int, warmup_epochs: float = 1.0, **more: Any) -> Experiment:
    """Seconds of training on one core; the recorded runs of ``dual`` schedule γ like η."""
    more |= {"dual_gamma_schedule": "as_lr"} if method == "dual" else {}
    return digits(method, epochs=epochs, **L2, measure_every=2, warmup_epochs=warmup_epochs, **more)


def medium(method: str, epochs: int, warmup_epochs: float = 1.0, **more: Any) -> Experiment:
    """The same on all test images, with γ constant, as the source has it."""
    usual: dict[str, Any] = {**L2, "measure_every": 2, "warmup_epochs": warmup_epochs, "n_test": 360}
    return digits(method, epochs=epochs, **usual, **more)


def paper(method: str, epochs: int) -> Experiment:
    """ResNet-18 on CIFAR-10."""
    length = {"epochs": epochs, "measure_every": 10, "warmup_epochs": 5.0}
    return cifar10(method, milestones=(), **L2, **length, attacks=("clean", "pgd20", "aa"))


PGD, ONE_SGD, ONE_ADAM, DUAL = "pgd, SGD", "clean_adv, SGD", "clean_adv, Adam", "dual"
RIVALS = (PGD, ONE_SGD, ONE_ADAM)


def cell(eta: float, gamma: float, warmup: float = 1.0) -> Arm:
    """One cell of the grid over η and γ, with warm-up of η or without."""
    name = f"dual, η {eta:g}, γ {gamma:g}" + ("" if warmup else ", no warm-up")
    rates = {"lr": eta, "dual_gamma": gamma, "warmup_epochs": warmup}
    return Arm(name, small("dual", 11, **rates), medium=medium("dual", 11, **rates))


GRID = (
    *(cell(eta, 1e-3) for eta in (0.001, 0.01, 0.1, 1.0)),
    *(cell(0.1, gamma) for gamma in (1e-2, 1e-1)),
    *(cell(eta, 1e-3, warmup=0.0) for eta in (0.1, 1.0)),
)
LARGE, SMALL = "dual, η 0.1, γ 0.001", "dual, η 0.001, γ 0.001"
COLUMNS = ("clean_acc", "aa_acc")

GROUP = Group(
    number=6,
    name="dual",
    title="Two optimisers, one for the clean and one for the adversarial loss",
    source="Lee, Formulation, graduation project, Konkuk University, 2024",
    arms=(
        Arm(PGD, small("pgd", 12), paper("pgd", 200), SGD, LINF, medium("pgd", 12)),
        Arm(ONE_SGD, small("clean_adv", 11), paper("clean_adv", 183), SGD, LINF, medium("clean_adv", 11)),
        Arm(ONE_ADAM, small("clean_adv", 11, **WITH_ADAM), None, ADAM, LINF, medium("clean_adv", 11, **WITH_ADAM)),
        Arm(DUAL, small("dual", 11), paper("dual", 183), BOTH, LINF, medium("dual", 11)),
        *GRID,
    ),
    claims=(
        *(
            Claim(
                f"dual-beats-{rival.replace(', ', '-').lower()}",
                f"At equal cost and with chosen rates, `dual` is more robust (AutoAttack, L2) than {rival}.",
                Lower((rival, "aa_acc"), (DUAL, "aa_acc")),
                own=True,
                control=DUAL,
                rows=tuple(Row(arm, metric) for arm in (rival, DUAL) for metric in (*COLUMNS, "Linf:aa_acc")),
            )
            for rival in RIVALS
        ),
        Claim(
            "adam-does-not-explode",
            "At η = 0.1 and γ = 0.001 most runs keep a finite loss and do not end as a constant classifier.",
            AtMost((LARGE, "lost"), 50.0, margin=25.0),
            own=True,
            about_collapse=True,
            rows=(Row(LARGE, "lost"), Row(LARGE, "failed"), *(Row(LARGE, metric) for metric in COLUMNS)),
        ),
        Claim(
            "large-gamma-explodes",
            "At γ = 0.1 most runs fail: their loss is not finite, or they end as a constant classifier.",
            AtLeast(("dual, η 0.1, γ 0.1", "lost"), 50.0, margin=25.0),
            own=True,
            about_collapse=True,
            rows=tuple(
                Row(f"dual, η 0.1, γ {gamma}", metric)
                for gamma in ("0.001", "0.01", "0.1")
                for metric in ("lost", "aa_acc")
            ),
        ),
        Claim(
            "eta-above-gamma",
            "A rate η of 0.1, far above γ, gives a more robust model than one as small as γ = 0.001.",
            Lower((SMALL, "aa_acc"), (LARGE, "aa_acc")),
            own=True,
            rows=tuple(Row(f"dual, η {eta}, γ 0.001", "aa_acc") for eta in ("0.001", "0.01", "0.1", "1")),
        ),
        Claim(
            "warm-up-matters",
            "At η = 0.1, a warm-up of η gives a more robust model than none.",
            Lower((f"{LARGE}, no warm-up", "aa_acc"), (LARGE, "aa_acc")),
            own=True,
            rows=tuple(
                Row(f"dual, η {eta}, γ 0.001{warm}", "aa_acc") for eta in ("0.1", "1") for warm in ("", ", no warm-up")
            ),
        ),
    ),
    notes="The source states no figure; these statements are its questions, put so that they can fail.",
    equal_cost=((*RIVALS, DUAL),),
)

if __name__ == "__main__":
    recipe(GROUP, __doc__)
