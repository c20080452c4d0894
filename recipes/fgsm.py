"""FGSM training of LeNet on MNIST at eps 0.3.

Goodfellow, Shlens, Szegedy: Explaining and harnessing adversarial examples. ICLR 2015; Kouvatseas, Lafaye de
Micheaux, Neau: Training robust neural networks. 2023. Claim: training on FGSM examples protects against FGSM and
hardly against PGD (the report's table: 0.46% under PGD in Linf, in an unnamed setting).
"""

from toolkit_ext.experiments.recipe import mnist, recipe

EXPERIMENT = mnist("fgsm", eps=0.3, epochs=30)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
