"""Adversarial training with the improved KL divergence, weights perturbed, on CIFAR-10 at eps 8/255.

Cui, Tian, Zhong, Qi, Yu, Zhang: Decoupled Kullback-Leibler divergence loss. NeurIPS 2024. Claim: with the weights of
the loss 4 and 20 and adversarial weight perturbation, WRN-34-10 reaches 57.13% under AutoAttack, at 85.31% clean
accuracy, where TRADES with weight perturbation reaches 56.17% and 85.36%. Epsilon grows over all epochs.
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
EXPERIMENT = cifar10("ikl", update="awp", ikl_alpha=4.0, ikl_beta=20.0, ikl_temperature=4.0, lr=0.2, **GROWING)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
