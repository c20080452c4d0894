"""MIM training of ResNet-18 on CIFAR-10 at eps 8/255.

Kouvatseas, Lafaye de Micheaux, Neau: Training robust neural networks. 2023. Claim: training on MIM examples is as
robust under PGD as training on PGD examples (17.23% and 17.26% in Linf) at a lower clean accuracy (37.50% and
56.25%). The report names neither data set nor eps; its attacks have 40 steps of 0.001.
"""

from toolkit_ext.experiments.experiment import Experiment
from toolkit_ext.experiments.recipe import recipe

EXPERIMENT = Experiment(
    method="mim",
    data="cifar10",
    backbone="resnet18_w",
    backbone_args={"width": 16},
    hyper_parameters={
        "eps": 8 / 255,
        "steps": 10,
        "decay": 1.0,
        "lr": 0.1,
        "lr_schedule": "multistep",
        "milestones": (100, 150),
        "weight_decay": 5e-4,
        "augment": "crop-flip",
    },
    epochs=200,
    batch_size=128,
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
