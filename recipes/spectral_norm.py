"""PGD training of ResNet-18 on CIFAR-10 with spectrally normalised weights.

Kouvatseas, Lafaye de Micheaux, Neau: Training robust neural networks. 2023; the normalisation is that of Miyato,
Kataoka, Koyama, Yoshida, ICLR 2018. Claim: dividing each weight by its largest singular value moderates how sensitive
a layer is to a perturbation of its input. The report's figures have no numbers; ``pgd`` is what to compare with.
"""

from toolkit_ext.experiments.experiment import Experiment
from toolkit_ext.experiments.recipe import recipe

EXPERIMENT = Experiment(
    method="spectral_norm",
    data="cifar10",
    backbone="resnet18_w",
    backbone_args={"width": 16},
    hyper_parameters={
        "spectral": "reshaped",
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
