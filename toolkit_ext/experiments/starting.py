"""What a training starts from: code to import, a network, weights, and what of them identifies a run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit_ext.errors import UserError
from toolkit_ext.experiments.settings import Experiment

if TYPE_CHECKING:
    from torch import Tensor

    from toolkit_ext.backbones import Made
    from toolkit_ext.data import Dataset, ImageSet
    from toolkit_ext.evaluation import Protocol
    from toolkit_ext.types import Attack

# For weights that are good already: the rates of a training from scratch would undo them.
_LR = {"sgd": 0.01}
_OTHER_LR = 1e-4


def identity_of_start(experiment: Experiment) -> dict[str, Any]:
    """What identifies the start of a run, by content and never by path; empty for a named network from scratch."""
    found: dict[str, Any] = {}
    if experiment.imports:
        found["imports"] = [_code(name) for name in experiment.imports]
    if is_own(experiment.backbone):
        from toolkit_ext.own_code import identity_of

        found["backbone"] = identity_of(experiment.backbone)
    if own := [attack for attack in experiment.attacks if is_own(attack)]:
        from toolkit_ext.own_code import identity_of

        known = {attack: identity_of(attack, "attacks", "NAME") for attack in own}
        found["attacks"] = [known.get(attack, attack) for attack in experiment.attacks]
    if experiment.weights == "pretrained":
        from toolkit_ext.backbones.making import pretrained_name

        found["weights"] = pretrained_name(experiment.backbone)
    elif file := weights_file(experiment):
        found["weights"] = _sha256(str(file), experiment.weights_key, file.stat().st_mtime_ns if file.is_file() else 0)
    numbers = {"mean": list(experiment.mean), "std": list(experiment.std)}
    return found | {name: values for name, values in numbers.items() if values}


def is_own(name: str) -> bool:
    """Whether ``name``, of a backbone or an attack, is code of the user's own; read without torch."""
    return ".py:" in name


def weights_file(experiment: Experiment) -> Path | None:
    """The file of weights that the training starts from, if there is one."""
    if experiment.init:
        return Path(experiment.init) / "model.safetensors"
    return None if experiment.weights in (None, "pretrained") else Path(str(experiment.weights))


@cache
def _sha256(path: str, key: str | None, changed: int) -> str:
    from toolkit_ext.backbones.weights import read_weights

    return read_weights(path, key).sha256


def _code(name: str) -> str:
    path = Path(name)
    if not name.endswith(".py") or not path.is_file():
        return name
    return f"{path.name}@{hashlib.sha256(path.read_bytes()).hexdigest()}"


def start_of(experiment: Experiment, dataset: Dataset[Tensor | ImageSet]) -> Made:
    """The network of ``experiment`` for the images of ``dataset``, with the weights that its training starts from.

    Raises:
        UserError: what cannot be trained, such as a program or a checkpoint folder; weights that do not fit.
    """
    from toolkit_ext import backbones
    from toolkit_ext.backbones.own_code import import_modules

    import_modules(experiment.imports)
    name = experiment.backbone.removeprefix("timm:")
    if Path(name).suffix in (".pt", ".ts", ".torchscript", ".pt2", ".onnx"):
        raise UserError(f"backbone: {name} is a program, which cannot be trained; give the code that makes the network")
    if name.startswith("robustbench:"):
        raise UserError(f"backbone: {name} can be evaluated only; give the code of the network and --weights")
    if Path(name).is_dir():
        raise UserError(f"backbone: {name} is a folder; give --init {name} to go on from a checkpoint")
    shape = backbones.Shape(dataset.num_classes, dataset.in_chans, dataset.image_size)
    numbers: dict[str, Any] = {"mean": experiment.mean or None, "std": experiment.std or None}
    if experiment.init and not is_own(name):
        cfg = backbones.read_config(experiment.init)["pretrained_cfg"]
        numbers = {key: value or cfg[key] for key, value in numbers.items()}
    weights = "pretrained" if experiment.weights == "pretrained" else weights_file(experiment)
    args, key = experiment.backbone_args, experiment.weights_key
    return backbones.make(name, shape, backbone_args=args, weights=weights, weights_key=key, new_head=True, **numbers)


def check_attack_args(experiment: Experiment, protocol: Protocol, trained: Attack) -> None:
    """See that ``attack_args`` are of attacks by name, and those of the ``trained`` attack among the hyper-parameters.

    Raises:
        UserError: an argument that no attack has, or that would be lost.
    """
    from toolkit_ext.attacks.by_name import check_arguments, taken

    given, columns = experiment.attack_args, list(protocol.named().values())
    check_arguments(given, [*columns, *getattr(trained, "libraries", ())])
    known = taken(given, columns).keys() | (experiment.hyper_parameters.get("attack_args") or {}).keys()
    if lost := sorted(given.keys() - known):
        raise UserError(f"attack_args: {lost[0]} is of the training's attack; give it among hyper_parameters")


def started_from(made: Made) -> dict[str, Any]:
    """Where weights and normalisation come from, for the record and the checkpoints of a run that did not make them."""
    return {"model": made.facts} if made.facts else {}


def as_checkpoint(experiment: Experiment) -> Experiment:
    """``experiment`` with the network of the checkpoint that it starts from.

    Raises:
        UserError: no checkpoint, or one of own code, which the checkpoint cannot make.
    """
    from toolkit_ext import backbones

    config = backbones.read_config(str(experiment.init))
    arguments = {**(config.get("model_args") or {}), **experiment.backbone_args}
    return replace(experiment, backbone=config["architecture"], backbone_args=arguments)


def fine_tuning(experiment: Experiment, defaults: Mapping[str, Any]) -> Experiment:
    """``experiment``, with a learning rate for fine-tuning where it starts from weights and names none.

    Args:
        experiment: What the user asked for.
        defaults: The method's own values.
    """
    if not (experiment.weights or experiment.init) or "lr" in experiment.hyper_parameters:
        return experiment
    optimizer = experiment.hyper_parameters.get("optimizer", defaults.get("optimizer", "sgd"))
    rate = _LR.get(optimizer, _OTHER_LR)
    return replace(experiment, hyper_parameters={**experiment.hyper_parameters, "lr": rate})
