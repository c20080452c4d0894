"""Claim 3: the larger eps is, the harder the landscape of the adversarial loss.

Liu, Salzmann, Lin, Tomioka, Süsstrunk: On the loss landscape of adversarial training. NeurIPS 2020. As eps grows, the
top eigenvalue of the Hessian grows, gradients are larger and do not vanish, the weights stay closer to their start, and
small models end as constant classifiers. Adversarial examples change along the top eigenvector but not along a random
direction. Small: LeNet on 6,400 images of MNIST, and ResNet-18 of width 4 on 2,000 of CIFAR-10.
Medium: LeNet of width 8 on 20,000 images for 60 epochs, also at eps 0.4, and ResNet-18 of width 4 on CIFAR-10.
"""

from __future__ import annotations

import math
from typing import Any

from toolkit_ext.claims import Alike, All, Arm, AtLeast, AtMost, Claim, Group, Lower, Ratio, Row, Trend, half
from toolkit_ext.claims.probes import generalisation, hessian, similarity, smoothness
from toolkit_ext.claims.recipe import recipe
from toolkit_ext.experiments.recipe import cifar10, cifar10_lenet, cifar10_narrow, mnist
from toolkit_ext.experiments.settings import Experiment
from toolkit_ext.units import parse_eps

Cosines = dict[float, tuple[float, float]]


def cosines(eigenvector: tuple[float, ...], random: tuple[float, ...]) -> Cosines:
    """Mean cosine of the perturbations at θ ± av for a of 0, 0.1, 0.3, 0.5 and 1, along both directions."""
    return dict(zip((0.0, 0.1, 0.3, 0.5, 1.0), zip(eigenvector, random, strict=True), strict=True))


# The figures of the source.
RESNET = cosines((0.945, 0.461, 0.140, 0.069, 0.034), (0.945, 0.945, 0.944, 0.942, 0.935))
SMALLER = {
    "2/255": cosines((0.976, 0.471, 0.148, 0.075, 0.050), (0.976, 0.975, 0.973, 0.968, 0.955)),
    "4/255": cosines((0.962, 0.475, 0.157, 0.078, 0.046), (0.962, 0.962, 0.960, 0.957, 0.946)),
}
LENET: Cosines = {
    0.0: (0.918, 0.918),
    0.01: (0.241, 0.913),
    0.03: (0.236, 0.888),
    0.05: (0.274, 0.863),
    0.1: (0.367, 0.780),
}
# Mean cosine at a = 0.1 along the top eigenvector and a random direction at further eps.
AT_A_TENTH = {0.1: (0.705, 0.860), 0.2: (0.683, 0.837), 0.4: (0.455, 0.653)}
DIRECTIONS = ("eigenvector", "random")
TEST = "similarity_test:cosine"
PLACE = "table of cosines, LeNet on MNIST"


ATTACKS = ("clean", "pgd20", "aa")


def small_lenet(eps: float, *, width: int = 4) -> Experiment:
    """Minutes on one core."""
    size: dict[str, Any] = {"epochs": 6, "n_train": 6_400, "n_test": 200, "measure_every": 3}
    return _lenet(eps, width, 2.0, **size, lr=1e-3, attacks=("clean",))


def paper_lenet(eps: float, *, width: int = 16) -> Experiment:
    """All of MNIST, 100 epochs."""
    return _lenet(eps, width, 30.0, epochs=100, measure_every=5, lr=1e-4)


def _lenet(eps: float, width: int, rise: float, **scale: Any) -> Experiment:
    """LeNet on MNIST; eps rises over the first third of the training, except for the smallest network."""
    warmup = {"schedule": "warmup", "eps_warmup_epochs": rise} if width > 1 else {}
    usual = {"steps": 10, "lr_schedule": "constant", "batch_size": 64, "attacks": ATTACKS}
    return mnist("pgd", width=width, eps=eps, **{**usual, **warmup, **scale})


def medium_lenet(eps: float, *, width: int = 8) -> Experiment:
    """Twenty minutes on one core."""
    size: dict[str, Any] = {"epochs": 60, "n_train": 20_000, "n_test": 1_000, "measure_every": 5}
    return _lenet(eps, width, 20.0, **size, lr=3e-4, precision="bf16-mixed")


def medium_resnet(method: str = "pgd", eps: float = 0.0, **more: Any) -> Experiment:
    """Half an hour on one core; at 8/255 the run of claim 2 without periods."""
    if method == "pgd":
        more |= {"eps": eps, "steps": 7, "attacks": ("clean", "pgd20", "apgd_ce", "apgd_ce_t")}
    return cifar10_narrow(method, **{"lr_schedule": "multistep", "milestones": (10, 15)}, **more)


def small_resnet() -> Experiment:
    """Minutes on one core."""
    network: dict[str, Any] = {"backbone": "resnet18_w", "width": 4, "epochs": 8, "n_train": 2_000}
    return cifar10_lenet("pgd", **network, attacks=("clean",), eps=8 / 255, steps=5, measure_every=4)


def paper_resnet() -> Experiment:
    """ResNet-18 on CIFAR-10 at 8/255, the model of the source's table."""
    return cifar10("pgd", eps=8 / 255, steps=10, measure_every=10, attacks=ATTACKS)


def lenet(eps: float) -> str:
    """The arm of LeNet at ``eps``."""
    return f"LeNet, eps {eps:g}"


def trend(metric: str, margin: float, *, falls: bool = False, over: tuple[float, ...] = (0.0, 0.1, 0.2, 0.3)) -> Trend:
    """``metric`` grows (or falls) with eps, by ``margin`` or more over the range."""
    return Trend(tuple((lenet(eps), metric) for eps in over), over, margin, falls)


def cosine(direction: str, distance: float) -> str:
    """The metric of the mean cosine at a distance along ``eigenvector`` or ``random``."""
    return f"similarity:cosine_{direction}_{distance:g}"


def moved(name: str, arm: str, where: str, figures: Cosines, far: float) -> Claim:
    """Examples change along the eigenvector, not along a random direction, up to the distance ``far``."""
    return Claim(
        f"examples-move-along-the-eigenvector-{name}",
        f"{arm}: adversarial examples change as the weights move along the top eigenvector, not along a random "
        "direction.",
        All(
            (
                AtMost((arm, cosine("eigenvector", far)), 0.5, half(0.5, figures[far][0])),
                Alike(tuple((arm, cosine("random", a)) for a in figures if a <= far), 0.05),
                Lower((arm, cosine("eigenvector", far)), (arm, cosine("random", far)), 0.2, half(*figures[far])),
            )
        ),
        where,
        rows=tuple(
            Row(arm, cosine(direction, a), pair[place], where)
            for place, direction in enumerate(DIRECTIONS)
            for a, pair in figures.items()
        ),
    )


RADII = (0.0, 0.1, 0.2, 0.3)
FIVE = (*RADII, 0.4)
AT = {eps: f"ResNet-18, eps {eps}" for eps in SMALLER}
RESNET18, PLAIN, NARROW = "ResNet-18, eps 8/255", "ResNet-18, eps 0", "LeNet of width 1, eps 0.4"
HESSIAN = {"hessian": hessian(500)}
ALONG = {"similarity": similarity(500, tuple(LENET))}
PROBES = dict.fromkeys(RADII, HESSIAN) | {0.3: HESSIAN | ALONG}
ON_TEST = {"similarity_test": similarity(500, tuple(LENET), on_test=True)}
SMALL_STEPS = (0.001, 0.003, 0.01, 0.03)
BOUNDS = {"smoothness": smoothness(250, SMALL_STEPS)}
FURTHER = dict.fromkeys(RADII[1:], ALONG | ON_TEST | BOUNDS) | {0.0: {}, 0.4: HESSIAN | ALONG | ON_TEST}
GAP = {"generalisation": generalisation(1_000)}
STEP = {"similarity": similarity(250, tuple(RESNET))}
STEP_ON_TEST = {"similarity_test": similarity(250, tuple(RESNET), on_test=True)}

GROUP = Group(
    number=3,
    name="landscape",
    title="The adversarial loss landscape",
    source="Liu et al., On the loss landscape of adversarial training, NeurIPS 2020",
    arms=(
        *(
            Arm(
                lenet(eps),
                small_lenet(eps),
                paper_lenet(eps),
                probes=PROBES[eps],
                medium=medium_lenet(eps),
                medium_probes=FURTHER[eps],
            )
            for eps in RADII
        ),
        Arm(lenet(0.4), medium=medium_lenet(0.4), medium_probes=FURTHER[0.4]),
        Arm(
            RESNET18,
            small_resnet(),
            paper_resnet(),
            probes=STEP,
            medium=medium_resnet(eps=8 / 255),
            medium_probes=GAP | STEP_ON_TEST,
        ),
        *(Arm(AT[e], medium=medium_resnet(eps=parse_eps(e)), medium_probes=STEP | STEP_ON_TEST) for e in SMALLER),
        Arm(
            PLAIN,
            medium=medium_resnet("standard", attacks=("clean",), protocol="linf_8_255"),
            medium_probes=GAP,
        ),
        Arm(NARROW, small_lenet(0.4, width=1), paper_lenet(0.4, width=1), medium=medium_lenet(0.4, width=1)),
    ),
    claims=(
        Claim(
            "eigenvalue-grows",
            "The top eigenvalue of the Hessian of the adversarial loss is larger at eps 0.3 than at 0.",
            Lower((lenet(0.0), "hessian:eigenvalue"), (lenet(0.3), "hessian:eigenvalue"), margin=2.0),
            rows=tuple(Row(lenet(eps), "hessian:eigenvalue") for eps in RADII),
        ),
        Claim(
            "eigenvalue-grows-at-every-eps",
            "The larger eps is, up to 0.4, the larger the top eigenvalue of the Hessian of the adversarial loss.",
            trend("hessian:eigenvalue", 2.0, over=FIVE),
            "figure of top Hessian eigenvalues, LeNet on MNIST",
            rows=tuple(Row(lenet(eps), "aa_err") for eps in FIVE),
        ),
        Claim(
            "gradients-do-not-vanish",
            "The larger eps is, the larger the stochastic gradient in the last epoch.",
            trend("grad_norm", 0.1),
            rows=tuple(Row(lenet(eps), metric) for eps in RADII for metric in ("grad_norm", "clean_err")),
        ),
        Claim(
            "weights-stay-near",
            "The larger eps is, the nearer the weights stay to where they started.",
            trend("distance", 0.5, falls=True),
        ),
        moved("resnet-18", RESNET18, "table of cosines, ResNet18 on CIFAR10, eps 8/255", RESNET, 1.0),
        moved("lenet", lenet(0.3), "table of cosines, LeNet on MNIST, eps 0.3", LENET, 0.01),
        *(
            moved(f"resnet-18-{eps}", AT[eps], f"table of cosines, ResNet18 on CIFAR10, eps {eps}", figures, 1.0)
            for eps, figures in SMALLER.items()
        ),
        Claim(
            "examples-of-test-images-move-too",
            "ResNet-18, eps 8/255: adversarial examples of test images change along the top eigenvector, not along a "
            "random direction.",
            Lower((RESNET18, f"{TEST}_eigenvector_1"), (RESNET18, f"{TEST}_random_1"), 0.2, half(*RESNET[1.0])),
            own=True,
            rows=tuple(Row(arm, f"{TEST}_{v}_1") for arm in (*AT.values(), RESNET18) for v in DIRECTIONS),
        ),
        Claim(
            "random-directions-move-nothing-at-small-eps",
            "LeNet at eps 0.1 and 0.2: adversarial examples do not change as the weights move by 0.1 at random.",
            All(tuple(Alike(tuple((lenet(eps), cosine("random", a)) for a in (0.0, 0.1)), 0.05) for eps in (0.1, 0.2))),
            "table of cosines, LeNet on MNIST, eps 0.1 and 0.2",
            rows=tuple(
                Row(lenet(eps), f"{probe}:cosine_{direction}_0.1", figure, PLACE if figure else "")
                for eps, pair in AT_A_TENTH.items()
                for direction, known in zip(("eigenvector", "random"), pair, strict=True)
                for probe, figure in (("similarity", known), ("similarity_test", None))
            ),
        ),
        Claim(
            "gradients-jump-within-the-bound",
            "LeNet at eps 0.3: as the weights move, the gradient of the adversarial loss changes by no more than the "
            "bound of equation 11.",
            AtMost((lenet(0.3), "smoothness:ratio"), 1.0, margin=0.25),
            "equation 11",
            rows=tuple(
                Row(lenet(0.3), f"smoothness:{of}")
                for of in ("lipschitz_weights", "lipschitz_inputs", *(f"jump_{a:g}" for a in SMALL_STEPS))
            ),
        ),
        Claim(
            "adversarial-gradients-are-not-smooth",
            "LeNet at eps 0.3: as the weights move by 0.002, the gradient of the adversarial loss changes at least "
            "twice as much as with fixed adversarial examples.",
            Ratio((lenet(0.3), "smoothness:jump_0.001"), (lenet(0.3), "smoothness:fixed_0.001"), 2.0, math.inf),
            "slide Nonlinear Model: the second order smoothness is broken",
        ),
        Claim(
            "large-gradients-are-rare",
            "LeNet at eps 0.3: at most 4/7 of the last batches have a gradient above 3 ε L_θx, by equation 12.",
            AtMost((lenet(0.3), "smoothness:above"), 4 / 7, margin=0.1),
            "equation 12 at γ = 3",
        ),
        Claim(
            "adversarial-training-converges-more-slowly",
            "Adversarial training takes more epochs than plain training to halve the loss of guessing.",
            Lower((PLAIN, "half_loss_epoch"), (RESNET18, "half_loss_epoch"), margin=1.0),
            "slide Adversarial Training, a figure without numbers, ResNet18 on CIFAR10",
        ),
        Claim(
            "adversarial-training-generalises-worse",
            "The gap between training and test error, each under the attack of the training, is larger for adversarial "
            "training.",
            Lower((PLAIN, "generalisation:gap"), (RESNET18, "generalisation:gap"), margin=2.0),
            "slide Adversarial Training, a figure without numbers, ResNet18 on CIFAR10",
            rows=tuple(
                Row(arm, f"generalisation:{of}") for arm in (PLAIN, RESNET18) for of in ("train_err", "test_err")
            ),
        ),
        Claim(
            "small-models-end-constant",
            "Most small models trained at a large constant eps end as a constant classifier.",
            AtLeast((NARROW, "constant"), 50.0, margin=25.0),
            about_collapse=True,
            rows=tuple(Row(NARROW, metric) for metric in ("constant", "dead", "clean_err")),
        ),
    ),
    notes="The small networks are trained for six and eight epochs, the source's for 100 and 200, and have a fraction "
    "of its weights, of which a step of length a is a larger part. Eigenvalues, gradients, distances and "
    "cosines are numbers of a run, not of an image: their intervals count seeds. The source gives no numbers for the "
    "trends; their margins are set by this project.",
)

if __name__ == "__main__":
    recipe(GROUP, __doc__)
