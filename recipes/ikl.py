"""Adversarial training with the improved KL divergence, weights perturbed, on CIFAR-10 at eps 8/255.

Cui, Tian, Zhong, Qi, Yu, Zhang: Decoupled Kullback-Leibler divergence loss. NeurIPS 2024. Claim: with the weights of
the loss 4 and 20 and adversarial weight perturbation, WRN-34-10 reaches 57.13% under AutoAttack, at 85.31% clean
accuracy, where TRADES with weight perturbation reaches 56.17% and 85.36%. Epsilon grows over all epochs.
"""

from toolkit_ext.experiments.recipe import cifar10_growing_eps, recipe

EXPERIMENT = cifar10_growing_eps("ikl", ikl_alpha=4.0, ikl_beta=20.0, ikl_temperature=4.0)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
