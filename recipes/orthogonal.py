"""PGD training of ResNet-18 on CIFAR-10 with an orthogonality penalty on the weights.

Kouvatseas, Lafaye de Micheaux, Neau: Training robust neural networks. 2023; the penalty is that of Brock, Lim, Ritchie,
Weston, ICLR 2017. Claim: keeping weights near orthogonal stabilises learning, and helps robustness less than spectral
normalisation does. The report's figures have no numbers.
"""

from toolkit_ext.experiments.experiment import Experiment
from toolkit_ext.experiments.recipe import recipe

EXPERIMENT = Experiment(
    method="orthogonal",
    data="cifar10",
    backbone="resnet18_w",
    backbone_args={"width": 16},
    hyper_parameters={
        "orthogonal_lambda": 1e-4,
        "eps": 8 / 255,
        "steps": 10,
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
