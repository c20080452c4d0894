"""PGD training of ConvNeXt-T on ImageNet at eps 4/255, from clean weights, on the GPUs of one or several machines.

    torchrun --nproc_per_node=8 recipes/imagenet.py --weights convnext_tiny.safetensors --data-root data --resume

Singh, Croce, Hein: Revisiting adversarial training for ImageNet: architectures, training and generalization across
threat models. NeurIPS 2023. Claim: from clean weights, with two steps of APGD and heavy augmentation, ConvNeXt-T with a
convolution stem has 72.7% clean and 49.5% robust accuracy after 300 epochs (the table of the authors' repository).

The settings are those of the authors' code (github.com/nmndeep/revisiting-at) for up to 100 epochs, with 80 images on
each of 8 GPUs. Different here: timm's stem, PGD for APGD, torchvision's RandAugment, no random erasing, crops of centre
crops, Adam's second beta 0.999, bf16 for fp16. Images are streamed from ``DIR/imagenet/{train,val}/CLASS/*``.
``--smoke`` trains a small ConvNeXt for one epoch on a few photographs in ``DIR/imagenette160``. The full run has not
been made.
"""

from __future__ import annotations

from dataclasses import replace

import click

from toolkit_ext.cli import console, guarded
from toolkit_ext.experiments.experiment import run
from toolkit_ext.experiments.recipe import script, smoke, with_hyper_parameters
from toolkit_ext.experiments.settings import Experiment, RunContext

EXPERIMENT = Experiment(
    "pgd",
    data="folder:imagenet",
    reading={"image_size": 224},
    backbone="convnext_tiny",
    hyper_parameters={
        **{"eps": 4 / 255, "steps": 2, "label_smoothing": 0.1},
        **{"augment": "resized-crop-flip", "auto_augment": "rand", "mixup": 0.8, "cutmix": 1.0},
        **{"optimizer": "adamw", "lr": 1e-3, "weight_decay": 0.05, "lr_schedule": "cosine", "warmup_epochs": 10.0},
        **{"ema_decay": 0.9999, "precision": "bf16-mixed"},
        **{"validation_fraction": 0.01, "validation_limit": 1000, "measure_every": 5},
    },
    epochs=50,
    batch_size=640,
    n_test=5000,
    protocol="linf_4_255",
    attacks=("clean", "aa"),
)


def photographs(experiment: Experiment) -> Experiment:
    """The smoke test of ``experiment`` on a few photographs, with a narrow ConvNeXt."""
    # bf16 is slow in depthwise convolutions on CPUs.
    short = with_hyper_parameters(smoke(experiment), {"validation_fraction": 0.25, "precision": "fp32"})
    return replace(
        short,
        data="folder:imagenette160",
        reading={"image_size": 64},
        backbone="convnext_atto",
        backbone_args={"depths": [1, 1, 1, 1], "dims": [8, 8, 16, 16]},
        batch_size=16,
        n_train=48,
        weights=None,
        protocol=experiment.protocol,
    )


@script(__doc__)
@click.option("--weights", default="pretrained", show_default=True, help="clean weights: a file, or timm's download")
@click.option("--seed", default=0, show_default=True, help="seed of batches and attacks")
@click.option("--resume", is_flag=True, help="go on from the checkpoint of the same run")
def main(context: RunContext, small: bool, weights: str, seed: int) -> None:
    chosen = replace(EXPERIMENT, weights=weights, seed=seed)
    record = run(photographs(chosen) if small else chosen, replace(context, in_memory="off"))
    console.show_table(console.results_table([record]))


if __name__ == "__main__":
    guarded(main)
