"""The small network of TRADES on MNIST, to be named as ``--backbone recipes/small_cnn.py:small_cnn``.

Zhang, Yu, Jiao, Xing, El Ghaoui, Jordan: Theoretically principled trade-off between robustness and accuracy. ICML 2019.
Four convolutions and three linear layers, as in the paper, without the dropout of the authors' code. docs/measured.md
has a training of it.
"""

from __future__ import annotations

from torch import nn


def small_cnn(num_classes: int = 10, in_chans: int = 1, **_: object) -> nn.Module:
    """Logits ``[N, num_classes]`` of images ``[N, in_chans, 28, 28]`` in [0, 1]."""
    layers = [nn.Conv2d(in_chans, 32, 3), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(32, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    layers += [nn.Linear(1024, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, num_classes)]
    return nn.Sequential(*layers)
