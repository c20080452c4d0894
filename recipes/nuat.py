"""Nuclear norm adversarial training of ResNet-18 on CIFAR-10 at eps 8/255.

Sriramanan, Addepalli, Baburaj, Radhakrishnan: Towards efficient and effective adversarial training. NeurIPS 2021.
Claim: single-step training with a nuclear norm penalty of weight 4.5 is comparable to training on several steps. FastAT
Benchmark (2026) measures 50.1% under AutoAttack after 100 epochs of ResNet-18, and 44.3% for PGD training.
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10(
    "nuat", eps=8 / 255, nuat_lambda=4.5, milestones=(), lr_schedule="onecycle", epochs=100, batch_size=64
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
