"""FGSM training with prior-guided initialisation (FGSM-MEP) of ResNet-18 on CIFAR-10 at eps 8/255.

Jia, Zhang, Wei, Wu, Ma, Wang, Cao: Prior-guided adversarial initialization for fast adversarial training. ECCV 2022.
Claim: starting FGSM from the remembered perturbation of each example prevents catastrophic overfitting and outperforms
earlier fast methods. The label smoothing is that of the authors' code: 0.6 for the label, 0.4 for the other classes.
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10(
    "fgsm_pgi",
    eps=8 / 255,
    pgi_lambda=10.0,
    pgi_decay=0.3,
    pgi_reset=40,
    label_smoothing=0.4 * 10 / 9,
    craft_mode="train",
    milestones=(100, 105),
    epochs=110,
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
