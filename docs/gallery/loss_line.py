"""The adversarial loss along a line in the weights.

Both models move along a random direction, filter-normalised as Li et al. (NeurIPS 2018) propose, and are attacked anew
at every point. The picture shows how the loss on clean and on adversarial images grows on the way.
"""

import sys

import matplotlib.pyplot as plt
import torch
from torch.nn.utils import parameters_to_vector

from toolkit_ext import backbones, data
from toolkit_ext.attacks import PGD
from toolkit_ext.landscape import Plane, filter_normalised, loss_surface
from toolkit_ext.trainers import PGDTrainer, StandardTrainer, as_classifier

digits = data.load("digits")
points = [round(0.1 * step - 0.5, 1) for step in range(11)]
figure, axes = plt.subplots(1, 2, figsize=(7, 3.2), layout="constrained", sharey=True)

for axis, name, trainer_class, options in [
    (axes[0], "standard", StandardTrainer, {}),
    (axes[1], "pgd at eps 0.1", PGDTrainer, {"eps": 0.1, "steps": 5}),
]:
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=4)
    trainer = trainer_class(as_classifier(model, (1, 8, 8), 10), lr=0.05, **options)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=10)
    line = Plane(parameters_to_vector(model.parameters()).detach(), filter_normalised(model, seed=0))
    found = loss_surface(model, PGD(eps=0.1, steps=5), digits.x_train[:200], digits.y_train[:200], line, points)
    axis.plot(found["a"], found["clean_loss"], label="clean")
    axis.plot(found["a"], found["adv_loss"], label="adversarial", linestyle="--")
    axis.set(title=name, xlabel="distance a along the direction")

axes[0].set(ylabel="cross-entropy", yscale="log")
axes[0].legend()
figure.savefig(sys.argv[1], dpi=110)
