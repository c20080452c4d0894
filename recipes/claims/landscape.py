"""Claim 3: the landscape of the adversarial loss is harder, the larger eps is.

Liu, Salzmann, Lin, Tomioka, Süsstrunk: On the loss landscape of adversarial training. NeurIPS 2020. With eps the top
eigenvalue of the Hessian grows, gradients are larger and do not vanish, the weights stay nearer to their start, and
small models end as constant classifiers; adversarial examples change along the top eigenvector and not along a random
direction. Small: LeNet on 6,400 images of MNIST, and ResNet-18 of width 4 on 2,000 of cifar10-jpeg.
"""

from __future__ import annotations

from itertools import pairwise

from toolkit_ext.claims import Alike, All, Arm, AtLeast, AtMost, Claim, Group, Lower, Row
from toolkit_ext.claims.probes import hessian, similarity
from toolkit_ext.claims.recipe import recipe
from toolkit_ext.experiments.experiment import Experiment

Cosines = dict[float, tuple[float, float]]
# Mean cosine of the perturbations at θ ± av, along the top eigenvector and a random direction: the source's figures.
RESNET: Cosines = {
    0.0: (0.945, 0.945),
    0.1: (0.461, 0.945),
    0.3: (0.140, 0.944),
    0.5: (0.069, 0.942),
    1.0: (0.034, 0.935),
}
LENET: Cosines = {
    0.0: (0.918, 0.918),
    0.01: (0.241, 0.913),
    0.03: (0.236, 0.888),
    0.05: (0.274, 0.863),
    0.1: (0.367, 0.780),
}


def mnist(eps: float, *, width: int = 4, paper: bool = False) -> Experiment:
    """LeNet on MNIST at ``eps``, which rises over the first third of the training but for the smallest network."""
    rise = {} if width < 4 else {"schedule": "warmup", "eps_warmup_epochs": 30.0 if paper else 2.0}
    adam = {"optimizer": "adam", "lr": 1e-4 if paper else 1e-3, "lr_schedule": "constant", "weight_decay": 0.0}
    return Experiment(
        method="pgd",
        data="mnist",
        backbone="lenet",
        backbone_args={"width": width},
        hyper_parameters={"eps": eps, "steps": 10, **adam, "measure_every": 5 if paper else 3, **rise},
        epochs=100 if paper else 6,
        batch_size=64,
        n_train=None if paper else 6_400,
        n_test=1000 if paper else 200,
        attacks=("clean", "pgd20", "aa"),
    )


def small_resnet() -> Experiment:
    """Minutes on one core."""
    return Experiment(
        method="pgd",
        data="cifar10-jpeg",
        backbone="resnet18_w",
        backbone_args={"width": 4},
        hyper_parameters={"eps": 8 / 255, "steps": 5, "lr": 0.05, "weight_decay": 5e-4, "measure_every": 4},
        epochs=8,
        batch_size=64,
        n_train=2_000,
        n_test=200,
        attacks=("clean", "pgd20", "aa"),
    )


def resnet() -> Experiment:
    """ResNet-18 on CIFAR-10 at 8/255, the model of the source's table."""
    rates = {"lr": 0.1, "lr_schedule": "multistep", "milestones": (100, 150), "weight_decay": 5e-4}
    return Experiment(
        method="pgd",
        data="cifar10",
        backbone="resnet18_w",
        backbone_args={"width": 16},
        hyper_parameters={"eps": 8 / 255, "steps": 10, **rates, "augment": "crop-flip", "measure_every": 10},
        epochs=200,
        batch_size=128,
        n_test=1000,
        attacks=("clean", "pgd20", "aa"),
    )


def lenet(eps: float) -> str:
    """The arm of LeNet at ``eps``."""
    return f"LeNet, eps {eps:g}"


def rising(metric: str, *, falls: bool = False) -> All:
    """``metric`` grows (or falls) from each eps to the next."""
    steps = [(lenet(low), lenet(high)) for low, high in pairwise(RADII)]
    return All(tuple(Lower((b, metric), (a, metric)) if falls else Lower((a, metric), (b, metric)) for a, b in steps))


def cosine(direction: str, distance: float) -> str:
    """The metric of the mean cosine at a distance along ``eigenvector`` or ``random``."""
    return f"similarity:cosine_{direction}_{distance:g}"


def moved(arm: str, where: str, figures: Cosines, far: float) -> Claim:
    """Examples change along the eigenvector, not along a random direction, up to the distance ``far``."""
    return Claim(
        f"examples-move-along-the-eigenvector-{arm.split()[0].rstrip(',').lower()}",
        f"{arm}: adversarial examples change as the weights move along the top eigenvector, not along a random "
        "direction.",
        All(
            (
                AtMost((arm, cosine("eigenvector", far)), 0.5),
                Alike(tuple((arm, cosine("random", a)) for a in figures if a <= far), 0.05),
                Lower((arm, cosine("eigenvector", far)), (arm, cosine("random", far)), 0.2),
            )
        ),
        where,
        rows=tuple(
            Row(arm, cosine(direction, a), pair[place], where)
            for place, direction in enumerate(("eigenvector", "random"))
            for a, pair in figures.items()
        ),
    )


RADII = (0.0, 0.1, 0.2, 0.3)
RESNET18, NARROW = "ResNet-18, eps 8/255", "LeNet of width 1, eps 0.4"
HESSIAN = {"hessian": hessian(500)}
PROBES = dict.fromkeys(RADII, HESSIAN) | {0.3: HESSIAN | {"similarity": similarity(500, tuple(LENET))}}

GROUP = Group(
    number=3,
    name="landscape",
    title="The adversarial loss landscape",
    source="Liu et al., On the loss landscape of adversarial training, NeurIPS 2020",
    arms=(
        *(Arm(lenet(eps), mnist(eps), mnist(eps, width=16, paper=True), probes=PROBES[eps]) for eps in RADII),
        Arm(RESNET18, small_resnet(), resnet(), probes={"similarity": similarity(250, tuple(RESNET))}),
        Arm(NARROW, mnist(0.4, width=1), mnist(0.4, width=1, paper=True)),
    ),
    claims=(
        Claim(
            "eigenvalue-grows",
            "The top eigenvalue of the Hessian of the adversarial loss is larger at eps 0.3 than at 0.",
            Lower((lenet(0.0), "hessian:eigenvalue"), (lenet(0.3), "hessian:eigenvalue")),
            rows=tuple(Row(lenet(eps), "hessian:eigenvalue") for eps in RADII),
        ),
        Claim(
            "gradients-do-not-vanish",
            "The larger eps is, the larger the stochastic gradient in the last epoch.",
            rising("grad_norm"),
            rows=tuple(Row(lenet(eps), metric) for eps in RADII for metric in ("grad_norm", "aa_err")),
        ),
        Claim(
            "weights-stay-near",
            "The larger eps is, the nearer the weights stay to where they started.",
            rising("distance", falls=True),
        ),
        moved(RESNET18, "table of cosines, ResNet18 on CIFAR10, eps 8/255", RESNET, 1.0),
        moved(lenet(0.3), "table of cosines, LeNet on MNIST, eps 0.3", LENET, 0.01),
        Claim(
            "small-models-end-constant",
            "A small model trained at a large constant eps ends as a constant classifier.",
            AtLeast((NARROW, "constant"), 100.0),
            rows=tuple(Row(NARROW, metric) for metric in ("constant", "dead", "clean_err", "aa_err")),
        ),
    ),
    notes="The small networks are trained for six and eight epochs, the source's for 100 and 200, and have a fraction "
    "of its weights, of which a step of length a is a larger part.",
)

if __name__ == "__main__":
    recipe(GROUP, __doc__)
