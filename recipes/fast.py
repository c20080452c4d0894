"""Random-start FGSM training of PreAct ResNet-18 on CIFAR-10 at eps 8/255.

Wong, Rice, Kolter: Fast is better than free: revisiting adversarial training. ICLR 2020. Claim: one step from a random
start, of 1.25 eps and with a cyclic learning rate, reaches 45% under PGD at eps 8/255 in minutes, as much as training
on PGD examples.
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10(
    "fast",
    backbone="preact_resnet18",
    eps=8 / 255,
    fast_alpha=1.25,
    lr=0.2,
    milestones=(),
    lr_schedule="onecycle",
    epochs=30,
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
