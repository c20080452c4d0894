"""Robust accuracy against eps.

One number at one radius hides how a model fails. `evaluate_budgets` attacks at several radii and does not repeat what
was broken at a smaller one. Both models are attacked by APGD on the cross-entropy, the first attack of AutoAttack.
"""

import sys
from dataclasses import replace

import matplotlib.pyplot as plt
import torch

from toolkit_ext import backbones, data
from toolkit_ext.evaluation import evaluate_budgets, load_protocol
from toolkit_ext.trainers import PGDTrainer, StandardTrainer, as_classifier

EPS = [0.02, 0.05, 0.1, 0.15, 0.2, 0.3]
digits = data.load("digits")
protocol = replace(load_protocol("linf_0.1_digits"), attacks=("clean", "apgd_ce"))
figure, axis = plt.subplots(figsize=(5.5, 3.6), layout="constrained")

for name, trainer_class, options in [
    ("standard", StandardTrainer, {}),
    ("pgd at eps 0.1", PGDTrainer, {"eps": 0.1, "steps": 5}),
]:
    torch.manual_seed(0)
    model = backbones.create("lenet", num_classes=10, in_chans=1, image_size=8, width=4)
    trainer = trainer_class(as_classifier(model, (1, 8, 8), 10), lr=0.05, **options)
    trainer.fit(digits.x_train, digits.y_train, nb_epochs=10)
    found = evaluate_budgets(model, digits.x_test[:200], digits.y_test[:200], protocol, EPS, progress=False)
    accuracies = [found[0].metrics["clean_acc"], *(each.metrics["apgd_ce_acc"] for each in found)]
    axis.plot([0, *EPS], [100 * accuracy for accuracy in accuracies], marker="o", label=name)

axis.set(xlabel="eps (Linf)", ylabel="accuracy in %", ylim=(0, 100))
axis.legend()
figure.savefig(sys.argv[1], dpi=110)
