"""Runs attacks batch by batch: takes up finished batches, re-checks successes, keeps what broke each example first."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from toolkit_ext.data import to_unit
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.running.examples import Examples
from toolkit_ext.evaluation.running.isolation import rng_state, set_rng_state
from toolkit_ext.evaluation.running.recheck import recheck
from toolkit_ext.evaluation.running.state import State
from toolkit_ext.evaluation.suite.flags import Collector, Flag, read_flags, rejected_flag
from toolkit_ext.types import Norm

Stored = tuple[dict[str, Tensor], dict[str, Any]]
"""What one attack did to one batch: tensors, and facts for JSON."""


@dataclass(frozen=True)
class Job:
    """One attack to run: its ``name`` in the results, its ball, and ``perturb``, which maps a batch to attacked inputs.

    ``clean`` is for the images as they are: nothing to re-check, but logits that are not finite are refused.
    ``seed`` is set before each batch where it is given. AutoAttack's own attacks have none: they set theirs, after a
    forward pass that a randomised model may draw numbers in, and every number must be the one that it draws there.
    """

    name: str
    norm: Norm
    eps: float
    perturb: Callable[[Tensor, Tensor], Tensor]
    seed: int | None = None
    recheck_label: bool = True
    clean: bool = False


@dataclass(frozen=True)
class Row:
    """What one attack did: examples ``attempted`` and ``broken``, wall ``seconds``, and the ``accuracy`` after it."""

    attempted: int
    broken: int
    seconds: float
    accuracy: float


@dataclass
class Found:
    """The first adversarial example found for each broken example, in the order of the attacks."""

    attacks: list[str] = field(default_factory=list)
    indices: list[Tensor] = field(default_factory=list)
    inputs: list[Tensor] = field(default_factory=list)
    predictions: list[Tensor] = field(default_factory=list)


@dataclass
class Runner:
    """The state of a running evaluation. ``x`` and ``y`` are on the CPU; batches are moved to ``device``."""

    model: nn.Module
    x: Tensor
    y: Tensor
    device: torch.device
    batch_size: int
    state: State
    bar: tqdm[Any]
    collector: Collector
    rows: dict[str, Row] = field(default_factory=dict)
    flags: list[Flag] = field(default_factory=list)
    found: Found = field(default_factory=Found)

    def __post_init__(self) -> None:
        self.seconds = 0.0
        self._broken = torch.zeros(len(self.x), dtype=torch.bool)

    def take_over(self, examples: Examples) -> None:
        """Count what ``examples`` hold as broken already, with these adversarial examples."""
        self._broken[examples.indices] = True
        self.found.attacks += examples.attacks
        self.found.indices.append(examples.indices)
        self.found.inputs.append(examples.inputs)
        self.found.predictions.append(examples.predictions)

    def once(self, name: str, check: Callable[[], None]) -> None:
        """Run ``check`` for the warnings it logs, or take up those it logged before the evaluation was killed."""
        if stored := self.state.load(name):
            tensors, info = stored
            self._set_rng(tensors)
        else:
            check()
            info = {"messages": self.collector.take()}
            self.state.save(name, self._rng(), info)
        self.flags += read_flags(info["messages"])

    def run(self, job: Job, robust: Tensor) -> Tensor:
        """Attack the examples where ``robust`` ``[N]`` bool is set, in batches; return where they still are."""
        candidates = robust.nonzero().flatten()
        self.bar.set_postfix_str(job.name)
        self.bar.update(len(robust) - len(candidates))
        messages: list[str] = []
        rejected: dict[str, int] = {}
        seconds, after = 0.0, robust.clone()
        # split gives one empty batch where nothing is left.
        parts = list(torch.split(candidates, self.batch_size)) if len(candidates) else []
        for indices, (tensors, info) in zip(parts, self.batches(job, parts), strict=True):
            self._keep(job, indices, tensors)
            after[indices[tensors["broken"]]] = False
            messages += info["messages"]
            seconds += info["seconds"]
            for reason, count in info["rejected"].items():
                rejected[reason] = rejected.get(reason, 0) + count
            self.bar.update(len(indices))
        self.seconds += seconds
        self.flags += read_flags(messages, job.name) + rejected_flag(rejected, job.name)
        self.rows[job.name] = Row(
            len(candidates), int((robust & ~after).sum()), round(seconds, 3), int(after.sum()) / len(after)
        )
        return after

    def batches(self, job: Job, parts: list[Tensor]) -> Iterator[Stored]:
        """The results of the batches that hold the examples ``parts``, in order."""
        for number, indices in enumerate(parts):
            yield self.stored(job, number, indices)

    def stored(self, job: Job, number: int, indices: Tensor) -> Stored:
        """The result of batch ``number``: the one that was saved, or that of an attack, which is saved."""
        name = f"{job.name}-{number:05d}"
        stored = self.state.load(name)
        if stored is None or not self._fits(stored[0], indices):
            stored = self._attack(job, indices)
            self.state.save(name, *stored)
        else:
            self._set_rng(stored[0])
        return stored

    def _fits(self, tensors: dict[str, Tensor], indices: Tensor) -> bool:
        """Whether a stored batch is about these examples, and holds every adversarial example that is needed now."""
        if not torch.equal(tensors["indices"], indices):
            return False
        return not bool((tensors["broken"] & ~self._broken[indices] & ~tensors["kept"]).any())

    def _attack(self, job: Job, indices: Tensor) -> Stored:
        start = time.perf_counter()
        x, y = to_unit(self.x[indices]).to(self.device), self.y[indices].to(self.device)
        if job.seed is not None:
            torch.manual_seed(job.seed)
        with torch.no_grad():
            inputs = job.perturb(x, y)
            logits = self.model(inputs)
        if job.clean and not logits.isfinite().all():
            raise UserError("model: gives NaN or infinite logits on clean images; it cannot be evaluated")
        predictions = logits.max(dim=1)[1]
        drawn = self._rng()
        broken = (predictions != y).cpu()
        label = job.recheck_label and not job.clean
        ok, rejected = recheck(self.model, x[broken], inputs[broken], y[broken], job.norm, job.eps, label=label)
        broken[broken.clone()] = ok
        kept = broken & ~self._broken[indices]
        tensors = {"indices": indices, "broken": broken, "kept": kept, "inputs": inputs[kept].cpu()}
        info = {"messages": self.collector.take(), "rejected": rejected, "seconds": time.perf_counter() - start}
        return {**tensors, "predictions": predictions.cpu(), **drawn}, info

    def _keep(self, job: Job, indices: Tensor, tensors: dict[str, Tensor]) -> None:
        needed = tensors["broken"] & ~self._broken[indices]
        self._broken[indices[needed]] = True
        self.found.attacks += [job.name] * int(needed.sum())
        self.found.indices.append(indices[needed])
        self.found.inputs.append(tensors["inputs"][needed[tensors["kept"]]])
        self.found.predictions.append(tensors["predictions"][needed])

    def _rng(self) -> dict[str, Tensor]:
        return {f"rng.{kind}": state for kind, state in rng_state(self.device).items()}

    def _set_rng(self, tensors: dict[str, Tensor]) -> None:
        state = {key.removeprefix("rng."): value for key, value in tensors.items() if key.startswith("rng.")}
        set_rng_state(state, self.device)
