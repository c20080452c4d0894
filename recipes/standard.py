"""Standard training of LeNet on MNIST, the baseline of every robust accuracy.

Madry, Makelov, Schmidt, Tsipras, Vladu: Towards deep learning models resistant to adversarial attacks. ICLR 2018,
section 4. Claim: without adversarial training the network classifies clean images almost without error, and none
under PGD at eps 0.3.
"""

from toolkit_ext.experiments.recipe import mnist, recipe

EXPERIMENT = mnist("standard", lr_schedule="constant", measure_every=5, epochs=20)

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__)
