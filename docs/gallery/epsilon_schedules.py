"""Schedules of epsilon.

A schedule says how large eps is at each point of the training. `warmup` helps where training at the full eps fails to
start; `periodic` is that of PAS, whose learning rate restarts with it.
"""

import sys

import matplotlib.pyplot as plt

from toolkit_ext.schedules import Constant, Periodic, Warmup

EPOCHS, EPS = 12, 0.3
schedules = {
    "constant": Constant(),
    "warmup": Warmup(eps_warmup_epochs=4),
    "periodic, cosine": Periodic(periods=3, eps_per="batch"),
    "periodic, linear": Periodic(periods=3, eps_per="batch", eps_shape="linear"),
}
figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
times = [EPOCHS * step / 500 for step in range(500)]
for style, (name, schedule) in zip(("-", "--", "-.", ":"), schedules.items(), strict=True):
    axis.plot(times, [schedule.bind(EPOCHS).eps(time, EPS) for time in times], style, label=name)

axis.set(xlabel="epoch", ylabel="eps")
axis.legend(loc="lower right")
figure.savefig(sys.argv[1], dpi=110)
