"""MART training of ResNet-18 on CIFAR-10 at eps 8/255.

Wang, Zou, Yi, Bailey, Ma, Gu: Improving adversarial robustness requires revisiting misclassified examples. ICLR 2020.
Claim: weighting the divergence by the network's uncertainty on the clean image makes ResNet-18 more robust than TRADES
at the same eps.
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10(
    "mart",
    eps=8 / 255,
    alpha=2 / 255,
    steps=10,
    mart_lambda=5.0,
    lr=0.01,
    milestones=(75, 90),
    weight_decay=3.5e-3,
    epochs=120,
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
