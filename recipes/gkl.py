"""Adversarial training with the generalised KL divergence, weights perturbed, on CIFAR-10 at eps 8/255.

Cui, Zhu, Xu, Tian, Qi, Yu, Zhang, Hong: Generalized Kullback-Leibler divergence loss. arXiv 2025. Claim: flatter
weights of the classes (power 0.2) improve on IKL at the same settings. Epsilon grows over all epochs.
"""

from toolkit_ext.experiments.recipe import cifar10_growing_eps, recipe

EXPERIMENT = cifar10_growing_eps("gkl", ikl_alpha=4.0, ikl_beta=20.0, ikl_gamma=0.2)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
