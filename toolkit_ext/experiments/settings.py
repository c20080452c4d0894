"""What a run is and where it goes; read without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from toolkit_ext import data, results
from toolkit_ext.bounds import COUNT, NOT_NEGATIVE, SEED, check_options
from toolkit_ext.data.reading import Reading, check_extra
from toolkit_ext.errors import UserError, check_choice
from toolkit_ext.experiments.retention import KINDS
from toolkit_ext.trainers.compose import identity
from toolkit_ext.trainers.methods import METHODS
from toolkit_ext.types import option


@dataclass(frozen=True)
class Experiment:
    """All settings that identify a run.

    ``hyper_parameters`` are those of the method's axes and of the loop, and may make another choice on an axis.
    ``n_train`` and ``n_test`` take the first examples of each part; the test examples are attacked. ``protocol`` names
    the evaluation, by default the usual one of the data set for the norm and ``eps`` of the method's attack.

    ``backbone`` is a timm name or own code, ``FILE.py:FACTORY``. Training starts from ``weights`` (a file, or
    ``pretrained`` for timm's; ``weights_key`` chooses in a file that has several), or from the checkpoint folder
    ``init``; ``mean`` and ``std`` are their normalisation. ``imports`` are modules that register networks with timm.
    Weights and code identify a run by their content, not by where they lie.
    ``reading`` has the options of :class:`toolkit_ext.data.Reading` that differ from their defaults.
    ``attack_args`` are the arguments of attacks by name among ``attacks``, see :class:`.Protocol`.
    Each batch has ``extra_fraction`` (0.7 by default) images of the source ``extra_data``, if there is one.
    """

    method: str
    data: str = "digits"
    backbone: str = "lenet"
    backbone_args: Mapping[str, Any] = field(default_factory=dict)
    hyper_parameters: Mapping[str, Any] = field(default_factory=dict)
    epochs: int = option(20, "passes over the training data", COUNT)
    batch_size: int = option(128, "examples in a step", COUNT)
    n_train: int | None = option(None, "use the first N training examples only", COUNT)
    n_test: int | None = option(1000, "attack the first N test examples", COUNT)
    protocol: str | None = None
    attacks: tuple[str, ...] = ()
    seed: int = option(0, "seed of weights, batches and attacks", SEED)
    reading: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    weights_key: str | None = None
    init: str | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    imports: tuple[str, ...] = ()
    extra_data: str | None = None
    extra_fraction: float | None = None
    attack_args: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_options(self)
        if self.weights and self.init:
            raise UserError("init: cannot be given with --weights; both say what the training starts from")
        object.__setattr__(self, "reading", Reading.of(self.reading).given())
        share = check_extra(self.extra_data is not None, self.extra_fraction)
        object.__setattr__(self, "extra_fraction", share)

    @property
    def run_id(self) -> str:
        """A name made of the main settings and a hash of all of them."""
        from toolkit_ext.experiments.starting import identity_of_start

        hashed = {name: value for name, value in asdict(self).items() if name not in _START}
        hashed |= identity_of_start(self)
        for name in ("reading", "extra_data", "extra_fraction", "attack_args"):
            if not hashed[name]:
                del hashed[name]  # runs had no such setting before
        if self.method in METHODS:
            hashed["hyper_parameters"] = identity(METHODS[self.method], self.hyper_parameters)
        settings = json.dumps(hashed, sort_keys=True, default=str)
        words = [
            self.data,
            self.backbone,
            self.method,
            f"s{self.seed}",
            hashlib.sha256(settings.encode()).hexdigest()[:8],
        ]
        return results.slug("-".join(word.rstrip("/").rpartition("/")[2] for word in words))

    def options(self) -> dict[str, Any]:
        """The options of ``toolkit-ext train`` that describe this run, by name."""
        named = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.name not in _NESTED}
        given = {name: value for name, value in named.items() if value is not None or name == "n_test"}
        given = {name: value for name, value in given.items() if name not in _START or value}
        if "imports" in given:
            given["import"] = given.pop("imports")  # as the option is called
        hyper = dict(self.hyper_parameters)
        arguments = {
            "backbone_arg": dict(self.backbone_args),
            "attack_arg": {**(hyper.pop("attack_args", None) or {}), **self.attack_args},
        }
        return {**given, **{name: some for name, some in arguments.items() if some}, **self.reading, **hyper}


_START = ("weights", "weights_key", "init", "mean", "std", "imports")
_NESTED = ("backbone_args", "attack_args", "hyper_parameters", "reading")


def as_yaml(values: Mapping[str, Any]) -> str:
    """Options by name as a YAML file, in the order given, for ``--config``.

    Raises:
        UserError: a value that is no number, text, truth value, list or mapping of them.
    """
    try:
        return str(yaml.safe_dump(_plain(values), sort_keys=False, allow_unicode=True))
    except yaml.representer.RepresenterError as error:
        raise UserError(f"config: {error.args[-1]!r} cannot be written; only numbers, texts and lists can") from error


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


@dataclass(frozen=True)
class RunContext:
    """Folders, device and display of a run; none of them changes the result.

    ``extend`` names a shorter run of the same settings, in ``output`` or by its folder, whose epochs are taken over.
    ``keep`` are the checkpoints that stay when the run is recorded: ``last``, ``best``, ``snapshots``.
    ``told`` are further facts for the record, such as how the run was chosen. ``in_memory``, ``data_workers`` and
    ``cache`` say how images are kept, see :class:`toolkit_ext.data.Engine`; ``save_every`` is in minutes; ``track``
    names trackers, see :mod:`toolkit_ext.trainers.tracking`.
    """

    results: Path = Path("results")
    output: Path = Path("outputs")
    data_root: Path = Path("data")
    download: bool = False
    device: str = "auto"
    resume: bool = False
    extend: str | None = None
    progress: bool = True
    quiet: bool = False
    json_lines: bool = False
    tables: tuple[str, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict)
    in_memory: str = "auto"
    data_workers: int | None = None
    cache: Path | None = None
    save_every: float = 10.0
    keep: tuple[str, ...] = KINDS
    track: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.tables:
            results.check_name("tables", name)
        NOT_NEGATIVE.check("save_every", self.save_every)
        for kind in self.keep:
            check_choice("keep", kind, KINDS)
        assert self.engine

    @property
    def engine(self) -> data.Engine:
        """How images are kept."""
        return data.Engine(self.in_memory, self.data_workers, self.cache)

    def open(self, name: str, reading: Mapping[str, Any]) -> data.Dataset[data.ImageSet]:
        """The data set called ``name``, read as ``reading`` says."""
        return data.open_source(name, root=self.data_root, download=self.download, workers=self.data_workers, **reading)

    def open_extra(
        self, experiment: Experiment, dataset: data.Dataset[data.ImageSet]
    ) -> data.Dataset[data.ImageSet] | None:
        """The extra data of ``experiment`` for a training on ``dataset``; None if it has none."""
        if experiment.extra_data is None:
            return None
        return data.open_extra(
            experiment.extra_data,
            dataset,
            root=self.data_root,
            download=self.download,
            workers=self.data_workers,
            **experiment.reading,
        )


@dataclass(frozen=True)
class Task:
    """A run and the arguments of ``toolkit-ext`` that start it, which its record names."""

    experiment: Experiment
    words: tuple[str, ...]

    @property
    def run_id(self) -> str:
        """The name of the run, of its folder and of its record."""
        return self.experiment.run_id
