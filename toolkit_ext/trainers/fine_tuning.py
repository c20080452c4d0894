"""The optimiser of a run, and what fine-tuning changes in it: frozen modules, rates of layers, a rate of the head."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from timm.optim import create_optimizer_v2, get_optimizer_info, param_groups_layer_decay
from torch import Tensor, nn
from torch.optim import SGD, Adam, AdamW, Optimizer

from toolkit_ext.backbones.building import Standardized
from toolkit_ext.backbones.head import head_names, in_head
from toolkit_ext.errors import UserError, one_line
from toolkit_ext.trainers.config import OPTIMIZERS, LoopConfig
from toolkit_ext.updates.plain import check_inner

ALL_BUT_HEAD = "backbone"


def make_optimizer(model: nn.Module, loop: LoopConfig, device: torch.device) -> Optimizer:
    """The optimiser of all trainable weights; one fused kernel where ``fused_optimizer`` says so.

    Raises:
        UserError: no trainable weight; ``fused_optimizer="on"`` where there is no such kernel; an optimiser of timm
            that does not fit.
    """
    weights = _groups(model, loop)
    if not weights:
        raise UserError("freeze: leaves no weights to train; name fewer modules")
    if loop.optimizer not in OPTIMIZERS:
        return _of_timm(weights, loop)
    fused = True if loop.fused_optimizer == "on" or (loop.fused_optimizer == "auto" and device.type == "cuda") else None
    try:
        if loop.optimizer == "sgd":
            return SGD(weights, lr=loop.lr, momentum=loop.momentum, weight_decay=loop.weight_decay, fused=fused)
        kind = Adam if loop.optimizer == "adam" else AdamW
        betas = (loop.momentum, 0.999)
        return kind(weights, lr=loop.lr, betas=betas, weight_decay=loop.weight_decay, fused=fused)
    except RuntimeError as error:
        raise UserError(f"fused_optimizer: 'on' is not possible on {device.type}: {error}; use auto") from error


def _of_timm(weights: Sequence[Any], loop: LoopConfig) -> Optimizer:
    name = loop.optimizer
    if loop.fused_optimizer == "on":
        raise UserError(f"fused_optimizer: 'on' is not possible with {name}; use auto")
    more = {"betas": (loop.momentum, 0.999)} if get_optimizer_info(name).num_betas == 2 else {}
    values = {"lr": loop.lr, "weight_decay": loop.weight_decay, "momentum": loop.momentum}
    try:
        made: Optimizer = create_optimizer_v2(weights, opt=name, **values, **more)
    except Exception as error:  # missing packages, unsupported weights
        raise UserError(f"optimizer: {name!r} cannot be made ({one_line(error, 200)})") from error
    check_inner("optimizer", made)
    return made


def _groups(model: nn.Module, loop: LoopConfig) -> list[Any]:
    """The trainable weights; in groups with rates of their own, the highest first, where the options ask for them."""
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if loop.head_lr == 0 and loop.layer_decay == 1:
        return weights
    net = _inside(model)
    head = {id(weight) for weight in _of_head(net)}
    if loop.layer_decay < 1:
        scaled = param_groups_layer_decay(net, layer_decay=loop.layer_decay, weight_decay_exclude_1d=False)
        groups = [(group["params"], loop.lr * group["lr_scale"]) for group in scaled]
    else:
        groups = [(weights, loop.lr)]
    if loop.head_lr:
        rest = [([weight for weight in part if id(weight) not in head], rate) for part, rate in groups]
        groups = [*rest, ([weight for weight in weights if id(weight) in head], loop.head_lr)]
    made = [{"params": part, "lr": rate} for part, rate in groups if part]
    return sorted(made, key=lambda group: -group["lr"])


def _inside(model: nn.Module) -> nn.Module:
    return model.backbone if isinstance(model, Standardized) else model


def _of_head(net: nn.Module) -> list[Tensor]:
    held = in_head(net)
    return [weight for name, weight in net.named_parameters() if held(name)]


@contextmanager
def frozen(model: nn.Module, names: Iterable[str]) -> Iterator[None]:
    """Within the context, the weights of the modules ``names`` do not train and their batch norms stay in eval mode.

    Args:
        model: The model that is trained.
        names: Names of modules of the network, or ``backbone`` for all but the head.

    Raises:
        UserError: no such module.
    """
    net = _inside(model)
    modules = [module for name in names for module in _named(net, name)]
    weights = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    hooks = [part.register_forward_pre_hook(_stay_in_eval) for module in modules for part in module.modules()]
    try:
        for weight in weights:
            weight.requires_grad_(False)
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for weight in weights:
            weight.requires_grad_(True)


def _named(net: nn.Module, name: str) -> list[nn.Module]:
    found = dict(net.named_modules())
    if name in found and name:
        return [found[name]]
    if name != ALL_BUT_HEAD:
        known = ", ".join(child for child, _ in net.named_children())
        raise UserError(f"freeze: {name!r} is no module of the network; give backbone (all but the head), {known}")
    heads = head_names(net)
    around = {".".join(head.split(".")[:end]) for head in heads for end in range(len(head.split(".")))}
    inside = [part for part in found if any(part == head or part.startswith(f"{head}.") for head in heads)]
    kept = {*around, *inside, ""}
    return [module for part, module in found.items() if part not in kept]


def _stay_in_eval(module: nn.Module, inputs: Any) -> None:
    module.training = False
