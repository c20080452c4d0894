"""PGD training of ResNet-18 on CIFAR-10 with spectrally normalised weights.

Kouvatseas, Lafaye de Micheaux, Neau: Training robust neural networks. 2023; the normalisation is that of Miyato,
Kataoka, Koyama, Yoshida, ICLR 2018. Claim: dividing each weight by its largest singular value moderates how sensitive
a layer is to a perturbation of its input. The report's figures have no numbers; compare with ``pgd``.
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10("spectral_norm", spectral="reshaped", eps=8 / 255, steps=10)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
