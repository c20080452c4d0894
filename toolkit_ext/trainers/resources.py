"""What a run gives to attacks and objectives that need more than their options: networks, and a place for state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from toolkit_ext import backbones
from toolkit_ext.errors import UserError
from toolkit_ext.fast.frozen_copy import plain_copy
from toolkit_ext.trainers.averaging import WeightAverage
from toolkit_ext.trainers.batches import isolated_rng, seed_of
from toolkit_ext.trainers.compose import Axes
from toolkit_ext.trainers.config import LoopConfig
from toolkit_ext.trainers.fine_tuning import make_optimizer
from toolkit_ext.trainers.state import digest
from toolkit_ext.types import AfterStep, Batch, Bindable, GradientReducer, Stateful

_SEED = 3  # of the position of a network's seed, beside those of the loop


class RunResources:
    """The :class:`~toolkit_ext.types.Resources` of a run; it owns the networks and saves them with the run.

    Args:
        input_shape: ``(C, H, W)`` of the run's images.
        num_classes: number of the run's classes.
        device: where the model is trained.
        seed: the run's seed; each network has one of its own.
        exchange: turns means over this process's part of a batch into those over the whole.
        loop: the run's configuration, for optimisers of its networks.
        examples: number of training examples, where they are numbered.
        scheduled: the run makes its own learning-rate schedules.
    """

    def __init__(
        self,
        input_shape: tuple[int, ...],
        num_classes: int,
        device: torch.device,
        exchange: GradientReducer,
        loop: LoopConfig,
        examples: int | None = None,
        scheduled: bool = True,
    ) -> None:
        self.input_shape, self.num_classes, self.device, self.loop = input_shape, num_classes, device, loop
        self.exchange, self.examples, self.scheduled, self.seed = exchange, examples, scheduled, loop.seed
        self.optimizers: list[Optimizer] = []
        self._networks: list[nn.Module] = []
        self._checkpoints: list[str] = []
        self._averages: list[tuple[WeightAverage, nn.Module]] = []

    def backbone(self, name: str, **options: Any) -> nn.Module:
        """A new timm model for the run's classes and images, trainable."""
        channels, height, width = self.input_shape
        with isolated_rng(seed_of(self.seed, _SEED, len(self._networks))):
            model = backbones.create(
                name, num_classes=self.num_classes, in_chans=channels, image_size=(height, width), **options
            )
        self._networks.append(model.to(self.device))
        return model

    def twin(self, model: nn.Module) -> nn.Module:
        """A trainable copy of ``model``; parametrised weights (spectral norm) become plain ones."""
        made = plain_copy(model).train().requires_grad_(True)
        self._networks.append(made)
        return made

    def optimizer(self, network: nn.Module) -> Optimizer:
        """The run's optimiser for ``network``, one rate for all of its layers; the run's schedule moves it.

        Raises:
            UserError: the run's schedule is the caller's.
        """
        if not self.scheduled:
            raise UserError("scheduler: not allowed with an objective that trains a second network; use lr_schedule")
        made = make_optimizer(network, replace(self.loop, layer_decay=1.0, head_lr=0.0), self.device)
        self.optimizers.append(made)
        return made

    def checkpoint(self, path: str | Path) -> nn.Module:
        """The network of a checkpoint folder, frozen, in evaluation mode.

        Raises:
            UserError: there is none, it is damaged, or it has another number of classes.
        """
        model = backbones.load_model(path).to(self.device).eval().requires_grad_(False)
        with torch.no_grad():
            classes = model(torch.zeros(1, *self.input_shape, device=self.device)).shape[-1]
        if classes != self.num_classes:
            raise UserError(f"checkpoint {path}: has {classes} classes; the run has {self.num_classes}")
        self._checkpoints.append(digest(*model.state_dict().values()))
        return model

    def moving_copy(self, model: nn.Module, decay: float) -> nn.Module:
        """A frozen copy, ``θ' ← decay θ' + (1 − decay) θ`` after each step of the update (buffers too)."""
        average = WeightAverage(model, decay)
        average.requires_grad_(False)
        self._averages.append((average, model))
        return average.module

    def after_step(self) -> None:
        """Move the moving copies on."""
        for average, model in self._averages:
            average.update_parameters(model)

    def state_dict(self) -> dict[str, Any]:
        """The networks in the order in which they were asked for, and what identifies the checkpoints."""
        networks = [network.state_dict() for network in self._networks]
        averages = [average.state_dict() for average, _ in self._averages]
        found = {"networks": networks, "averages": averages, "checkpoints": list(self._checkpoints)}
        optimizers = [optimizer.state_dict() for optimizer in self.optimizers]
        return found | ({"optimizers": optimizers} if optimizers else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned.

        Raises:
            UserError: a checkpoint holds other weights than the run began with.
        """
        if list(state["checkpoints"]) != self._checkpoints:
            raise UserError("resume: a checkpoint that the objective loads has other weights than the run began with")
        for network, saved in zip(self._networks, state["networks"], strict=True):
            network.load_state_dict(saved)
        for (average, _), saved in zip(self._averages, state["averages"], strict=True):
            average.load_state_dict(saved)
        for optimizer, saved in zip(self.optimizers, state.get("optimizers", ()), strict=True):
            optimizer.load_state_dict(saved)


class Extensions:
    """The choices of a run that bind, keep state or move on after a step, and the run's resources for them."""

    def __init__(self, axes: Axes, model: nn.Module, resources: RunResources) -> None:
        self.resources, self.given = resources, axes  # as given, before they are bound
        bound = {name: getattr(axes, name) for name in ("attack", "objective")}
        for name, choice in bound.items():
            if isinstance(choice, Bindable):
                bound[name] = choice.bind(model, resources)
        self.axes = replace(axes, **bound)
        self._stateful = {name: choice for name, choice in bound.items() if isinstance(choice, Stateful)}
        self._moving = [choice for choice in bound.values() if isinstance(choice, AfterStep)]

    def after_step(self, model: nn.Module, batch: Batch) -> None:
        """Let every choice, and the moving copies, follow a step of the update."""
        for choice in self._moving:
            choice.after_step(model, batch)
        self.resources.after_step()

    def state_dict(self) -> dict[str, Any]:
        """The state of all; empty where nothing has any, so that such runs save what they always saved."""
        found = {name: choice.state_dict() for name, choice in self._stateful.items()}
        resources = self.resources.state_dict()
        return found | ({"resources": resources} if any(resources.values()) else {})

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`state_dict` returned."""
        for name, choice in self._stateful.items():
            choice.load_state_dict(state[name])
        if "resources" in state:
            self.resources.load_state_dict(state["resources"])
