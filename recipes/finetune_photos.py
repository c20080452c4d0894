"""Fine-tune ImageNet weights on photographs of ten classes: standard, PGD and TRADES training at eps 4/255.

    python recipes/finetune_photos.py --weights tf_efficientnet_lite0.safetensors --data-root data

timm's ``tf_efficientnet_lite0`` at 128 pixels, on ``DIR/imagenette160/{train,test}/CLASS/*``: 1,200 and 400 images. The
arms have the same epochs, batches and learning rate; attacks of training take five steps. APGD-CE and APGD-T attack
``--n-test`` images, the whole of AutoAttack ``--n-autoattack`` of them, each with a record of its own. Recorded runs
are skipped and an interrupted one resumes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import click

from toolkit_ext import results
from toolkit_ext.claims.probes import other_attacks
from toolkit_ext.claims.recipe import run_probe
from toolkit_ext.cli import console, guarded
from toolkit_ext.cli.options import NATURAL
from toolkit_ext.experiments.experiment import run
from toolkit_ext.experiments.recipe import script, smoke
from toolkit_ext.experiments.settings import Experiment, RunContext

# The weights have no robustness to begin with, so eps rises first. Two steps of 3/255 were too few: the model withstood
# them, but neither more steps nor AutoAttack.
FEW_STEPS: dict[str, Any] = {
    **{"eps": 4 / 255, "alpha": 1.5 / 255, "steps": 5},
    **{"schedule": "warmup", "eps_warmup_epochs": 5.0},
}
ARMS: dict[str, dict[str, Any]] = {"standard": {}, "pgd": FEW_STEPS, "trades": {**FEW_STEPS, "trades_beta": 6.0}}
SETTING: dict[str, Any] = {
    **{"optimizer": "adamw", "lr": 3e-4, "lr_schedule": "onecycle", "weight_decay": 0.01},
    **{"augment": "flip", "validation_fraction": 0.0, "measure_every": 5},
}


def experiment(method: str, weights: str, seed: int) -> Experiment:
    """The training of ``method``; the clean accuracy is that of all test images, and of the last epoch."""
    return Experiment(
        method,
        data="folder:imagenette160",
        reading={"image_size": 128},
        backbone="tf_efficientnet_lite0",
        weights=weights,
        hyper_parameters={**SETTING, **ARMS[method]},
        epochs=15,
        batch_size=32,
        n_test=400,
        protocol="linf_4_255",
        attacks=("clean",),
        seed=seed,
    )


@script(__doc__)
@click.option("--weights", default="pretrained", show_default=True, help="ImageNet weights: a file, or timm's download")
@click.option("--n-test", type=NATURAL, default=400, show_default=True, help="images that APGD-CE and APGD-T attack")
@click.option("--n-autoattack", type=NATURAL, default=50, show_default=True, help="images that AutoAttack attacks")
@click.option("--seed", default=0, show_default=True, help="seed of the head, batches and attacks")
def main(context: RunContext, small: bool, weights: str, n_test: int, n_autoattack: int, seed: int) -> None:
    context = replace(context, resume=True, tables=("finetune_photos",))
    runs = [experiment(method, weights, seed) for method in ARMS]
    if small:
        runs = [smoke(replace(chosen, weights=None, reading={})) for chosen in runs]
    trained = [run(chosen, context) for chosen in runs]
    for n, attacks in ((n_test, ("clean", "apgd_ce_t")), (n_autoattack, ("clean", "aa"))):
        probe, name = other_attacks(n, attacks), f"{attacks[-1]}-{n}"
        attacked = [run_probe(name, probe, *pair, context) for pair in zip(runs, trained, strict=True)]
        console.show_table(console.results_table(attacked))
    for path in results.rebuild(context.results):
        console.say(f"table: {path}")


if __name__ == "__main__":
    guarded(main)
