"""PGD training of ResNet-18 on CIFAR-10 with an orthogonality penalty on the weights.

Kouvatseas, Lafaye de Micheaux, Neau: Training robust neural networks. 2023; the penalty is that of Brock, Lim, Ritchie,
Weston, ICLR 2017. Claim: keeping weights near orthogonal stabilises learning, and helps robustness less than spectral
normalisation does. The report's figures have no numbers.
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10("orthogonal", orthogonal_lambda=1e-4, eps=8 / 255, steps=10)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
