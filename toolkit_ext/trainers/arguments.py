"""The arguments of ``fit``: their types, and a trial step of which nothing remains."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from toolkit_ext.backbones.outputs import check_outputs, reason_of, same_buffers, same_modes
from toolkit_ext.bounds import COUNT, NOT_NEGATIVE
from toolkit_ext.data import ImageSet
from toolkit_ext.data.reading import WORKERS, check_extra
from toolkit_ext.errors import UserError, quoted
from toolkit_ext.fast import detach_computed
from toolkit_ext.trainers.batches import BatchSource, isolated_rng
from toolkit_ext.trainers.callbacks import OnEpoch
from toolkit_ext.trainers.monitor import ValidationSplit
from toolkit_ext.types import LossFn
from toolkit_ext.units import plain, to_python


def check_count(option: str, value: Any) -> int:
    """Return ``value`` as an ``int``.

    Raises:
        UserError: no whole number of at least 1.
    """
    number = to_python(value)
    number = int(number) if isinstance(number, float) and number.is_integer() else number
    return int(COUNT.check(option, number, int))


def _check_flag(option: str, value: Any) -> bool:
    if to_python(value) in (True, False):
        return bool(value)
    raise UserError(f"{option}: {quoted(value)} is not allowed; it must be True or False")


def check_pair(option: str, data: Any) -> tuple[Any, Any]:
    """Return ``data`` if it is a pair of images and labels.

    Raises:
        UserError: it is not.
    """
    if isinstance(data, tuple | list) and len(data) == 2:
        return data[0], data[1]
    parts = f" of {len(data)}" if isinstance(data, tuple | list) else ""
    raise UserError(f"{option}: a {type(data).__name__}{parts} is not allowed; give (images, labels)")


@dataclass(frozen=True)
class FitOptions:
    """Further arguments of ``fit`` and ``fit_generator``."""

    run_dir: str | Path | None = None
    resume: bool = False
    stop_after: int | None = None
    save_every: float = 10.0
    workers: int = 0
    extra_data: Any = None
    extra_fraction: float | None = None
    progress: bool = True
    on_epoch: OnEpoch | Sequence[OnEpoch] = ()
    track: str | Sequence[str] = ()
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.run_dir is not None and (not isinstance(self.run_dir, str | os.PathLike) or not str(self.run_dir)):
            raise UserError(f"run_dir: {quoted(self.run_dir)} is not allowed; give the path of a folder")
        for name in ("resume", "progress"):
            object.__setattr__(self, name, _check_flag(name, getattr(self, name)))
        object.__setattr__(self, "save_every", NOT_NEGATIVE.check("save_every", to_python(self.save_every)))
        object.__setattr__(self, "workers", WORKERS.check("workers", to_python(self.workers), int))
        self._check_extra()
        for callback in self.callbacks:
            if not callable(callback):
                raise UserError(f"on_epoch: {quoted(callback)} is not allowed; give a function, or a list of functions")
        several = isinstance(self.track, list | tuple) and all(isinstance(name, str) for name in self.track)
        if not several and not isinstance(self.track, str):
            raise UserError(f"track: {quoted(self.track)} is not allowed; give names, such as mlflow,tensorboard")
        if self.stop_after is not None:
            object.__setattr__(self, "stop_after", check_count("stop_after", self.stop_after))
        try:
            object.__setattr__(self, "extra", plain(dict(self.extra)))
            json.dumps(self.extra)
        except (TypeError, ValueError) as error:
            shown = f"{quoted(self.extra)} is not allowed ({reason_of(error)})"
            raise UserError(f"extra: {shown}; give names with plain JSON values") from error

    def _check_extra(self) -> None:
        share = to_python(self.extra_fraction)
        object.__setattr__(self, "extra_fraction", check_extra(self.extra_data is not None, share))

    @property
    def callbacks(self) -> tuple[OnEpoch, ...]:
        """``on_epoch`` as a tuple."""
        return tuple(self.on_epoch) if isinstance(self.on_epoch, list | tuple) else (cast(OnEpoch, self.on_epoch),)

    @property
    def trackers(self) -> tuple[str, ...]:
        """``track`` as a tuple, each name once."""
        given = [self.track] if isinstance(self.track, str) else self.track
        names = [word.strip() for name in given for word in name.split(",")]
        return tuple(dict.fromkeys(name for name in names if name))

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> FitOptions:
        """Check the names and build."""
        known = {entry.name for entry in fields(cls)}
        if unknown := given.keys() - known:
            raise UserError(f"fit: no such argument {', '.join(unknown)}; allowed: {', '.join(sorted(known))}")
        return cls(**given)


@dataclass(frozen=True)
class Examples:
    """What a run trains on and measures with, and how its fingerprint names them."""

    source: BatchSource
    validation: ValidationSplit | None
    training: ValidationSplit
    names: Mapping[str, Any]
    batch_size: int

    def close(self) -> None:
        """End the processes that read images ahead."""
        for owner in (self.source, self.validation):
            if isinstance(images := getattr(owner, "x", None), ImageSet):
                images.close()


@contextmanager
def differentiable() -> Iterator[None]:
    """Gradients and full precision, also where the caller has ``no_grad``, ``inference_mode`` or ``autocast``."""
    casting = [kind for kind in ("cpu", "cuda") if torch.is_autocast_enabled(kind)]
    caching = torch.is_autocast_cache_enabled()
    try:
        for kind in casting:
            torch.set_autocast_enabled(kind, False)
        # Within the caller's context, ours would keep the casts of weights from one step to the next.
        torch.set_autocast_cache_enabled(caching and not casting)
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        torch.set_autocast_cache_enabled(caching)
        for kind in casting:
            torch.set_autocast_enabled(kind, True)


def try_step(classifier: Any, model: nn.Module, x: Tensor, y: Tensor, loss_fn: LossFn) -> None:
    """Compute the loss of a batch ``x`` ``[N, C, H, W]`` in training mode; the model's state stays as it is.

    Raises:
        UserError: the ``model`` of ``classifier`` gives no logits for the batch in one of its modes, or the loss is no
            number that depends on the weights.
    """
    check_outputs(model, x, classifier.nb_classes, option="classifier", source="nb_classes is")
    name = getattr(classifier.loss, "__name__", type(classifier.loss).__name__)
    with same_modes(model), same_buffers(model), isolated_rng(0):
        logits = _logits(model.train(), x)
        try:
            loss: Any = loss_fn(logits, y)
        except Exception as error:  # whatever a user's loss raises
            reason = reason_of(error)
            raise UserError(f"loss: {name} cannot take logits {list(logits.shape)} ({reason}); use another") from error
    if not isinstance(loss, Tensor) or loss.numel() != 1:
        found = f"shape {list(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
        raise UserError(f"loss: {name} returns {found}; it must return one number, as a tensor")
    if not any(weight.requires_grad for weight in model.parameters()):
        raise UserError("classifier: all of its weights are frozen; at least one must have requires_grad=True")
    if not loss.requires_grad:
        raise UserError(f"loss: {name} of the logits has no gradient in the weights (detach, no_grad or argmax?)")
    detach_computed(model)


def _logits(model: nn.Module, x: Tensor) -> Tensor:
    shape = list(x.shape)
    try:
        logits: Any = model(x)
    except Exception as error:  # whatever a user's module raises
        if len(x) == 1 and "more than 1 value per channel" in str(error):
            raise UserError("batch_size: 1 is not allowed with this model's batch norm; at least 2") from error
        raise UserError(f"classifier: cannot be trained on batches of shape {shape} ({reason_of(error)})") from error
    if not isinstance(logits, Tensor):
        kind = type(logits).__name__
        raise UserError(f"classifier: returns {kind} in training mode; it must return logits [N, K]")
    return logits
