"""FGSM training with GradAlign of PreAct ResNet-18 on CIFAR-10 at eps 8/255.

Andriushchenko, Flammarion: Understanding and improving fast adversarial training. NeurIPS 2020. Claim: a penalty of
weight 0.2 on the misalignment of input gradients prevents catastrophic overfitting of FGSM training without a random
start, which fails without it.
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10(
    "grad_align",
    backbone="preact_resnet18",
    eps=8 / 255,
    align_lambda=0.2,
    lr=0.3,
    milestones=(),
    lr_schedule="onecycle",
    epochs=30,
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
