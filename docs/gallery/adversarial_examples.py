"""Adversarial examples of a standard and of a robust model.

Each model sees its own adversarial examples, which PGD finds with its gradient, within eps 0.2. The title of an image
is what the model answers: the standard model gets all six wrong, the one that was trained by PGD half of them.
"""

import sys

import matplotlib.pyplot as plt
import torch

from toolkit_ext import backbones, data
from toolkit_ext.attacks import PGD, generate
from toolkit_ext.trainers import PGDTrainer, StandardTrainer, as_classifier

digits = data.load("digits")
x, y = digits.x_test[:6], digits.y_test[:6]
figure, axes = plt.subplots(3, 6, figsize=(7, 4), layout="constrained")
for axis, image, label in zip(axes[0], x, y, strict=True):
    axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
    axis.set_title(f"{label}", fontsize=9)

rows = {"standard": (axes[1], StandardTrainer, {}), "pgd": (axes[2], PGDTrainer, {"eps": 0.2, "steps": 5})}
for name, (row, trainer_class, options) in rows.items():
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=4)
    trainer = trainer_class(as_classifier(model, (1, 8, 8), 10), lr=0.05, **options)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=10)
    adversarial = generate(PGD(eps=0.2, steps=20), model, x, y).inputs
    answers = model.eval()(adversarial).argmax(1)
    for axis, image, answer in zip(row, adversarial, answers, strict=True):
        axis.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
        axis.set_title(f"{answer}", fontsize=9)
    row[0].set_ylabel(name)

axes[0, 0].set_ylabel("clean")
for axis in axes.flat:
    axis.set(xticks=[], yticks=[])
figure.savefig(sys.argv[1], dpi=110)
