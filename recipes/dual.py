"""SGD on the clean loss and Adam on the adversarial loss, ResNet-18 on CIFAR-10, L2-PGD at eps 0.5.

Lee: Formulation. Graduation project, Konkuk University, 2024. Claim: none is measured; the source proposes the update,
with a large rate for SGD and a small one for Adam, and asks whether Adam can explode. What there is to reproduce is
training that stays finite, no less accurate than ``clean_adv`` with one optimiser.
"""

from toolkit_ext.experiments.experiment import Experiment
from toolkit_ext.experiments.recipe import recipe

EXPERIMENT = Experiment(
    method="dual",
    data="cifar10",
    backbone="resnet18_w",
    backbone_args={"width": 16},
    hyper_parameters={
        "norm": "L2",
        "eps": 0.5,
        "steps": 10,
        "lr": 0.1,
        "dual_gamma": 1e-3,
        "warmup_epochs": 5.0,
        "weight_decay": 5e-4,
        "augment": "crop-flip",
    },
    epochs=200,
    batch_size=128,
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
