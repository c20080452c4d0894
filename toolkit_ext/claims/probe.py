"""Measurements of a trained model that are not its evaluation: similarity of perturbations, ensembles, attacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from toolkit_ext import backbones
from toolkit_ext.data import Dataset
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Evaluation
from toolkit_ext.experiments.experiment import Experiment


@dataclass(frozen=True)
class Trained:
    """A finished training: what was run, the folder of its checkpoints, its data, and where to compute."""

    experiment: Experiment
    folder: Path
    dataset: Dataset
    device: torch.device

    def model(self, name: str = "best") -> backbones.Normalized:
        """The checkpoint ``best``, ``last`` or ``snapshot-NNN``.

        Raises:
            UserError: the checkpoint is not there.
        """
        if not (self.folder / name).is_dir():
            raise UserError(f"output: {self.folder / name} is missing; remove the run's record to train it again")
        return backbones.load_model(self.folder / name, device=self.device)


@dataclass(frozen=True)
class Found:
    """What a probe found: facts (``*_acc`` and ``*_err`` as fractions), and an evaluation if it made one."""

    facts: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Evaluation | None = None


Probe = Callable[[Trained], Found]
