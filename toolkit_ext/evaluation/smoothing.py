"""Certified robustness in L2 by randomised smoothing, with ART's implementation; resumable."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from art.estimators.certification.randomized_smoothing import PyTorchRandomizedSmoothing
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from toolkit_ext.attacks.adapters import ModelView
from toolkit_ext.bounds import SEED
from toolkit_ext.data import ImageSet, to_unit
from toolkit_ext.evaluation.certificates import Certificates, Smoothing
from toolkit_ext.evaluation.loading.adapters import Classifier
from toolkit_ext.evaluation.loading.checks import Subject, hash_model, opened_as_is
from toolkit_ext.evaluation.running.state import State, shared_state
from toolkit_ext.evaluation.settings import batch_size_of, float32_arithmetic, versions
from toolkit_ext.random_state import preserved_generators
from toolkit_ext.ranks import Ranks, current
from toolkit_ext.tensors import hash_tensors

_PART = 10  # images per file of finished ones


def certify(
    model: Classifier,
    x: Tensor | ImageSet | Dataset[Any] | DataLoader[Any],
    y: Tensor | None,
    smoothing: Smoothing | None = None,
    *,
    seed: int = 0,
    batch_size: int | None = None,
    device: torch.device | str | None = None,
    state_dir: str | Path | None = None,
    progress: bool = True,
    num_classes: int | None = None,
    fresh: bool = False,
) -> Certificates:
    """Certify the predictions of a smoothed classifier, by ART's ``PyTorchRandomizedSmoothing``.

    With p the lower Clopper-Pearson bound, at confidence 1 − α, of the probability of the predicted class, the radius
    is R = σ Φ⁻¹(p): the paper's algorithm CERTIFY, which bounds the probability of any other class by 1 − p. For
    p < 1/2 the classifier abstains. Of one image, the noise depends on ``seed`` and its position alone.

    Args:
        model: As for :func:`toolkit_ext.evaluation.evaluate`; best one trained with noise of the same σ.
        x: Images ``[N, C, H, W]``, floats in [0, 1] or uint8, or a torch ``Dataset`` or ``DataLoader``.
        y: Index labels ``[N]``; None with a ``Dataset`` or ``DataLoader``.
        smoothing: Noise, numbers of samples and confidence.
        seed: Seed of the noise.
        batch_size: Noisy copies classified at once; None takes 250, and fewer of images larger than 3 x 64 x 64.
        device: Checked against the model's device, which is the default.
        state_dir: Folder for finished images. After an interruption the same call resumes and gives the same result.
        progress: Show a progress bar.
        num_classes: Number of classes of the data, checked against the model's.
        fresh: Delete what ``state_dir`` holds.

    Raises:
        UserError: bad images, labels, model or option; a ``state_dir`` in use or of another certification.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2, bias=False))
        >>> with torch.no_grad():
        ...     _ = model[1].weight.copy_(torch.tensor([[1.0, 0, 0, 0], [-1.0, 0, 0, 0]]))
        >>> x = torch.tensor([1.0, 0.5, 0.5, 0.5]).reshape(1, 1, 2, 2)
        >>> found = certify(model, x, torch.tensor([0]), Smoothing(sigma=1.0), progress=False)
        >>> found.prediction.tolist(), 0.7 < found.radius.item() < 1  # the boundary is at distance 1
        ([0], True)

    References:
        Cohen, Rosenfeld, Kolter: Certified adversarial robustness via randomized smoothing. ICML 2019.
    """
    smoothing = Smoothing() if smoothing is None else smoothing
    seed, began = SEED.check("seed", seed, int), time.perf_counter()
    with opened_as_is(model, x, y, device, num_classes, state_dir) as subject:
        ranks = current(subject.device)
        batch_size = batch_size_of(batch_size, subject.x)
        settings = _settings(subject, smoothing, seed, batch_size)
        with shared_state(state_dir, settings, ranks, fresh=fresh) as state, preserved_generators():
            job = _Job(subject, smoothing, seed, batch_size, state, ranks)
            prediction, radius = job.run(progress=progress)
        return Certificates(prediction, radius, subject.y, time.perf_counter() - began, settings)


class _InBatches(PyTorchRandomizedSmoothing):  # type: ignore[misc]
    """ART's, with the same random numbers, without holding all noisy copies of an image at once."""

    def _prediction_counts(self, x: Any, n: int | None = None, batch_size: int = 128) -> Any:
        total = self.sample_size if n is None else n
        sizes = [min(batch_size, total - start) for start in range(0, total, batch_size)]
        return sum(super(_InBatches, self)._prediction_counts(x, n=size, batch_size=size) for size in sizes)


@dataclass(frozen=True)
class _Job:
    """The certification of the images of ``subject``, :data:`_PART` of them at a time."""

    subject: Subject
    smoothing: Smoothing
    seed: int
    batch_size: int
    state: State
    ranks: Ranks

    def run(self, *, progress: bool) -> tuple[Tensor, Tensor]:
        """Prediction and radius ``[N]`` of all images; every rank computes some parts and returns all."""
        n, estimator, own = len(self.subject.y), self._estimator(), {}
        starts = range(0, n, _PART)
        shown = progress and self.ranks.is_first
        with tqdm(desc="certify", unit="image", total=n, disable=None if shown else True) as bar:
            for start in starts[self.ranks.rank :: self.ranks.size]:
                own[start] = self._part(estimator, start)
                bar.update(min(_PART * self.ranks.size, n - start))
        found = {start: part for parts in self.ranks.gather(own) for start, part in parts.items()}
        prediction, radius = (torch.cat([found[start][name] for start in starts]) for name in ("prediction", "radius"))
        return prediction, radius

    def _estimator(self) -> _InBatches:
        return _InBatches(
            ModelView(self.subject.model, self.subject.device, flat=False),
            loss=nn.CrossEntropyLoss(),
            input_shape=tuple(self.subject.x.shape[1:]),
            nb_classes=self.subject.classes,
            clip_values=(0.0, 1.0),
            device_type="gpu" if self.subject.device.type == "cuda" else "cpu",
            sample_size=self.smoothing.selection_samples,
            scale=self.smoothing.sigma,
            alpha=self.smoothing.failure_probability,
        )

    def _part(self, estimator: _InBatches, start: int) -> dict[str, Tensor]:
        """Prediction and radius of the images from ``start`` on, from the state if they are finished."""
        if stored := self.state.load(f"certify-{start}"):
            return stored[0]
        pairs = []
        for index in range(start, min(start + _PART, len(self.subject.y))):
            np.random.seed([self.seed % 2**32, index])  # ART draws from NumPy's global generator
            image = to_unit(self.subject.x[index : index + 1]).float().numpy()
            pairs.append([found.item() for found in estimator.certify(image, self.smoothing.samples, self.batch_size)])
        prediction, radius = zip(*pairs, strict=True)
        tensors = {"prediction": torch.tensor(prediction), "radius": torch.tensor(radius, dtype=torch.float64)}
        self.state.save(f"certify-{start}", tensors, {})
        return tensors


def _settings(subject: Subject, smoothing: Smoothing, seed: int, batch_size: int) -> dict[str, Any]:
    return {
        **asdict(smoothing),
        "seed": seed,
        "batch_size": batch_size,
        "device": subject.device.type,
        "float32": float32_arithmetic(),
        "versions": versions(),
        "model_sha256": hash_model(subject.model),
        "data_sha256": hash_tensors([("x", subject.x), ("y", subject.y)]),
    }
