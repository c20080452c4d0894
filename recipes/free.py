"""Free adversarial training of a ResNet on CIFAR-10 at eps 8/255, each batch replayed 8 times.

Shafahi, Najibi, Ghiasi, Xu, Dickerson, Studer, Davis, Taylor, Goldstein: Adversarial training for free! NeurIPS 2019.
Claim: with gradients of weights and inputs from one backward pass, training costs about as much as standard training
and is as robust as training on 7 PGD steps. (The paper trains WRN-32-10; 25 epochs here are 200 passes over the data.)
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10("free", eps=8 / 255, free_replays=8, weight_decay=2e-4, milestones=(12, 19), epochs=25)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
