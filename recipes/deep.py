"""Deep adversarial training of LeNet on MNIST, input and hidden layers perturbed.

Chinchilla: Deep adversarial training. Technical note, 2020. Claim: perturbing hidden layers too prepares the network
for a stronger attacker than it can meet, and costs little more than perturbing the input, because a few steps of
conjugate gradient solve the inner problem. The note measures nothing; ``pgd`` at the same eps is what to compare with.
"""

from toolkit_ext.experiments.experiment import Experiment
from toolkit_ext.experiments.recipe import recipe

EXPERIMENT = Experiment(
    method="deep",
    data="mnist",
    backbone="lenet",
    backbone_args={"width": 16},
    hyper_parameters={
        "eps": 0.3,
        "deep_hidden_eps": 0.02,
        "deep_steps": 5,
        "optimizer": "adam",
        "lr": 1e-4,
        "weight_decay": 0.0,
        "schedule": "warmup",
        "measure_every": 5,
    },
    epochs=40,
    batch_size=50,
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
