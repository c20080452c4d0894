"""SGD on the clean loss and Adam on the adversarial loss, ResNet-18 on CIFAR-10, L2-PGD at eps 0.5.

Lee: Formulation. Graduation project, Konkuk University, 2024. Claim: none is measured. The source proposes the update,
with a large learning rate for SGD and a small one for Adam, and asks whether Adam can explode. To reproduce: training
stays finite and is no less accurate than ``clean_adv`` with one optimiser.
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10("dual", norm="L2", eps=0.5, steps=10, dual_gamma=1e-3, milestones=(), warmup_epochs=5.0)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
