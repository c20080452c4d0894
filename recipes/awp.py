"""PGD training of PreAct ResNet-18 on CIFAR-10 with adversarial weight perturbation.

Wu, Xia, Wang: Adversarial weight perturbation helps robust generalization. NeurIPS 2020. Claim: perturbing each layer
by 0.5% of its norm narrows the gap between training and test robustness: the last epoch is nearly as robust as the
best, and both are more robust than without it.
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10("awp", backbone="preact_resnet18", eps=8 / 255, alpha=2 / 255, steps=10, awp_gamma=5e-3)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
