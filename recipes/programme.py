"""The experiments that decide claims, ranked, one after the other, for two cores and many nights.

Starts each run of the medium scale of recipes/claims that is not recorded, in the order of the ranking. Stop it at any
time, even by kill -9: the same command resumes. Two calls at once share the work. docs/claims.md says what it costs.

    python recipes/programme.py --list
    python recipes/programme.py --until 07:30 --pause-file outputs/pause
"""

from __future__ import annotations

from pathlib import Path

from toolkit_ext.programme import Entry, programme

MNIST = ("MNIST, constant", "MNIST, cosine", "MNIST, linear")
PERIODS = tuple(f"CIFAR-10, {schedule}" for schedule in ("no periods", "constant", "cosine", "linear"))
ONCE = tuple(f"CIFAR-10, no periods, {schedule}" for schedule in ("cosine", "linear"))
VGG = tuple(
    f"CIFAR-10, VGG-16, {schedule}"
    for schedule in ("no periods", "constant", "cosine", "linear", *(f"no periods, {s}" for s in ("cosine", "linear")))
)
EQUAL_COST = ("PGD", "FGSM", "MIM", "gradient penalty", "multi-attack", "TRADES")
EQUAL_EPOCHS = tuple(f"{arm}, 20 epochs" for arm in ("multi-attack", "FGSM", "gradient penalty", "TRADES"))
REGULARISED = ("standard", "spectral normalisation", "orthogonal rows")
CONTROL = ("MNIST 0.3: pgd",)
LANDSCAPE = (*(f"LeNet, eps {eps:g}" for eps in (0.0, 0.1, 0.2, 0.3, 0.4)), "LeNet of width 1, eps 0.4")
SIMILAR = ("ResNet-18, eps 2/255", "ResNet-18, eps 4/255")
RESNET = ("ResNet-18, eps 8/255", "ResNet-18, eps 0")
ON_MNIST = (
    *(f"LeNet on MNIST: {choice}" for choice in ("fp32", "examples in bf16", "all in bf16")),
    *(f"residual network on MNIST: {choice}" for choice in ("not folded", "folded")),
)

PROGRAMME = (
    Entry("a", "constant_eps", range(3), "constant and periodic eps at three learning rates, MNIST"),
    Entry("a2", "pas_table", range(3), "the table of schedules on MNIST (the same runs)", MNIST),
    Entry("b", "amp", range(8), "AMP against plain training of equal epochs and equal cost, CIFAR-10"),
    Entry("c", "multi_attack", range(4), "attacks in turn at equal cost, CIFAR-10", EQUAL_COST),
    Entry("c2", "multi_attack", range(4), "attacks in turn at equal epochs", EQUAL_EPOCHS),
    Entry("c3", "multi_attack", range(4), "spectral and orthogonal under 40 steps of 0.001", REGULARISED),
    Entry("d", "deep", range(20), "deep adversarial training, over perturbations and over neurons, digits"),
    Entry("d2", "dual", range(20), "two optimisers, with a constant γ, digits"),
    Entry("e", "landscape", range(5), "trends over five eps, MNIST", LANDSCAPE),
    Entry("f", "leaderboard", range(8), "the control of the leaderboard, MNIST", CONTROL),
    Entry("f2", "leaderboard", range(4), "combinations at equal cost, MNIST"),
    Entry("g", "pas_table", range(4), "periods and ensembles, ResNet-18, CIFAR-10", PERIODS),
    Entry("g2", "landscape", range(4), "convergence and generalisation (a run shared with g)", RESNET),
    Entry("h", "speed", range(9), "precision and folding to half a point, MNIST", ON_MNIST),
    Entry("i", "pas_table", range(4), "rising eps without periods, ResNet-18", ONCE),
    Entry("j", "pas_table", range(3), "schedules and periods, VGG-16", VGG),
    Entry("k", "landscape", range(4), "similarity of perturbations at smaller eps, ResNet-18", SIMILAR),
)

# Seconds of a pass of one image on one core (AVX-512 BF16), where no record tells: measured in November 2026.
SECONDS = {
    ("resnet18_w", 4, "bf16-mixed"): 5.4e-4,
    ("resnet18_w", 4, "fp32"): 9.2e-4,
    ("vgg16_w", 4, "bf16-mixed"): 4.0e-4,
    ("lenet", 8, "bf16-mixed"): 9.7e-5,
}

# Asked for, and left out for what they cost.
CUT = (
    "AMP and AWP in adversarial training on CIFAR-10 (claims of this project): three arms of 4 seeds, about 14 hours",
    "the leaderboard at MNIST 0.4 and on CIFAR-10: 9 arms of 4 seeds, about 30 hours",
    "the sources' own lengths and widths (--scale paper): months on two cores",
)

if __name__ == "__main__":
    programme(PROGRAMME, __doc__, Path(__file__).parent / "claims", SECONDS, CUT)
