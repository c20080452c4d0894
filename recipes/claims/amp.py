"""Claim 5: adversarial model perturbation (AMP) lowers the clean test error; AMP and AWP in adversarial training.

Zheng, Zhang, Mao: Regularizing neural networks via adversarial model perturbation. CVPR 2021. PreAct ResNet-18: clean
test error with AMP and without, at about 1.8 times the cost of standard training. Small: LeNet on 5,000 images of
CIFAR-10, all test images, with the eps of AMP chosen on the validation split; adversarial training on 4,000 images at
half the width and equal cost, 1,000 test images.
Medium: ResNet-18 of width 4 with batch norm on 20,000 images of CIFAR-10, all test images, clean training alone.
"""

from __future__ import annotations

from typing import Any

from toolkit_ext.claims import Arm, Claim, Group, Lower, Ratio, Row, half
from toolkit_ext.claims.recipe import recipe
from toolkit_ext.experiments.recipe import cifar10, cifar10_lenet, cifar10_narrow
from toolkit_ext.experiments.settings import Experiment

# Radii of AMP to choose from; the source's is 0.5 for the whole of CIFAR-10.
RADII = tuple({"amp_epsilon": radius} for radius in (0.01, 0.03, 0.1, 0.5))
SIZES = tuple({"awp_gamma": size} for size in (0.002, 0.005, 0.01))
PLACE = "table of test errors, CIFAR-10, PreActResNet-18"


def small(method: str, epochs: int, **more: Any) -> Experiment:
    """Clean training, a minute on one core."""
    sizes: dict[str, Any] = {"epochs": epochs, "n_train": 5_000, "n_test": 10_000}
    return cifar10_lenet(method, measure_every=2, attacks=("clean",), protocol="linf_8_255", **sizes, **more)


def medium(method: str, epochs: int, **more: Any) -> Experiment:
    """Clean training of ResNet-18 of width 4, minutes on one core; without an attack, PGD steps measure nothing."""
    sizes: dict[str, Any] = {"epochs": epochs, "n_train": 20_000, "n_test": 10_000, "measure_every": 5}
    evaluation: dict[str, Any] = {"attacks": ("clean",), "protocol": "linf_8_255", "validation_steps": 1}
    return cifar10_narrow(method, **sizes, **evaluation, **more)


def robust(method: str, epochs: int, **more: Any) -> Experiment:
    """Adversarial training, minutes on one core; at full eps from the start, perturbed weights end as a constant."""
    attack = {"eps": 8 / 255, "steps": 5, "schedule": "warmup", "eps_warmup_epochs": epochs / 3}
    evaluation: dict[str, Any] = {"n_test": 1_000, "attacks": ("clean", "pgd20", "apgd_ce_t"), "measure_every": 2}
    return cifar10_lenet(method, width=4, epochs=epochs, **evaluation, **attack, **more)


def paper(method: str, epochs: int = 300, milestones: tuple[int, ...] = (100, 200), **more: Any) -> Experiment:
    """The source's setting."""
    network = {"backbone": "preact_resnet18", "weight_decay": 1e-4, "batch_size": 50, "measure_every": 10}
    evaluation: dict[str, Any] = {"n_test": 10_000, "protocol": "linf_8_255", "attacks": ("clean", "aa")}
    return cifar10(method, milestones=milestones, epochs=epochs, **network, **evaluation, **more)


STANDARD, LONGER, AMP, PER_TENSOR = "standard", "standard, twice as long", "AMP", "AMP, a ball for each tensor"
PGD, PGD_AMP, AWP = "PGD", "PGD with AMP", "PGD with AWP"

GROUP = Group(
    number=5,
    name="amp",
    title="AMP lowers clean test error",
    source="Zheng, Zhang, Mao, Regularizing neural networks via adversarial model perturbation, CVPR 2021",
    arms=(
        Arm(STANDARD, small("standard", 10), paper("standard"), medium=medium("standard", 30)),
        Arm(LONGER, small("standard", 20), paper("standard", 600, (200, 400)), medium=medium("standard", 60)),
        Arm(
            AMP,
            small("amp", 10),
            paper("amp", amp_epsilon=0.5),
            candidates=RADII,
            medium=medium("amp", 30, amp_scope="global"),
        ),
        Arm(PER_TENSOR, candidates=RADII, medium=medium("amp", 30, amp_scope="per_tensor")),
        Arm(PGD, robust("pgd", 7)),
        Arm(PGD_AMP, robust("pgd", 6, update="amp"), candidates=RADII[:3]),
        Arm(AWP, robust("awp", 6), candidates=SIZES),
    ),
    claims=(
        Claim(
            "amp-lowers-clean-error",
            "At the same number of epochs, AMP has a lower clean test error than standard training.",
            Lower((AMP, "clean_err"), (STANDARD, "clean_err"), margin=half(5.02, 3.97)),
            PLACE,
            rows=(
                Row(STANDARD, "clean_err", 5.02, PLACE),
                Row(AMP, "clean_err", 3.97, PLACE),
                Row(LONGER, "clean_err"),
                Row(STANDARD, "aa_err"),
                Row(AMP, "aa_err"),
                Row(LONGER, "aa_err"),
            ),
        ),
        Claim(
            "amp-per-tensor-lowers-clean-error",
            "AMP with a ball for each tensor, as in its authors' code, has a lower clean test error than standard "
            "training of the same number of epochs.",
            Lower((PER_TENSOR, "clean_err"), (STANDARD, "clean_err"), margin=half(5.02, 3.97)),
            PLACE,
            rows=(Row(PER_TENSOR, "clean_err", 3.97, PLACE),),
        ),
        Claim(
            "amp-lowers-clean-error-at-equal-cost",
            "AMP has a lower clean test error than standard training of twice the epochs, which costs as much.",
            Lower((AMP, "clean_err"), (LONGER, "clean_err")),
            own=True,
        ),
        Claim(
            "amp-costs-1.8",
            "An epoch with AMP takes about 1.8 times as long as one without.",
            Ratio((AMP, "epoch_s"), (STANDARD, "epoch_s"), 1.6, 2.1),
            rows=(Row(STANDARD, "epoch_s"), Row(AMP, "epoch_s")),
        ),
        Claim(
            "amp-helps-adversarial-training",
            "At equal cost, PGD training with AMP is more robust than PGD training alone.",
            Lower((PGD_AMP, "aa_err"), (PGD, "aa_err")),
            own=True,
            rows=tuple(Row(arm, metric) for arm in (PGD, PGD_AMP, AWP) for metric in ("clean_err", "aa_err")),
        ),
        Claim(
            "amp-beside-awp",
            "At equal cost, PGD training with AMP is more robust than with AWP.",
            Lower((PGD_AMP, "aa_err"), (AWP, "aa_err")),
            own=True,
        ),
    ),
    notes="The source's figures on SVHN (2.95% without, 2.30% with AMP) are not tested: no copy of SVHN was at hand.",
    equal_cost=((LONGER, AMP), (PGD, PGD_AMP, AWP)),
)

if __name__ == "__main__":
    recipe(GROUP, __doc__)
