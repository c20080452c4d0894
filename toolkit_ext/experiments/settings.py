"""What a run is and where it goes; read without torch."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from toolkit_ext import results
from toolkit_ext.bounds import COUNT, SEED, check_options
from toolkit_ext.types import option


@dataclass(frozen=True)
class Experiment:
    """All settings that identify a run.

    ``hyper_parameters`` are those of the method's axes and of the loop, and may make another choice on an axis.
    ``n_train`` and ``n_test`` take the first examples of each part; the test examples are attacked. ``protocol`` names
    the evaluation, by default the usual one of the data set for the norm and ``eps`` of the method's attack.
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

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def run_id(self) -> str:
        """A name made of the main settings and a hash of all of them."""
        settings = json.dumps(asdict(self), sort_keys=True, default=str)
        words = [
            self.data,
            self.backbone,
            self.method,
            f"s{self.seed}",
            hashlib.sha256(settings.encode()).hexdigest()[:8],
        ]
        return results.slug("-".join(word.rstrip("/").rpartition("/")[2] for word in words))


@dataclass(frozen=True)
class RunContext:
    """Folders, device and display of a run; none of them changes the result.

    ``told`` are further facts for the record, such as how the run was chosen.
    """

    results: Path = Path("results")
    output: Path = Path("outputs")
    data_root: Path = Path("data")
    download: bool = False
    device: str = "cpu"
    resume: bool = False
    progress: bool = True
    tables: tuple[str, ...] = ()
    told: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.tables:
            results.check_name("tables", name)


@dataclass(frozen=True)
class Task:
    """A run and the arguments of ``toolkit-ext`` that start it, which its record names."""

    experiment: Experiment
    words: tuple[str, ...]

    @property
    def run_id(self) -> str:
        """The name of the run, of its folder and of its record."""
        return self.experiment.run_id
