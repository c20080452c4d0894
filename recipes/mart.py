"""MART training of ResNet-18 on CIFAR-10 at eps 8/255.

Wang, Zou, Yi, Bailey, Ma, Gu: Improving adversarial robustness requires revisiting misclassified examples. ICLR 2020.
Claim: weighting the divergence by how unsure the network is of the clean image makes ResNet-18 more robust than TRADES
does at the same eps.
"""

from toolkit_ext.experiments.experiment import Experiment
from toolkit_ext.experiments.recipe import recipe

EXPERIMENT = Experiment(
    method="mart",
    data="cifar10",
    backbone="resnet18_w",
    backbone_args={"width": 16},
    hyper_parameters={
        "eps": 8 / 255,
        "alpha": 2 / 255,
        "steps": 10,
        "mart_lambda": 5.0,
        "lr": 0.01,
        "lr_schedule": "multistep",
        "milestones": (75, 90),
        "weight_decay": 3.5e-3,
        "augment": "crop-flip",
    },
    epochs=120,
    batch_size=128,
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
