"""PGD training of a small ConvNeXt with a convolutional stem on CIFAR-10 at eps 8/255, as for ImageNet.

Singh, Croce, Hein: Revisiting adversarial training for ImageNet: architectures, training and generalization across
threat models. NeurIPS 2023. Claim: with a convolutional stem, heavy augmentation and a moving average of the weights,
two attack steps train a ConvNeXt-T to 72.7% clean accuracy and 49.5% under AutoAttack (ImageNet, eps 4/255). (Here the
network is ConvNeXt-Atto, its stem that of timm, the attack PGD instead of APGD, and images are cropped and flipped.)
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10(
    "pgd",
    backbone="convnext_atto",
    backbone_args={"stem_type": "overlap_tiered", "drop_path_rate": 0.1},
    eps=8 / 255,
    steps=2,
    optimizer="adamw",
    lr=1e-3,
    milestones=(),
    lr_schedule="cosine",
    warmup_epochs=20.0,
    weight_decay=0.05,
    label_smoothing=0.1,
    ema_decay=0.9999,
    epochs=300,
)
SMALL = {"depths": (1, 1, 1, 1), "dims": (8, 8, 16, 16), "output_stride": 8}

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__, backbone=EXPERIMENT.backbone, backbone_args=SMALL)
