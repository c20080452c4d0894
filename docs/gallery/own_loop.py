"""Adversarial model perturbation in your own loop.

`AMP` wraps any torch optimiser and takes a closure, as sharpness-aware optimisers do. The loop is plain PyTorch. The
picture shows the training loss at random distances from the trained weights: AMP searches for flatter minima.
"""

import sys
from functools import partial

import matplotlib.pyplot as plt
import torch
from torch.nn.functional import cross_entropy
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from toolkit_ext import backbones, data
from toolkit_ext.landscape import Plane, random_direction
from toolkit_ext.updates import AMP

digits = data.load("digits")
x, y = digits.x_train, digits.y_train
distances = [0.5 * step for step in range(-8, 9)]
figure, axis = plt.subplots(figsize=(5.5, 3.6), layout="constrained")


def trained(name):
    """A network trained by SGD, or by AMP around it, in a plain loop."""
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    if name == "AMP":
        optimizer = AMP(optimizer, epsilon=0.1, inner_lr=1.0)

    def closure(batch):
        optimizer.zero_grad()
        loss = cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        return loss

    for _ in range(20):
        for batch in torch.randperm(len(x)).split(128):
            optimizer.step(partial(closure, batch))
    return model


for name in ("SGD", "AMP"):
    model = trained(name)
    line = Plane(parameters_to_vector(model.parameters()).detach(), random_direction(model, seed=0))
    losses = []
    for distance in distances:
        with torch.no_grad():
            vector_to_parameters(line.at(distance), model.parameters())
            losses.append(float(cross_entropy(model.eval()(x), y)))
    axis.plot(distances, losses, "-" if name == "SGD" else "--", label=name)

axis.set(xlabel="distance from the trained weights (L2)", ylabel="cross-entropy on the training images", yscale="log")
axis.legend()
figure.savefig(sys.argv[1], dpi=110)
