"""Learnable boundary guided adversarial training of a ResNet on CIFAR-10 at eps 0.031.

Cui, Liu, Wang, Jia: Learnable boundary guided adversarial training. ICCV 2021. Claim: without the divergence term, the
logits of a clean ResNet-18 guide WRN-34-10 to 88.22% clean accuracy and 52.86% under AutoAttack.
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10(
    "lbgat",
    eps=0.031,
    alpha=0.007,
    steps=10,
    lbgat_beta=0.0,
    weight_decay=2e-4,
    milestones=(75, 90),
    epochs=100,
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
