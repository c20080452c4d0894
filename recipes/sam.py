"""Sharpness-aware minimisation of ResNet-18 on CIFAR-10.

Foret, Kleiner, Mobahi, Neyshabur: Sharpness-aware minimization for efficiently improving generalization. ICLR 2021.
Claim: descending from the worst weights in a ball of radius 0.05 gives a lower clean test error than standard training.
(The paper makes no claim on robustness; the record also has the AutoAttack accuracy.)
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10("sam", sam_rho=0.05, milestones=(), lr_schedule="cosine")

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
