"""Standard training of LeNet on MNIST, the baseline of every robust accuracy.

Madry, Makelov, Schmidt, Tsipras, Vladu: Towards deep learning models resistant to adversarial attacks. ICLR 2018,
section 4. Claim: without adversarial training the network classifies clean images almost without error, and none
under PGD at eps 0.3.
"""

from toolkit_ext.experiments.experiment import Experiment
from toolkit_ext.experiments.recipe import recipe

EXPERIMENT = Experiment(
    method="standard",
    data="mnist",
    backbone="lenet",
    backbone_args={"width": 16},
    hyper_parameters={
        "optimizer": "adam",
        "lr": 1e-3,
        "weight_decay": 0.0,
        "lr_schedule": "constant",
        "measure_every": 5,
    },
    epochs=20,
    batch_size=128,
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
