"""PGD training of LeNet on MNIST at eps 0.3.

Madry, Makelov, Schmidt, Tsipras, Vladu: Towards deep learning models resistant to adversarial attacks. ICLR 2018,
table 1. Claim: trained on 40 steps of 0.01 for 100,000 batches of 50, the network keeps 98.8% clean accuracy and
89.3% under the strongest white-box attack that the paper tried (PGD, 100 steps, 20 restarts).
"""

from toolkit_ext.experiments.recipe import mnist, recipe

EXPERIMENT = mnist(
    "pgd", eps=0.3, alpha=0.01, steps=40, lr=1e-4, lr_schedule="constant", measure_every=5, epochs=93, batch_size=50
)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
