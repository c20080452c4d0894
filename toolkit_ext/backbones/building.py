"""Build any timm classifier with normalisation inside."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import timm
import torch
from timm.models import get_arch_name
from torch import Tensor, nn

from toolkit_ext.backbones.outputs import same_modes
from toolkit_ext.backbones.registry import MEAN, NOT_RECORDED, STD, check_arguments, check_name, timm_cfg
from toolkit_ext.errors import UserError, one_line


class Standardized(nn.Module):
    r"""Any classifier, for images in [0, 1]: :math:`f((x - \mu) / \sigma)`.

    Args:
        backbone: A classifier, ``[N, C, H, W]`` to logits ``[N, K]``.
        mean, std: One value per channel or one for all, in units of [0, 1] images; ``std`` is positive.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: nn.Module, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.backbone = backbone
        # Not in the state dict: as in timm, the values are part of the configuration.
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Logits ``[N, K]`` of images ``[N, C, H, W]`` in [0, 1]."""
        logits: Tensor = self.backbone((x - self.mean) / self.std)
        return logits


class Normalized(Standardized):
    r"""A timm model of images in [0, 1]: :math:`f((x - \mu) / \sigma)`; epsilon means the same for every model.

    Args:
        backbone: A timm classifier, ``[N, C, H, W]`` to logits ``[N, K]``.
        name: Its architecture in timm's registry.
        num_classes: Number of classes K.
        in_chans: Number of channels C.
        image_size: Height and width.
        mean, std: One value per channel, in units of [0, 1] images; ``std`` is positive.
        model_args: Further arguments of the architecture, as plain JSON values.
    """

    def __init__(
        self,
        backbone: nn.Module,
        *,
        name: str,
        num_classes: int,
        in_chans: int,
        image_size: tuple[int, int],
        mean: tuple[float, ...],
        std: tuple[float, ...],
        model_args: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(backbone, mean, std)
        self.name, self.num_classes = name, num_classes
        self.in_chans, self.image_size = in_chans, image_size
        self.model_args = dict(model_args or {})

    def extra_repr(self) -> str:
        return f"name={self.name!r}, num_classes={self.num_classes}, image_size={self.image_size}"


def create(
    name: str,
    *,
    num_classes: int,
    in_chans: int,
    image_size: int | tuple[int, int] | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    pretrained: bool = False,
    small_stem: bool = False,
    **model_args: Any,
) -> Normalized:
    """Make the timm classifier ``name`` with normalisation inside, so that it takes images in [0, 1].

    Args:
        name: Any name of :func:`names`; with ``pretrained`` also a tag (``resnet18.a1_in1k``).
        num_classes: Number of classes, at least 2.
        in_chans: Channels of the images.
        image_size: Height and width of the images, or one number for both; a forward pass checks it. By default the
            architecture's own, unchecked.
        mean, std: Normalisation, one number or one per channel, in units of [0, 1] images. By default those of the
            pretrained weights, else 0.5 and 0.25, which fit natural images and do not depend on the data set.
        pretrained: Start from timm's weights, which timm downloads.
        small_stem: For timm's ResNets: 3 x 3 stem of stride 1 without max-pooling (``resnet_small_stem``).
        **model_args: Further arguments of the architecture, plain JSON values (``width=8``, ``patch_size=4``), and
            timm's own for weights (``pretrained_cfg_overlay={"file": ...}``) and layers (``scriptable``), which are
            not recorded.

    Raises:
        UserError: unknown name, an argument that the architecture or a checkpoint refuses, or images too small for it.
    """
    check_name(name)
    if small_stem:
        if pretrained:
            raise UserError("pretrained: timm has no weights for ResNets with small_stem")
        name, model_args = "resnet_small_stem", {"base": get_arch_name(name), **model_args}
    _check_arguments(num_classes, in_chans, model_args)
    size = _pair(image_size if image_size is not None else model_args.get("img_size"), name)
    backbone = build(name, num_classes, in_chans, size, model_args, pretrained=pretrained)
    model = Normalized(
        backbone,
        name=get_arch_name(name),
        num_classes=num_classes,
        in_chans=in_chans,
        image_size=size,
        mean=_per_channel("mean", mean, name, in_chans, pretrained),
        std=_per_channel("std", std, name, in_chans, pretrained),
        model_args={key: value for key, value in model_args.items() if key not in NOT_RECORDED},
    )
    if image_size is not None:
        _try_out(model)
    try:
        check_arguments(model.model_args)
    except UserError as error:
        raise UserError(f"backbone: a checkpoint of {model.name!r} could not be loaded: {error}") from error
    return model


def build(
    name: str,
    num_classes: int,
    in_chans: int,
    size: tuple[int, int],
    model_args: Mapping[str, Any],
    *,
    pretrained: bool = False,
) -> nn.Module:
    """The timm model without normalisation. Architectures with ``fixed_input_size`` get the image size."""
    arguments = dict(model_args)
    if timm_cfg(name).fixed_input_size and not arguments.get("dynamic_img_size"):
        arguments.setdefault("img_size", size)
    try:
        model: nn.Module = timm.create_model(
            name, pretrained=pretrained, num_classes=num_classes, in_chans=in_chans, **arguments
        )
    except UserError:
        raise
    except Exception as error:  # timm raises any exception for bad arguments
        given = f"{in_chans} x {size[0]} x {size[1]} images" + (f", {dict(model_args)}" if model_args else "")
        what = f"{name!r} with pretrained weights" if pretrained else repr(name)
        raise UserError(f"backbone: {what} cannot be built for {given}: {one_line(error)}") from error
    return model


def _check_arguments(num_classes: int, in_chans: int, model_args: Mapping[str, Any]) -> None:
    if num_classes < 2:
        raise UserError(f"num_classes: {num_classes} is not allowed; a classifier has at least 2 classes")
    if in_chans < 1:
        raise UserError(f"in_chans: {in_chans} is not allowed; images have at least 1 channel")
    for key, value in model_args.items():
        try:
            json.dumps(value)
        except TypeError as error:
            raise UserError(
                f"{key}: {value!r} is not allowed; arguments of a backbone are plain numbers, texts and lists, "
                "because a checkpoint's config.json records them"
            ) from error


def _pair(size: int | Sequence[int] | None, name: str) -> tuple[int, int]:
    if size is None:
        size = timm_cfg(name).input_size[1:]
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 1:
        raise UserError(f"image_size: {size} is not allowed; give one positive number or height and width")
    return pair[0], pair[1]


def _per_channel(
    option: str, value: float | Sequence[float] | None, name: str, in_chans: int, pretrained: bool
) -> tuple[float, ...]:
    if value is None and pretrained:
        own: Sequence[float] = getattr(timm_cfg(name), option)
        # timm sums the first convolution's weights over channels, which matches one grey mean.
        value = own if len(own) == in_chans else sum(own) / len(own)
    elif value is None:
        value = {"mean": MEAN, "std": STD}[option]
    return per_channel(option, value, in_chans)


def per_channel(option: str, value: float | Sequence[float], in_chans: int) -> tuple[float, ...]:
    """The normalisation ``option`` (``mean`` or ``std``) for every channel, from one number or several.

    Raises:
        UserError: another number of channels; a value that is not finite, or a ``std`` that is not positive.
    """
    values = (float(value),) * in_chans if isinstance(value, int | float) else tuple(float(v) for v in value)
    if len(values) != in_chans:
        raise UserError(f"{option}: {len(values)} values for {in_chans} channels; give one number or one per channel")
    tensor = torch.tensor(values)
    if not tensor.isfinite().all() or (option == "std" and not (tensor > 0).all()):
        allowed = "finite and above 0" if option == "std" else "finite"
        raise UserError(f"{option}: {list(values)} is not allowed; every value must be {allowed}")
    return values


def _try_out(model: Normalized) -> None:
    """Check that the model gives ``[1, num_classes]`` logits for one image."""
    size = f"{model.in_chans} x {model.image_size[0]} x {model.image_size[1]}"
    try:
        with torch.random.fork_rng(devices=[]):
            logits = dry_forward(model, (model.in_chans, *model.image_size))
    except Exception as error:
        raise UserError(f"backbone: {model.name!r} cannot take {size} images: {one_line(error)}") from error
    if not isinstance(logits, torch.Tensor) or logits.shape != (1, model.num_classes):
        raise UserError(f"backbone: {model.name!r} is not a classifier; it does not give {model.num_classes} logits")


def dry_forward(model: nn.Module, input_size: tuple[int, ...]) -> Any:
    """The output of ``model`` in evaluation mode for one zero input of ``input_size``."""
    with torch.no_grad(), same_modes(model):
        return model.eval()(next(model.parameters()).new_zeros(1, *input_size))
