"""Clean against robust accuracy: the weight of TRADES.

The weight β of TRADES sets the price of robustness: a small one favours clean images, a large one adversarial images.
Each point is one training; one seed on 200 images says little about small differences.
"""

import sys

import matplotlib.pyplot as plt
import torch

from toolkit_ext import backbones, data
from toolkit_ext.attacks import PGD, generate
from toolkit_ext.trainers import TRADESTrainer, as_classifier

digits = data.load("digits")
x, y = digits.x_test[:200], digits.y_test[:200]
figure, axis = plt.subplots(figsize=(5.5, 3.6), layout="constrained")

for beta in (0.3, 1.0, 3.0, 10.0):
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=4)
    trainer = TRADESTrainer(as_classifier(model, (1, 8, 8), 10), eps=0.15, steps=5, lr=0.05, trades_beta=beta)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=10)
    adversarial = generate(PGD(eps=0.15, steps=20), model, x, y).inputs
    clean, robust = (100 * float((model.eval()(batch).argmax(1) == y).float().mean()) for batch in (x, adversarial))
    axis.scatter(clean, robust)
    axis.annotate(f"β = {beta:g}", (clean, robust), textcoords="offset points", xytext=(6, 4))

axis.set(xlabel="clean accuracy in %", ylabel="accuracy under PGD-20 in %")
axis.margins(0.25)
figure.savefig(sys.argv[1], dpi=110)
