"""Claim 9: what makes training fast costs no robustness.

No source claims this; it is what the defaults of this project rest on. Runs that differ in the arithmetic of their
passes alone (`precision`, `craft_precision`), and runs with batch norm folded into the convolutions while examples are
crafted (`fold_batch_norm`) or not, which differ in rounding alone. Small: LeNet for the precision; for the folding
ResNet-18 of width 4 on digits, and on MNIST a residual network of four blocks.
"""

from __future__ import annotations

from typing import Any

from toolkit_ext.claims import Alike, Arm, Claim, Group, Row
from toolkit_ext.claims.recipe import recipe
from toolkit_ext.experiment import Experiment

POINTS = 0.5
BLOCKS = {"layers": [1, 1, 1, 1], "channels": [8, 16, 32, 64]}
PRECISIONS: dict[str, dict[str, Any]] = {
    "fp32": {"precision": "fp32", "craft_precision": "same"},
    "examples in bf16": {"precision": "fp32", "craft_precision": "bf16-mixed"},
    "all in bf16": {"precision": "bf16-mixed", "craft_precision": "same"},
}
FOLDINGS: dict[str, dict[str, Any]] = {"not folded": {"fold_batch_norm": "off"}, "folded": {"fold_batch_norm": "auto"}}


def mnist(backbone: str, arguments: dict[str, Any], eps: float, n_test: int, **switches: Any) -> Experiment:
    """PGD training as it leads on the leaderboard of MNIST."""
    adam = {"optimizer": "adam", "lr": 1e-3, "lr_schedule": "constant", "weight_decay": 0.0}
    rise = {"schedule": "warmup", "eps_warmup_epochs": 14 / 3}
    return Experiment(
        method="pgd",
        data="mnist",
        backbone=backbone,
        backbone_args=arguments,
        hyper_parameters={"eps": eps, "steps": 5, **adam, **rise, "measure_every": 7, **switches},
        epochs=14,
        batch_size=64,
        n_train=6_400,
        n_test=n_test,
        attacks=("clean", "pgd20", "aa"),
    )


def digits(backbone: str, **switches: Any) -> Experiment:
    """PGD training on all of digits, evaluated on all of its test images."""
    return Experiment(
        method="pgd",
        data="digits",
        backbone=backbone,
        backbone_args={"width": 4},
        hyper_parameters={"eps": 0.1, "steps": 10, "lr": 0.05, "weight_decay": 5e-4, "measure_every": 10, **switches},
        epochs=20,
        batch_size=32,
        n_test=360,
        attacks=("clean", "pgd20", "aa"),
    )


def arm(task: str, choice: str) -> str:
    """The arm of a choice on a task."""
    return f"{task}: {choice}"


def claim(task: str, first: str, second: str, statement: str) -> Claim:
    """Two arms have the same AutoAttack accuracy, to half a point."""
    both = arm(task, first), arm(task, second)
    return Claim(
        f"{task}-{second}",
        f"{task}: {statement} changes AutoAttack accuracy by no more than {POINTS:g} points.",
        Alike(tuple((each, "aa_acc") for each in both), POINTS),
        rows=tuple(Row(each, metric) for each in both for metric in ("clean_acc", "pgd20_acc", "aa_acc", "epoch_s")),
    )


MNIST, DIGITS = "LeNet on MNIST", "LeNet on digits"
MNIST_BN, DIGITS_BN = "residual network on MNIST", "ResNet-18 on digits"

GROUP = Group(
    number=9,
    name="speed",
    title="What makes training fast costs no robustness",
    source="No source; the question is this project's",
    arms=(
        *(Arm(arm(MNIST, name), mnist("lenet", {"width": 4}, 0.3, 500, **p)) for name, p in PRECISIONS.items()),
        *(Arm(arm(DIGITS, name), digits("lenet", **p)) for name, p in PRECISIONS.items()),
        *(Arm(arm(MNIST_BN, name), mnist("resnet18", BLOCKS, 0.1, 200, **f)) for name, f in FOLDINGS.items()),
        *(Arm(arm(DIGITS_BN, name), digits("resnet18_w", **f)) for name, f in FOLDINGS.items()),
    ),
    claims=(
        *(
            claim(task, "fp32", name, f"training with {name}")
            for task in (MNIST, DIGITS)
            for name in PRECISIONS
            if name != "fp32"
        ),
        *(
            claim(task, "not folded", "folded", "folding batch norm while examples are crafted")
            for task in (MNIST_BN, DIGITS_BN)
        ),
    ),
    notes="Rounding is amplified by training, so two runs of one seed that differ in rounding alone end in two models, "
    "nearly as far apart as two seeds. A mean over three seeds is uncertain by its own standard deviation over √3, "
    "which is more than half a point here: a claim that fails by as little tells nothing of a cost.",
)

if __name__ == "__main__":
    recipe(GROUP, __doc__)
