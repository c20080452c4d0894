"""Adversarial model perturbation of PreAct ResNet-18 on CIFAR-10.

Zheng, Zhang, Mao: Regularizing neural networks via adversarial model perturbation. CVPR 2021. Claim: descending from
the worst weights in a ball of radius 0.5 gives a lower clean test error than standard training of the same network.
(The paper makes no claim on robustness; the record also has the AutoAttack accuracy.)
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10(
    "amp",
    backbone="preact_resnet18",
    amp_epsilon=0.5,
    amp_inner_lr=1.0,
    amp_inner_iter=1,
    milestones=(100, 200),
    weight_decay=1e-4,
    epochs=300,
    batch_size=50,
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
