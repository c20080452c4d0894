"""PGD training of a small ViT on CIFAR-10 at eps 8/255, by a light recipe for ImageNet.

Debenedetti, Sehwag, Mittal: A light recipe to train robust vision transformers. SaTML 2023. Claim: vision transformers
are robust when they are trained without strong augmentation, with a weight decay of 0.5 and an eps that rises over the
first 10 epochs. Gradients are clipped at norm 1, as by Mo, Wu, Wang, Guo, Wang: When adversarial training meets vision
transformers. NeurIPS 2022. (The papers train larger networks; here patches have 4 x 4 pixels and the attack two steps.)
"""

from toolkit_ext.experiments.recipe import cifar10, recipe

EXPERIMENT = cifar10(
    "pgd",
    backbone="vit_tiny_patch16_224",
    backbone_args={"patch_size": 4, "drop_path_rate": 0.05},
    eps=8 / 255,
    steps=2,
    schedule="warmup",
    eps_warmup_epochs=10.0,
    optimizer="adamw",
    lr=5e-4,
    milestones=(),
    lr_schedule="cosine",
    warmup_epochs=10.0,
    weight_decay=0.5,
    label_smoothing=0.1,
    clip_grad=1.0,
    epochs=100,
)
SMALL = {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}

if __name__ == "__main__":
    recipe(EXPERIMENT, __doc__, backbone=EXPERIMENT.backbone, backbone_args=SMALL)
