"""Random-start FGSM training of PreAct ResNet-18 on CIFAR-10 at eps 8/255.

Wong, Rice, Kolter: Fast is better than free: revisiting adversarial training. ICLR 2020. Claim: one step from a random
start, of 1.25 eps and with a cyclic learning rate, reaches 45% under PGD at eps 8/255 in minutes, as much as training
on PGD examples.
"""

from toolkit_ext.experiments.experiment import Experiment
from toolkit_ext.experiments.recipe import recipe

EXPERIMENT = Experiment(
    method="fast",
    data="cifar10",
    backbone="preact_resnet18",
    hyper_parameters={
        "eps": 8 / 255,
        "fast_alpha": 1.25,
        "lr": 0.2,
        "lr_schedule": "onecycle",
        "weight_decay": 5e-4,
        "augment": "crop-flip",
    },
    epochs=30,
    batch_size=128,
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
