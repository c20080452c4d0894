"""Deep adversarial training of LeNet on MNIST, input and hidden layers perturbed.

Chinchilla: Deep adversarial training. Technical note, 2020. Claim: perturbing hidden layers too prepares the network
for a stronger attacker than it can meet, and costs little more than perturbing the input, because a few steps of
conjugate gradient solve the inner problem. The note measures nothing; compare with ``pgd`` at the same eps.
"""

from toolkit_ext.experiments.recipe import mnist, recipe

EXPERIMENT = mnist(
    "deep",
    eps=0.3,
    deep_hidden_eps=0.02,
    deep_steps=5,
    lr=1e-4,
    schedule="warmup",
    measure_every=5,
    epochs=40,
    batch_size=50,
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
