"""Adversarial training with the generalised KL divergence, weights perturbed, on CIFAR-10 at eps 8/255.

Cui, Zhu, Xu, Tian, Qi, Yu, Zhang, Hong: Generalized Kullback-Leibler divergence loss. arXiv 2025. Claim: flatter
weights of the classes (power 0.2) improve on IKL at the same settings. Epsilon grows over all epochs.
"""

from typing import Any

from toolkit_ext.experiments.recipe import cifar10, recipe

GROWING: dict[str, Any] = {
    "schedule": "warmup",
    "eps_warmup_epochs": 200.0,
    "eps": 8 / 255,
    "steps": 4,
    "alpha": 4 / 255,
}
EXPERIMENT = cifar10("gkl", update="awp", ikl_alpha=4.0, ikl_beta=20.0, ikl_gamma=0.2, lr=0.2, **GROWING)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
