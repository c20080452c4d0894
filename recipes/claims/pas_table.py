"""Claim 2: the table of periodic adversarial scheduling (PAS), robust error under five attacks.

Liu, Salzmann, Lin, Tomioka, Süsstrunk: On the loss landscape of adversarial training. NeurIPS 2020. LeNet on MNIST at
eps 0.4, and ResNet-18 of width 8 on CIFAR-10 at 8/255, the latter with a periodic learning rate and the ensemble of the
snapshots at epochs 100, 150 and 200. Small: the runs of claim 1 at 1e-4, and LeNet on 3,000 images of CIFAR-10.
Medium: the runs of claim 1 at 1e-4, and ResNet-18 and VGG-16 of width 4 on 15,000 images of CIFAR-10 for 20 epochs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from toolkit_ext.claims import All, Arm, Claim, Group, Lower, Row, half
from toolkit_ext.claims.probes import ensemble
from toolkit_ext.claims.recipe import recipe
from toolkit_ext.experiments.recipe import cifar10, cifar10_lenet, cifar10_narrow, mnist
from toolkit_ext.experiments.settings import Experiment

ATTACKS = ("clean", "pgd20", "pgd100", "apgd_ce", "apgd_dlr", "aa")
COLUMNS = ("clean_err", "pgd20_err", "pgd100_err", "apgd_ce_err", "apgd_dlr_err")
# Errors in % under clean/PGD/PGD100/APGD100-CE/APGD100-DLR: the figures of the source.
MNIST = {
    "constant": (1.56, 8.58, 10.86, 15.18, 14.70),
    "cosine": (1.08, 6.64, 8.46, 14.36, 13.46),
    "linear": (1.06, 6.69, 8.79, 13.91, 13.17),
}
CIFAR = {
    "no periods": (18.62, 55.00, 54.97, 57.26, 56.60),
    "constant": (21.00, 48.98, 48.87, 50.29, 50.98),
    "cosine": (19.90, 48.57, 48.49, 49.71, 50.54),
    "linear": (20.26, 48.60, 48.52, 49.73, 50.68),
    "no periods, cosine": (18.43, 53.95, 53.85, 56.16, 55.77),
    "no periods, linear": (18.55, 53.46, 53.41, 55.69, 55.45),
}
VGG = {
    "no periods": (28.25, 56.22, 56.19, 58.18, 58.65),
    "no periods, cosine": (25.06, 56.06, 56.00, 57.83, 58.88),
    "no periods, linear": (23.56, 56.09, 55.88, 57.74, 58.39),
    "constant": (28.33, 54.24, 54.16, 55.45, 56.56),
    "cosine": (23.91, 53.18, 53.10, 54.44, 55.80),
    "linear": (21.88, 53.03, 52.97, 54.32, 55.63),
}
EPS, LEVEL = 0.4, 8 / 255
RISING = ("cosine", "linear")
TOGETHER, APGD = "ensemble:", "apgd_ce_err"
PERIODIC: dict[str, dict[str, Any]] = {
    "constant": {"eps_min": LEVEL, "eps_max": LEVEL},
    "cosine": {"eps_shape": "cosine", "eps_min": 0.0, "eps_max": 2 * LEVEL},
    "linear": {"eps_shape": "linear", "eps_min": 0.0, "eps_max": LEVEL},
}
RISES: dict[str, dict[str, Any]] = {
    "constant": {"schedule": "constant"},
    "cosine": {"schedule": "periodic", "eps_shape": "cosine", "eps_max": 0.6, "periods": 1, "eps_per": "batch"},
    "linear": {"schedule": "periodic", "eps_shape": "linear", "eps_max": EPS, "periods": 1, "eps_per": "batch"},
}


SIZES: dict[str, dict[str, Any]] = {
    "small": {"width": 8, "epochs": 10, "batch_size": 32, "n_train": 6_400, "n_test": 500, "steps": 10},
    "medium": {
        **{"width": 8, "epochs": 40, "batch_size": 64, "n_train": 20_000, "n_test": 1_000, "steps": 10},
        **{"precision": "bf16-mixed", "constant_patience": 3},
    },
    "paper": {"epochs": 100, "n_test": 10_000, "steps": 50, "alpha": 0.01},
}


def lenet(schedule: str, scale: str) -> Experiment:
    """The runs of claim 1 at a learning rate of 1e-4."""
    own = RISES[schedule] | ({"eps_per": "epoch"} if scale == "paper" and schedule != "constant" else {})
    rates = {"lr": 1e-4, "lr_schedule": "constant", "measure_every": 5}
    return mnist("pgd", eps=EPS, **SIZES[scale], **rates, **own, attacks=ATTACKS)


def cifar(schedule: str, *, paper: bool) -> Experiment:
    """Resets at 1/2 and 3/4 of the training; without periods the learning rate falls there."""
    epochs, steps = (200, 10) if paper else (12, 5)
    cuts = (epochs // 2, epochs * 3 // 4)
    falls: dict[str, Any] = {"lr_schedule": "multistep", "milestones": cuts}
    own = falls if schedule == "no periods" else {"reset_epochs": cuts, **PERIODIC[schedule]}
    usual: dict[str, Any] = {"eps": LEVEL, "epochs": epochs, "steps": steps, "measure_every": 10 if paper else 3}
    method = "pgd" if schedule == "no periods" else "pas"
    if paper:
        return cifar10(method, width=8, n_test=10_000, attacks=ATTACKS, **usual, **{"milestones": (), **own})
    evaluation: dict[str, Any] = {"n_test": 500, "attacks": (*ATTACKS[:-1], "apgd_ce_t")}
    return cifar10_lenet(method, n_train=3_000, **evaluation, **usual, **own)


def medium(schedule: str, network: str = "resnet18_w") -> Experiment:
    """Half an hour of training on one core; without periods, eps rises once, over the whole training."""
    periodic, rise = not schedule.startswith("no periods"), schedule.rpartition(", ")[2]
    usual: dict[str, Any] = {"eps": LEVEL, "steps": 7, "attacks": ("clean", "pgd20", "apgd_ce", "apgd_ce_t")}
    if periodic:
        return cifar10_narrow("pas", backbone=network, reset_epochs=(10, 15), **usual, **PERIODIC[schedule])
    once = {"schedule": "periodic", "periods": 1, **PERIODIC[rise]} if rise in RISING else {}
    falls = {"lr_schedule": "multistep", "milestones": (10, 15)}
    return cifar10_narrow("pgd", backbone=network, **usual, **falls, **once)


def arms(table: Mapping[str, tuple[float, ...]], named: Callable[[str], str], network: str) -> tuple[Arm, ...]:
    """The arms of ``network`` on CIFAR-10; those of the other scales are of ResNet-18."""
    found = []
    for s in table:
        known = network == "resnet18_w" and not s.startswith("no periods,")
        small, paper = (cifar(s, paper=False), cifar(s, paper=True)) if known else (None, None)
        probes = {} if s.startswith("no periods") else {"ensemble": ensemble()}
        found.append(Arm(named(s), small, paper, probes=probes, medium=medium(s, network)))
    return tuple(found)


def rows(arm: str, figures: tuple[float, ...], probe: str = "") -> tuple[Row, ...]:
    """The source's five columns beside ours, and AutoAttack."""
    table = [Row(arm, probe + metric, figure, "table 1") for metric, figure in zip(COLUMNS, figures, strict=True)]
    return (*table, Row(arm, f"{probe}aa_err"))


def margin(table: Mapping[str, tuple[float, ...]], first: str, second: str) -> float:
    """Half of the source's difference under APGD-CE."""
    return half(*(table[schedule][COLUMNS.index(APGD)] for schedule in (first, second)))


def m(schedule: str) -> str:
    """The arm on MNIST."""
    return f"MNIST, {schedule}"


def c(schedule: str) -> str:
    """The arm on CIFAR-10."""
    return f"CIFAR-10, {schedule}"


def v(schedule: str) -> str:
    """The arm of VGG-16 on CIFAR-10."""
    return f"CIFAR-10, VGG-16, {schedule}"


def rises(named: Callable[[str], str], table: Mapping[str, tuple[float, ...]], constant: str, probe: str = "") -> All:
    """Eps along a cosine or a line is more robust than constant eps, with the learning rate of ``constant``."""
    arms = tuple(s if constant == "constant" else f"{constant}, {s}" for s in RISING)
    pairs = ((named(s), named(constant), margin(table, s, constant)) for s in arms)
    return All(tuple(Lower((a, probe + APGD), (b, probe + APGD), margin=delta) for a, b, delta in pairs))


def on_cifar10(
    name: str,
    named: Callable[[str], str],
    table: Mapping[str, tuple[float, ...]],
    periods: str,
    rising: str,
    rising_once: str,
) -> tuple[Claim, ...]:
    """The three statements on a network: on ensembles over periods, and on rising eps with them and without."""
    ensemble, model = (named("constant"), TOGETHER + APGD), (named("no periods"), APGD)
    whole = (*rows(named("no periods"), table["no periods"]), *rows(named("constant"), table["constant"], TOGETHER))
    once = tuple(row for s in RISING for row in rows(named(f"no periods, {s}"), table[f"no periods, {s}"]))
    within = tuple(row for s in RISING for row in rows(named(s), table[s], TOGETHER))
    beats = Lower(ensemble, model, margin=margin(table, "constant", "no periods"))
    return (
        Claim(f"{name}-periods", periods, beats, "table 1", whole),
        Claim(f"{name}-rising-eps", rising, rises(named, table, "constant", TOGETHER), "table 1", within),
        Claim(f"{name}-rising-eps-without-periods", rising_once, rises(named, table, "no periods"), "table 1", once),
    )


GROUP = Group(
    number=2,
    name="pas_table",
    title="The table of periodic adversarial scheduling",
    source="Liu et al., On the loss landscape of adversarial training, NeurIPS 2020",
    arms=(
        *(Arm(m(s), lenet(s, "small"), lenet(s, "paper"), medium=lenet(s, "medium")) for s in MNIST),
        *arms(CIFAR, c, "resnet18_w"),
        *arms(VGG, v, "vgg16_w"),
    ),
    claims=(
        Claim(
            "mnist-rising-eps",
            "On MNIST at a learning rate of 1e-4, eps along a cosine or a line is more robust than constant eps.",
            All(tuple(Lower((m(s), APGD), (m("constant"), APGD), margin=margin(MNIST, s, "constant")) for s in RISING)),
            "table 1",
            rows=tuple(row for s, figures in MNIST.items() for row in rows(m(s), figures)),
        ),
        *on_cifar10(
            "cifar",
            c,
            CIFAR,
            "On CIFAR-10, an ensemble over the periods of the learning rate beats one model trained without periods.",
            "On CIFAR-10, with periods and ensembles, eps along a cosine or a line is more robust than constant eps.",
            "On CIFAR-10 without periods, eps along a cosine or a line is more robust than constant eps.",
        ),
        *on_cifar10(
            "vgg",
            v,
            VGG,
            "On CIFAR-10, an ensemble of VGG-16 over the periods of the learning rate beats one model without periods.",
            "On CIFAR-10, ensembles of VGG-16 with eps along a cosine or a line are more robust than constant eps.",
            "On CIFAR-10 without periods, VGG-16 with eps along a cosine or a line is more robust than constant eps.",
        ),
    ),
    notes="The source's PGD stands beside PGD-20. What the source does not tell of its training on CIFAR-10, such as "
    "weight decay and augmentation, is as usual for the data set. The small scale on CIFAR-10 has 12 epochs, the "
    "source's 200, and eps rises anew in each of three periods: there the third claim is decided by the length as much "
    "as by the schedule.",
)

if __name__ == "__main__":
    recipe(GROUP, __doc__)
