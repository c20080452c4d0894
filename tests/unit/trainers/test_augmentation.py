"""Augmentation and mixing by their formulas: what images and labels of a batch become, image by image."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from toolkit_ext.errors import UserError
from toolkit_ext.trainers.augmentation import Augmentation, augment, check_channels
from toolkit_ext.trainers.config import LoopConfig

K = 4
Y = torch.tensor([0, 1, 2, 3, 0, 2])
X = torch.rand(6, 3, 10, 8, generator=torch.Generator().manual_seed(0))


def augmented(seed: int = 0, x: Tensor = X, **options: Any) -> tuple[Tensor, Tensor]:
    torch.manual_seed(seed)
    return Augmentation(LoopConfig(**options), K)(x, Y[: len(x)])


def share(labels: Tensor) -> float:
    """The weight of an example's own class; each is mixed with the one before it, of another class."""
    own = labels.gather(1, Y[:, None])[:, 0]
    before = labels.gather(1, Y.roll(1)[:, None])[:, 0]
    torch.testing.assert_close(own + before, torch.ones(6))
    assert own.max() - own.min() < 1e-6
    return float(own[0])


def patch_of(mixed: Tensor) -> Tensor:
    """Which pixels of a batch are those of the neighbour, ``[H, W]``: the same in all images, in one rectangle."""
    foreign = (mixed == X.roll(1, 0)).all(1)
    assert ((mixed == X).all(1) ^ foreign).all()
    assert (foreign == foreign[0]).all()
    inside = foreign[0].nonzero()
    if len(inside):
        (top, left), (bottom, right) = inside.amin(0).tolist(), inside.amax(0).tolist()
        assert len(inside) == (bottom - top + 1) * (right - left + 1)
    return foreign[0]


def test_mixup_is_a_convex_combination_of_neighbours() -> None:
    shares = set()
    for seed in range(10):
        images, labels = augmented(seed, mixup=1.0)
        lam = share(labels)
        torch.testing.assert_close(images, lam * X + (1 - lam) * X.roll(1, 0))
        shares.add(round(lam, 6))
    assert len(shares) == 10
    assert all(0 < lam < 1 for lam in shares)


def test_cutmix_pastes_one_rectangle_and_weighs_labels_by_its_area() -> None:
    areas = set()
    for seed in range(10):
        images, labels = augmented(seed, cutmix=1.0)
        area = float(patch_of(images).float().mean())
        assert share(labels) == pytest.approx(1 - area, abs=1e-6)
        areas.add(area)
    assert len(areas) > 5


def test_both_take_turns_and_mix_prob_leaves_batches_alone() -> None:
    met = {"none": 0, "mixup": 0, "cutmix": 0}
    for seed in range(40):
        images, labels = augmented(seed, mixup=1.0, cutmix=1.0, mix_prob=0.6)
        assert labels.shape == (6, K)  # one form of labels for the whole run
        if share(labels) == 1:
            assert torch.equal(images, X)
            met["none"] += 1
        else:
            met["cutmix" if torch.isin(images, X).all() else "mixup"] += 1
    assert min(met.values()) >= 6


def test_labels_stay_classes_where_nothing_is_mixed() -> None:
    images, labels = augmented(augment="flip", auto_augment="trivial")
    assert torch.equal(labels, Y)
    assert images.shape == X.shape


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    "options",
    [
        {"auto_augment": "rand"},
        {"auto_augment": "rand", "rand_ops": 1, "rand_magnitude": 30},
        {"auto_augment": "trivial"},
    ],
    ids=["rand", "strong", "trivial"],
)
def test_policies_change_each_image_by_itself(options: dict[str, Any], channels: int) -> None:
    x = X[:1, :channels].mul(255).round().div(255).repeat(6, 1, 1, 1)
    images, _ = augmented(x=x, **options)
    assert images.min() >= 0
    assert images.max() <= 1
    assert len({image.numpy().tobytes() for image in images}) > 2
    assert torch.equal(images, augmented(x=x, **options)[0])
    assert not torch.equal(images, augmented(1, x=x, **options)[0])
    torch.testing.assert_close(images.mul(255), images.mul(255).round(), atol=1e-4, rtol=0)  # of 8 bits


def test_resized_crop_cuts_a_part_of_each_image_out() -> None:
    ramp = torch.linspace(0, 1, 16).expand(5, 1, 16, 16).contiguous()
    torch.manual_seed(0)
    cropped = augment(ramp, "resized-crop", scale=0.2)
    assert cropped.shape == ramp.shape
    spans = cropped[:, 0, 0, -1] - cropped[:, 0, 0, 0]
    assert (cropped.diff(dim=3) >= -1e-6).all()  # not mirrored
    assert (spans < 1).any()
    assert len(set(spans.tolist())) > 2
    torch.manual_seed(0)
    whole = augment(ramp, "resized-crop", scale=1.0)
    assert (whole[:, 0, 0, -1] - whole[:, 0, 0, 0]).min() > spans.min()
    torch.manual_seed(0)
    mirrored = augment(ramp, "resized-crop-flip", scale=0.2)
    falls = mirrored[:, 0, 0, 0] > mirrored[:, 0, 0, -1]
    assert 0 < int(falls.sum()) < 5


REFUSED: dict[str, dict[str, Any]] = {
    "augment": {"augment": "resize"},
    "auto_augment": {"auto_augment": "auto"},
    "crop_scale": {"crop_scale": 0},
    "rand_ops": {"rand_ops": 0},
    "rand_magnitude": {"rand_magnitude": 31},
    "mixup": {"mixup": -0.1},
    "cutmix": {"cutmix": float("inf")},
    "mix_prob": {"mix_prob": 0},
}


@pytest.mark.parametrize("name", REFUSED)
def test_values_that_are_not_allowed(name: str) -> None:
    with pytest.raises(UserError, match=rf"^{name}: .* is not (allowed|known)") as caught:
        LoopConfig(**REFUSED[name])
    assert "\n" not in str(caught.value)


def test_policies_take_grey_and_colour_alone() -> None:
    with pytest.raises(UserError, match="auto_augment: rand is not allowed for images of 2 channels; 1 or 3"):
        check_channels(LoopConfig(auto_augment="rand"), 2)
    check_channels(LoopConfig(augment="resized-crop-flip", mixup=1.0), 2)
    assert augmented(x=torch.rand(6, 2, 8, 8), augment="resized-crop-flip", mixup=1.0)[0].shape == (6, 2, 8, 8)
