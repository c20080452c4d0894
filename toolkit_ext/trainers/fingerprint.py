"""What tells one run from another: a saved state is resumed only where all of this is the same.

A fact that only one side has counts as unknown, so states of older versions can be resumed. Facts are numbers, words
and lists of these. The engine (device, workers, fused kernels) is none of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import numpy as np
import torch
from art.estimators.classification import PyTorchClassifier
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, IterableDataset

from toolkit_ext.backbones.estimators import clip_range, describe, operations_of
from toolkit_ext.data import ImageSet, ImagesInMemory, as_image_set
from toolkit_ext.errors import UserError
from toolkit_ext.trainers.batches import SourceBatch
from toolkit_ext.trainers.compose import AXES, Axes
from toolkit_ext.trainers.generators import LoaderSource, StreamSource, first_batch
from toolkit_ext.trainers.monitor import ValidationSplit
from toolkit_ext.trainers.state import digest

_RENAMED = {"TRADES": "trades", "MART": "mart", "Plain": "plain", "Dual": "dual", "Amp": "amp", "Awp": "awp"}  # of 0.1
_BEFORE = {"extra_data": None}  # what runs had that do not name it
_ENGINE = {"fused", "foreach", "capturable", "differentiable"}
_SHOWN = 8  # a longer list is a digest


def check_fingerprint(saved: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """See that a saved state is of the run that is to go on.

    A setting that only one side has was added or dropped since the state was saved, and counts as unknown. A choice on
    an axis may be given by its name or as an object.

    Raises:
        UserError: it is of another run; the message names what differs.
    """
    saved, ours = _BEFORE | dict(saved), _BEFORE | dict(ours)
    there, here = _by_name(saved), _by_name(ours)
    differing = [f"{k} ({saved[k]} there, {ours[k]} here)" for k in ours if k in saved and there[k] != here[k]]
    if differing:
        raise UserError(f"resume: the checkpoint is of another run: {'; '.join(differing)}")


def _by_name(found: Mapping[str, Any]) -> dict[str, Any]:
    """``found`` with the choices on the axes by name, where an object of one of our classes was given."""
    names = {axis: {kind.__name__: name for name, kind in kinds.items()} | _RENAMED for axis, kinds in AXES.items()}
    return {k: names[k].get(value, value) if k in names else value for k, value in found.items()}


def make_fingerprint(
    names: Mapping[str, Any], axes: Axes, classifier: PyTorchClassifier, optimizer: Optimizer | None, epochs: int
) -> dict[str, Any]:
    """The facts of a run: its ``names``, hyper-parameters, classifier and the caller's own ``optimizer``."""
    found = {**names, **axes.names, **axes.hyper_parameters(), **_object_facts(axes)}
    if axes.loop.lr_schedule != "constant" or axes.names["schedule"] != "constant":
        found["nb_epochs"] = epochs  # what the schedules do depends on it
    found = {name: list(value) if isinstance(value, tuple) else value for name, value in found.items()}
    return found | _classifier_facts(classifier) | _optimizer_facts(optimizer)


def image_facts(images: ImageSet, labels: Tensor) -> dict[str, str]:
    """The training data; a run of one engine goes on with the other.

    ``files`` is the same for both engines, ``data`` is known of images in memory alone.
    """
    if isinstance(images, ImagesInMemory):
        whole = {"data": digest(images.all(), labels)}
    else:
        whole = {} if images.digest else {"data": digest("Dataset", labels)}
    return whole | ({"files": digest(images.identity(), labels)} if images.digest else {})


def held_facts(held: ValidationSplit | None) -> dict[str, Any]:
    """The validation data that the caller gives."""
    if held is None:
        return {"validation": None}
    return {"validation": _whole(as_image_set(held.x), held.y)}


def extra_facts(extra: tuple[ImageSet, Tensor] | None, fraction: float | None) -> dict[str, Any]:
    """The extra training data and its share of each batch."""
    return {} if extra is None else {"extra_data": _whole(*extra), "extra_fraction": fraction}


def _whole(images: ImageSet, labels: Tensor) -> str:
    found = image_facts(images, labels)
    return found.get("files") or found["data"]


def check_weights(saved: Mapping[str, Any], ours: Mapping[str, Any]) -> None:
    """See that the tensors of a saved model fit into ours as they are: torch would cast another precision silently.

    Raises:
        UserError: they do not; the message names the first that differ.
    """
    both = [(name, _form(saved.get(name)), _form(ours.get(name))) for name in dict.fromkeys([*ours, *saved])]
    differing = [f"{name} ({there} there, {here} here)" for name, there, here in both if there != here]
    if differing:
        shown = "; ".join(differing[:3]) + (f"; and {len(differing) - 3} more" if len(differing) > 3 else "")
        raise UserError(f"resume: the checkpoint is of another model: {shown}")


def _form(value: Any) -> str:
    if not isinstance(value, Tensor):
        return "none" if value is None else type(value).__name__
    return f"{str(value.dtype).removeprefix('torch.')} {list(value.shape)}"


def _classifier_facts(classifier: PyTorchClassifier) -> dict[str, Any]:
    """The classifier's loss and its weights of classes, range, preprocessing, and number of trained weights."""
    loss: Any = classifier.loss
    held = dict(loss.named_buffers()) if isinstance(loss, torch.nn.Module) else {}
    return {
        "loss": getattr(loss, "__name__", type(loss).__name__),
        **_settings("loss", {**{"weight": None}, **getattr(loss, "__dict__", {}), **held}, without={"training"}),
        "clip_values": list(clip_range(classifier)),
        "preprocessing": [f"{type(op).__name__} {digest(describe(op))}" for op in operations_of(classifier)],
        "trained_weights": sum(weight.numel() for weight in classifier.model.parameters() if weight.requires_grad),
    }


def _optimizer_facts(optimizer: Optimizer | None) -> dict[str, Any]:
    """Class and settings of the caller's own optimiser, as they are before a schedule changes them."""
    if optimizer is None:
        return {"own_optimizer": None}
    groups = optimizer.param_groups
    settings = {name: _one([group.get(name) for group in groups]) for name in optimizer.defaults}
    sizes = {"groups": _one([len(group["params"]) for group in groups])}
    return {
        "own_optimizer": type(optimizer).__name__,
        **_settings("own_optimizer", {**settings, **sizes}, without=_ENGINE),
    }


def scheduler_facts(scheduler: Any) -> dict[str, Any]:
    """Class and settings of the caller's own scheduler, new; None if a named schedule is used."""
    if scheduler is None:
        return {"own_scheduler": None}
    numbers = {name: value for name, value in vars(scheduler).items() if isinstance(value, bool | int | float | str)}
    return {"own_scheduler": type(scheduler).__name__, **_settings("own_scheduler", numbers, without={"last_epoch"})}


def _object_facts(axes: Axes) -> dict[str, Any]:
    """The fields of the choices on the axes that are no documented hyper-parameters: those of the caller's classes."""
    found: dict[str, Any] = {}
    for axis in AXES:
        part: Any = getattr(axes, axis)
        values = {entry.name: getattr(part, entry.name) for entry in fields(part) if "help" not in entry.metadata}
        found |= _settings(axis, values, without=set())
    return found


def stream_facts(source: StreamSource, first: SourceBatch, seed: int, *, again: bool) -> dict[str, Any]:
    """Length, batch size and first batch of a source; with ``again``, of the batch only what a second reading confirms.

    Workers draw random numbers of their own, so images are compared with those of as many workers. The batch of a
    generator that cannot be opened a second time says nothing: it may be any of its batches.
    """
    found: dict[str, Any] = {"batches": len(source), "batch_size": len(first[0])}
    loader, inside = source.loader, not isinstance(source, LoaderSource)
    # An ART generator is somewhere on its way through its loader, which has one iterator if its workers persist.
    if loader is None or _once(loader) or (inside and loader.persistent_workers):
        return found
    twin = LoaderSource(loader, source.num_classes, source.clip, source.device)
    if inside:
        first = first_batch(twin, seed)
    facts = _digests(first, loader.num_workers)
    confirmed = _digests(first_batch(twin, seed), loader.num_workers) if again else facts
    return found | {name: value for name, value in facts.items() if confirmed[name] == value}


def _once(loader: DataLoader[Any]) -> bool:
    """Whether the data of ``loader`` is an iterator, of which a second reading would take batches away."""
    data = loader.dataset
    return isinstance(data, IterableDataset) and iter(data) is iter(data)


def _digests(batch: SourceBatch, workers: int) -> dict[str, str]:
    return {"first_labels": digest(batch[1]), f"first_images_of_{workers}_workers": digest(batch[0])}


def _settings(owner: str, values: Mapping[str, Any], *, without: set[str]) -> dict[str, Any]:
    named = {name: value for name, value in values.items() if not name.startswith("_") and name not in without}
    return {f"{owner}.{name}": _plain(value) for name, value in named.items()}


def _plain(value: Any) -> Any:
    """``value`` as what a state can hold: numbers, words, short lists; a digest of long ones, the class of the rest."""
    if isinstance(value, Tensor | np.ndarray | np.generic):
        tensor = torch.as_tensor(value).detach()
        return tensor.tolist() if tensor.numel() <= _SHOWN else digest(tensor.double())
    if isinstance(value, list | tuple):
        items = [_plain(item) for item in value]
        return items if len(items) <= _SHOWN else digest(items)
    return value if value is None or isinstance(value, bool | int | float | str) else type(value).__name__


def _one(values: list[Any]) -> Any:
    """The value if all are the same, else the list."""
    plain = [_plain(value) for value in values]
    return plain[0] if all(value == plain[0] for value in plain) else plain
