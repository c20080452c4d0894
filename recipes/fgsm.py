"""FGSM training of LeNet on MNIST at eps 0.3.

Goodfellow, Shlens, Szegedy: Explaining and harnessing adversarial examples. ICLR 2015; Kouvatseas, Lafaye de
Micheaux, Neau: Training robust neural networks. 2023. Claim: training on FGSM examples protects against FGSM and
hardly against PGD (the report's table: 0.46% under PGD in Linf, in a setting that it does not name).
"""

from toolkit_ext.experiments.experiment import Experiment
from toolkit_ext.experiments.recipe import recipe

EXPERIMENT = Experiment(
    method="fgsm",
    data="mnist",
    backbone="lenet",
    backbone_args={"width": 16},
    hyper_parameters={"eps": 0.3, "optimizer": "adam", "lr": 1e-3, "weight_decay": 0.0},
    epochs=30,
    batch_size=128,
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
