"""TRADES training of ResNet-18 on CIFAR-10 at eps 0.031.

Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan: Theoretically principled trade-off between robustness and accuracy. ICML 2019.
Claim: with 1/λ = 6 the network is more robust than after PGD training, at a lower clean accuracy (the paper's network
is WRN-34-10; steps, step size and optimiser are its own).
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10(
    "trades", eps=0.031, alpha=0.007, steps=10, trades_beta=6.0, milestones=(75, 90), weight_decay=2e-4, epochs=100
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
