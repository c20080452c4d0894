"""Adaptive sharpness-aware minimisation of ResNet-18 on CIFAR-10.

Kwon, Kim, Park, Choi: ASAM: adaptive sharpness-aware minimization for scale-invariant learning of deep neural networks.
ICML 2021. Claim: a ball that follows the size of each weight gives a lower clean test error than SAM. (The paper makes
no claim on robustness; the record also has the AutoAttack accuracy.)
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10("asam", asam_rho=0.5, asam_eta=0.01, milestones=(), lr_schedule="cosine")

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
