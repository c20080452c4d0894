"""Models and data that a command works on, and what the record says of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from toolkit_ext import data
from toolkit_ext.backbones.making import facts_in_words
from toolkit_ext.backbones.own_code import import_modules, is_own_code
from toolkit_ext.cli import console
from toolkit_ext.cli.options import take_reading
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation import Loaded, Protocol, Shape, load
from toolkit_ext.evaluation.loading.models import TIMM, runs_code, takes_weights
from toolkit_ext.evaluation.loading.robustbench import ROBUSTBENCH
from toolkit_ext.experiments.presets import protocol_of
from toolkit_ext.experiments.settings import RunContext

_NETWORKS = f"{TIMM}NAME or FILE.py:FACTORY"


def load_data(
    told: Sequence[Mapping[str, Any]], name: str | None, context: RunContext, values: dict[str, Any]
) -> data.Dataset[data.ImageSet]:
    """The data set called ``name``, or else the one of the checkpoints, of which ``told`` are the recorded facts.

    It is read as for the training of the first checkpoint, if that was on the same data set, but for the options of
    :class:`toolkit_ext.data.Reading` in ``values``, which are taken out.

    Raises:
        UserError: no name, and the checkpoints name no data set or several.
    """
    known = sorted({trained for about in told if (trained := about.get("data", {}).get("name"))})
    if not name and len(known) > 1:
        raise UserError(f"data: the checkpoints were trained on {' and '.join(known)}; give --data")
    if not name and not known:
        raise UserError("data: the checkpoint does not say what it was trained on; give --data")
    name = name or known[0]
    trained = told[0].get("reading", {}) if told[0].get("data", {}).get("name") == name else {}
    return context.open(name, {**trained, **take_reading(values)})


def load_parts(
    dataset: data.Dataset[data.ImageSet], n_train: int, n_test: int, context: RunContext
) -> data.Dataset[Tensor]:
    """The first ``n_train`` training and ``n_test`` test images of ``dataset``, if it has so many, in tensors."""
    few = dataset.subset(min(n_train, len(dataset.y_train)) or None, min(n_test, len(dataset.y_test)))
    return data.in_memory(replace(few, x_validation=None, y_validation=None), context.engine)


def run_own_code(sources: Sequence[str], imports: Sequence[str], attacks: Sequence[str] = ()) -> None:
    """Import the user's modules, and warn once of everything that runs code."""
    import_modules(imports)
    own = [attack for attack in attacks if is_own_code(attack)]
    if programs := [*(source for source in sources if runs_code(source)), *imports, *own]:
        console.say(f"warning: {', '.join(programs)}: files of code, which run when they are loaded")


def load_models(
    sources: Sequence[str], values: Mapping[str, Any], dataset: data.Dataset, device: torch.device
) -> list[Loaded]:
    """The models of ``sources`` (CHECKPOINT arguments) for the images of ``dataset``, with the options of loading."""
    shape = Shape(dataset.num_classes, dataset.in_chans, dataset.image_size)
    named = [source for source in sources if takes_weights(source)]
    weights = iter(_weights_of(named, values["weights"]))
    options = {"backbone_args": values["backbone_arg"], "mean": values["mean"], "std": values["std"]}
    if not named and (extra := next((name for name, value in options.items() if value), None)):
        raise UserError(f"{extra.removesuffix('s').replace('_', '-')}: has no effect without {_NETWORKS}")
    options = {name: value or None for name, value in options.items()} | {"weights_key": values["weights_key"]}
    loaded = []
    for source in sources:
        given = {"weights": next(weights), **options} if source in named else {}
        threat = {"threat": values["threat"]} if source.startswith(ROBUSTBENCH) else {}
        loaded.append(load(source, shape, device=device, **given, **threat))
        for line in facts_in_words(loaded[-1].facts):
            console.say(f"{source}: {line}")
    return loaded


def _weights_of(named: Sequence[str], given: Sequence[str]) -> Sequence[str | None]:
    """The weights of each of the networks ``named``; own code may have brought its own."""
    if not given and all(is_own_code(source) for source in named):
        return [None] * len(named)
    if len(given) != len(named):
        raise UserError(f"weights: {len(given)} files for {len(named)} models of {_NETWORKS}; give one for each")
    return given


def choose_protocols(told: Mapping[str, Any], dataset: data.Dataset, values: Mapping[str, Any]) -> list[Protocol]:
    """The protocols of the options of evaluate, one or several; see :func:`choose_protocol`.

    Raises:
        UserError: an option that is not allowed with several.
    """
    names = [name.strip() for name in (values["protocol"] or "").split(",") if name.strip()]
    if len(names) > 1:
        for option in ("eps", "max_time", "audited"):
            if values[option]:
                text = "is not allowed with several protocols; evaluate them one by one"
                raise UserError(f"{option.replace('audited', 'audit')}: {text}")
        if (kept := values["save_examples"]) and kept.suffix:
            raise UserError(f"save_examples: {kept} is one file for several protocols; give a folder")
    if len(set(names)) < len(names):
        raise UserError(f"protocol: {','.join(names)} has a protocol twice; give each once")
    return [choose_protocol(told, dataset, {**values, "protocol": name}) for name in names or [None]]


def choose_protocol(told: Mapping[str, Any], dataset: data.Dataset, values: Mapping[str, Any]) -> Protocol:
    """The protocol of the options of evaluate; without, the usual one for a model trained as ``told``."""
    protocol = protocol_of(dataset.name, told.get("hyper_parameters", {}), values["protocol"])
    changes: dict[str, Any] = {"version": values["version"]} if values["version"] else {}
    if values["attacks"]:
        # Every evaluation has the union of its attacks.
        changes["attacks"] = tuple(name for name in values["attacks"] if name != "union")
        changes["attack_args"] = values["attack_arg"]
    elif values["attack_arg"]:
        changes["attack_args"] = {**protocol.attack_args, **values["attack_arg"]}
    if len(values["eps"]) == 1:
        changes["eps"] = values["eps"][0]
    return protocol.at(**changes) if changes else protocol


def radius_source(told: Mapping[str, Any], dataset: data.Dataset, values: Mapping[str, Any]) -> str:
    """Where the radius of :func:`choose_protocol` comes from: an option, the checkpoint, or the data set."""
    if values["eps"]:
        return "from --eps"
    if values["protocol"]:
        return "from --protocol"
    trained = told.get("hyper_parameters", {}).get("eps")
    return f"usual for {dataset.name}" if trained is None else "that of the training, from the checkpoint"


def facts_of(
    tells: Mapping[str, Any], name: str, backbone: Mapping[str, Any], dataset: data.Dataset[Any]
) -> dict[str, Any]:
    """The facts for a record of the model called ``name``: the training that its checkpoint ``tells``, and the data."""
    known = {key: value for key, value in tells.items() if key not in ("weights_sha256", "reading")}
    sizes = known.get("data", {"train": 0, "validation": 0})
    unknown = {"method": "unknown", "axes": None, "hyper_parameters": {}, "backbone": dict(backbone), "seed": 0}
    facts: dict[str, Any] = unknown | known
    facts["hyper_parameters"] = {**facts["hyper_parameters"], "checkpoint": name}
    if sizes.get("name", dataset.name) != dataset.name:
        facts["hyper_parameters"]["trained_on"] = sizes["name"]
    facts["data"] = {**sizes, "name": dataset.name, "test": len(dataset.y_test), "num_classes": dataset.num_classes}
    return facts
