"""Fast adversarial training on CIFAR-10 at equal passes: single-step methods beside PGD, three seeds each.

    python recipes/cifar_fast.py --data-root data

ResNet-18 of width 4 on 15,000 images at eps 8/255. Every method may make as many passes over the data as PGD training
on seven steps makes in five epochs, and takes as many epochs as that allows, to the nearest one; a pass is one forward
and one backward pass of every image. The learning rate rises and falls once (one cycle). APGD-CE and APGD-T attack 500
test images. Recorded runs are skipped and an interrupted one resumes. A run takes about 20 minutes on one core.
"""

from __future__ import annotations

from typing import Any

from toolkit_ext.experiments.counting import count_passes
from toolkit_ext.experiments.recipe import cifar10_narrow, compare
from toolkit_ext.experiments.settings import Experiment

EPOCHS = 5  # of PGD training on seven steps
# Each method as its recipe has it. Label smoothing, which FGSM-PGI's authors add, is left out for all.
METHODS: dict[str, dict[str, Any]] = {
    "pgd": {"steps": 7, "alpha": 2 / 255},
    "fast": {"fast_alpha": 1.25},
    "n_fgsm": {"n_fgsm_noise": 2.0, "craft_mode": "train"},
    "free": {"free_replays": 8},
    "grad_align": {"align_lambda": 0.2},
    "nuat": {"nuat_lambda": 4.5},
    "fgsm_pgi": {"pgi_lambda": 10.0, "pgi_decay": 0.3, "pgi_reset": 40, "craft_mode": "train"},
}


def passes(method: str) -> float:
    """Forward and backward passes of an image in an epoch, half of each making one pass."""
    counted = count_passes(method, **METHODS[method])
    return (counted.forward + counted.backward) / 2


def experiment(method: str, seed: int) -> Experiment:
    """The run of ``method`` with ``seed``, as long as the passes of PGD training allow."""
    epochs = round(EPOCHS * passes("pgd") / passes(method))
    usual = {"eps": 8 / 255, "lr": 0.2, "lr_schedule": "onecycle", "n_test": 500}
    return cifar10_narrow(method, epochs=epochs, seed=seed, **usual, **METHODS[method])


if __name__ == "__main__":
    compare("cifar_fast", experiment, list(METHODS), __doc__)
