"""Accuracy under common corruptions: every kind at every severity, and the mean; resumable."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from toolkit_ext.data import CorruptedImages, ImageSet, to_unit
from toolkit_ext.data.corruptions import KINDS, SEVERITIES
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.loading.adapters import Classifier
from toolkit_ext.evaluation.loading.checks import Subject, hash_model, opened_as_is
from toolkit_ext.evaluation.running.state import State, shared_state
from toolkit_ext.evaluation.settings import batch_size_of, float32_arithmetic
from toolkit_ext.ranks import Ranks, current
from toolkit_ext.tensors import hash_tensors


class Corruption(Protocol):
    """The images of a test under a kind of corruption at a severity, from 1 to 5."""

    @property
    def name(self) -> str:
        """Where they come from, such as ``cifar10-c``."""

    @property
    def package(self) -> str:
        """What made them, with its version."""

    def __call__(self, kind: str, severity: int) -> ImageSet:
        """The images ``[N, C, H, W]``, in the order of the uncorrupted ones."""


@dataclass(frozen=True, eq=False)
class CorruptionAccuracy:
    """The result of :func:`evaluate_corruptions`.

    Attributes:
        right: By kind, ``[5, N]`` bool: which images are classified correctly at each severity.
        settings: Source and package of the corrupted images, batch size, arithmetic, and the SHA-256 of the model and
            of the uncorrupted images with their labels.
        seconds: Wall time.
    """

    right: Mapping[str, Tensor]
    settings: Mapping[str, Any]
    seconds: float

    def accuracy(self, kind: str | None = None, severity: int | None = None) -> float:
        """Mean over the images, and over the kinds and severities where none is given."""
        chosen = [self.right[kind]] if kind else list(self.right.values())
        rows = torch.stack(chosen)
        return float((rows if severity is None else rows[:, SEVERITIES.index(severity)]).double().mean())

    def to_dict(self) -> dict[str, Any]:
        """The ``mean``, and the accuracy of each kind and severity in ``kinds``, each severity; for JSON."""
        return {
            "mean": self.accuracy(),
            "severities": [self.accuracy(severity=severity) for severity in SEVERITIES],
            "kinds": {kind: [self.accuracy(kind, severity) for severity in SEVERITIES] for kind in self.right},
            "settings": dict(self.settings),
            "seconds": round(self.seconds, 3),
        }


def evaluate_corruptions(
    model: Classifier,
    x: Tensor | ImageSet | Dataset[Any] | DataLoader[Any],
    y: Tensor | None,
    corruption: Corruption | None = None,
    *,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    state_dir: str | Path | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    fresh: bool = False,
) -> CorruptionAccuracy:
    """Accuracy of ``model`` under the 15 common corruptions at 5 severities.

    The mean, over kinds c and severities s, is 1/75 Σ_c Σ_s acc(c, s): 1 less the mean corruption error, without the
    paper's division by the errors of AlexNet.

    Args:
        model: As for :func:`toolkit_ext.evaluation.evaluate`.
        x: Images ``[N, 3, H, W]``, floats in [0, 1] or uint8, or a torch ``Dataset`` or ``DataLoader``.
        y: Index labels ``[N]``; None with a ``Dataset`` or ``DataLoader``.
        corruption: Gives the corrupted images; by default :class:`toolkit_ext.data.CorruptedImages` of ``x``.
        batch_size: Images classified at once; None takes 250, and fewer of images larger than 3 x 64 x 64.
        device: Checked against the model's device, which is the default.
        state_dir: Folder for finished kinds. After an interruption the same call goes on.
        progress: Show a progress bar.
        num_classes: Number of classes of the data, checked against the model's.
        fresh: Delete what ``state_dir`` holds.

    Raises:
        UserError: bad images, labels, model or option; a ``state_dir`` in use or of another evaluation.

    References:
        Hendrycks and Dietterich: Benchmarking neural network robustness to common corruptions and perturbations. ICLR
        2019, section 4.
    """
    began = time.perf_counter()
    with opened_as_is(model, x, y, device, num_classes, state_dir) as subject:
        ranks = current(subject.device)
        corruption = CorruptedImages(subject.x) if corruption is None else corruption
        batch_size = batch_size_of(batch_size, subject.x)
        settings = _settings(subject, corruption, batch_size)
        with shared_state(state_dir, settings, ranks, fresh=fresh) as state:
            right = _Job(subject, corruption, batch_size, state, ranks).run(progress=progress)
    return CorruptionAccuracy(right, settings, time.perf_counter() - began)


@dataclass(frozen=True)
class _Job:
    """The evaluation of ``subject``, one kind after the other."""

    subject: Subject
    corruption: Corruption
    batch_size: int
    state: State
    ranks: Ranks

    def run(self, *, progress: bool) -> dict[str, Tensor]:
        """Which images are right, by kind; every rank takes some kinds and returns all."""
        own = {}
        shown = progress and self.ranks.is_first
        for kind in tqdm(KINDS[self.ranks.rank :: self.ranks.size], "corruptions", disable=None if shown else True):
            own[kind] = self._kind(kind)
        found = {kind: right for part in self.ranks.gather(own) for kind, right in part.items()}
        return {kind: found[kind] for kind in KINDS}

    def _kind(self, kind: str) -> Tensor:
        name = f"corruption-{kind}"
        if stored := self.state.load(name):
            return stored[0]["right"]
        right = torch.stack([self._right(self.corruption(kind, severity)) for severity in SEVERITIES])
        self.state.save(name, {"right": right}, {})
        return right

    def _right(self, images: ImageSet) -> Tensor:
        """``[N]`` bool: which of the corrupted ``images`` are classified correctly."""
        if images.shape != tuple(self.subject.x.shape):
            shapes = f"images {list(images.shape)}, not {list(self.subject.x.shape)}"
            raise UserError(f"corruptions: {self.corruption.name} has {shapes}")
        parts, found = torch.arange(len(images)).split(self.batch_size), []
        with torch.no_grad():
            for part, x in zip(parts, images.batches(parts), strict=True):
                y = self.subject.y[part].to(self.subject.device)
                found.append((self.subject.model(to_unit(x.to(self.subject.device))).argmax(dim=1) == y).cpu())
        return torch.cat(found)


def _settings(subject: Subject, corruption: Corruption, batch_size: int) -> dict[str, Any]:
    return {
        "source": corruption.name,
        "package": corruption.package,
        "batch_size": batch_size,
        "float32": float32_arithmetic(),
        "model_sha256": hash_model(subject.model),
        "data_sha256": hash_tensors([("x", subject.x), ("y", subject.y)]),
    }
