"""Runs of a small group of claims to test with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from toolkit_ext.claims import Arm, Claim, Group, Lower, Row
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.results import SCHEMA, Record, validate
from toolkit_ext.trainers import TRAINERS
from toolkit_ext.trainers.compose import compose

MakeRun = Callable[..., Record]

ATTACKS = ("clean", "aa")


def experiment(method: str = "pgd", **given: Any) -> Experiment:
    """A short one on digits."""
    usual: dict[str, Any] = {"backbone_args": {"width": 8}, "n_test": 200, "attacks": ATTACKS, "epochs": 20}
    return Experiment(method, **{**usual, **given})


def record_of(experiment: Experiment, seed: int = 0, metrics: dict[str, float] | None = None, **given: Any) -> Record:
    """A record as a run of ``experiment`` would have left it."""
    axes = compose(TRAINERS[experiment.method].method, experiment.hyper_parameters)
    length = {"epochs": experiment.epochs, "batch_size": experiment.batch_size, "seed": seed}
    hyper_parameters = axes.hyper_parameters() | length
    found = {"clean_acc": 0.9, "aa_acc": 0.5, "union_acc": 0.5} if metrics is None else metrics
    history = [{"epoch": 1, "seconds": 2.0, "val_robust_acc": 0.5, "val_clean_acc": 0.9, "val_top_share": 0.2}]
    record = {
        "schema": SCHEMA,
        "run_id": f"{experiment.run_id}-{seed}",
        "created": "2026-11-20T19:05:00Z",
        "method": experiment.method,
        "axes": dict(axes.names),
        "hyper_parameters": {k: list(v) if isinstance(v, tuple) else v for k, v in hyper_parameters.items()},
        "data": {"name": experiment.data, "train": 1293, "validation": 144, "test": 200, "num_classes": 10},
        "backbone": {"name": experiment.backbone, "args": dict(experiment.backbone_args), "parameters": 52_714},
        "seed": seed,
        "protocol": {"name": "linf_0.1_digits", "norm": "Linf", "eps": 0.1, "version": "standard"} if found else None,
        "n_examples": 200 if found else 0,
        "metrics": found,
        "intervals": {},
        "details": {"training": {"best_epoch": 1, "history": history}},
        "omitted": {},
        "warnings": [],
        "alarms": [],
        "times": {"train_s": 12.5, "eval_s": 3.25},
        "memory": {"host_mb": 512.0, "device_mb": None},
        "hardware": {
            "cpu": "A CPU", "cores": 2, "threads": 1, "flags": [], "memory_mb": 8192, "gpu": None, "system": "Linux",
        },
        "versions": {"python": "3.11.7", "torch": "2.6.0", "toolkit_ext": None},
        "git": None,
        "command": "python recipes/claims/example.py",
        "tables": ["claims_example"],
    }  # fmt: skip
    return validate(record | given)


@pytest.fixture(name="experiment", scope="session")
def _experiment() -> Callable[..., Experiment]:
    return experiment


@pytest.fixture(name="recorded", scope="session")
def _recorded() -> MakeRun:
    return record_of


@pytest.fixture
def group() -> Group:
    """`trades` against `pgd`, with a figure of the source for each."""
    return Group(
        number=1,
        name="example",
        title="TRADES or PGD?",
        source="A paper",
        arms=(Arm("pgd", experiment(), experiment(epochs=200)), Arm("trades", experiment("trades"))),
        claims=(
            Claim(
                "trades-wins",
                "TRADES is more robust than PGD.",
                Lower(("pgd", "aa_acc"), ("trades", "aa_acc"), 1.0),
                "table 3",
                rows=(Row("pgd", "aa_acc", 47.5, "table 3"), Row("trades", "aa_acc", 52.25, "table 3")),
            ),
        ),
    )


@pytest.fixture
def runs_of_both() -> Callable[[Sequence[float], Sequence[float]], list[Record]]:
    """Records of both arms with these AutoAttack accuracies, one for each seed."""

    def make(pgd: Sequence[float], trades: Sequence[float]) -> list[Record]:
        both = (("pgd", pgd), ("trades", trades))
        return [
            record_of(experiment(method), seed, {"clean_acc": 0.9, "aa_acc": value, "union_acc": value})
            for method, values in both
            for seed, value in enumerate(values)
        ]

    return make
