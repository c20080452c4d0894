"""Run attacks batch by batch: reuse finished batches, re-check successes, keep the first adversarial examples.

In a multi-process run each rank attacks whole batches and all ranks collect the same results. Attacks are seeded per
batch, so every image gets the result of a single process, unless the model itself draws random numbers.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from toolkit_ext.attacks.by_name import NamedAttack
from toolkit_ext.errors import UserError
from toolkit_ext.evaluation.loading.checks import Subject
from toolkit_ext.evaluation.protocol import Protocol
from toolkit_ext.evaluation.result import Examples, Flag, Row, add_passes, fraction
from toolkit_ext.evaluation.running.clock import Clock
from toolkit_ext.evaluation.running.isolation import rng_state, set_rng_state
from toolkit_ext.evaluation.running.logits import LogitStore
from toolkit_ext.evaluation.running.recheck import recheck, rejected_flag
from toolkit_ext.evaluation.running.state import State
from toolkit_ext.evaluation.suite.autoattack import Collector, read_flags
from toolkit_ext.evaluation.suite.first_step import first_step_flag, watching
from toolkit_ext.ranks import Ranks, friendly_errors
from toolkit_ext.types import Norm

log = logging.getLogger("toolkit_ext")

Stored = tuple[dict[str, Tensor], dict[str, Any]]
"""Result of one attack on one batch: tensors, and facts for JSON."""


@dataclass(frozen=True)
class Job:
    """One attack to run: its ``name`` in the results, its ball, and ``perturb``, which maps a batch to attacked inputs.

    ``clean`` marks the unperturbed images: no re-check, but their logits must be finite. ``seed`` is set before each
    batch. It is None for AutoAttack, which seeds itself after a forward pass in which the model may draw numbers.
    ``named`` is the attack by name, if it is one, and ``version`` tells its batches from those with other arguments.
    """

    name: str
    norm: Norm
    eps: float
    perturb: Callable[[Tensor, Tensor], Tensor]
    seed: int | None = None
    recheck_label: bool = True
    clean: bool = False
    named: NamedAttack | None = None
    version: str = ""

    @property
    def minimal(self) -> bool:
        """Whether the attack has no radius, so that its examples may lie outside of the ball."""
        return self.named is not None and not self.named.takes_eps


@dataclass
class Runner:
    """The state of a running evaluation.

    ``found`` has attacks, indices, inputs and predictions of the first adversarial example of each broken image;
    ``seconds`` is summed over the ranks. ``attempted`` has the images that each job attacked, and
    ``refuted`` those where the re-check did not find the success that the attack reported. After ``clock`` says that
    time is up, only stored batches are used, and :attr:`judged` is the number of images before the first missing one.
    ``logits`` collects those of every batch, where they are asked for.
    """

    subject: Subject
    batch_size: int
    state: State
    ranks: Ranks
    bar: tqdm[Any]
    collector: Collector = field(default_factory=Collector)
    rows: dict[str, Row] = field(default_factory=dict)
    flags: list[Flag] = field(default_factory=list)
    found: list[tuple[Sequence[str], Tensor, Tensor, Tensor]] = field(default_factory=list)
    seconds: float = 0.0
    clock: Clock = field(default_factory=Clock)
    attempted: dict[str, Tensor] = field(default_factory=dict)
    logits: LogitStore | None = None
    refuted: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._broken = torch.zeros(len(self.subject.x), dtype=torch.bool)
        self.judged = len(self.subject.x)

    def take_over(self, examples: Examples) -> None:
        """Count the images of ``examples`` as already broken."""
        self._broken[examples.indices] = True
        self.found.append((examples.attacks, examples.indices, examples.inputs, examples.predictions))

    def once(self, name: str, check: Callable[[], None]) -> None:
        """Collect the warnings that ``check`` logs, or those stored by an interrupted evaluation."""
        if stored := self.state.load(name, "messages"):
            tensors, info = stored
            self._set_rng(tensors)
        else:
            check()
            info = {"messages": self.collector.take()}
            self.state.save(name, self._rng(), info)
        self.flags += read_flags(info["messages"])

    def run(self, job: Job, robust: Tensor) -> Tensor:
        """Attack the images that are ``robust`` ``[N]`` bool, in batches; return which still are."""
        candidates = robust[: self.judged].nonzero().flatten()
        self.bar.set_postfix_str(job.name)
        self.bar.update(len(robust) - len(candidates))
        messages: list[str] = []
        rejected: Counter[str] = Counter()
        gradients: Counter[str] = Counter()
        passes: list[Counter[str] | None] = []
        seconds, after, refuted = 0.0, robust.clone(), torch.zeros_like(robust)
        parts = list(candidates.split(self.batch_size)) if len(candidates) else []  # split gives one empty batch
        for indices, stored in zip(parts, self._batches(job, parts), strict=True):
            if stored is None:
                self.judged = int(indices[0])
                break
            tensors, info = stored
            self._keep(job, indices, tensors)
            if self.logits is not None:
                self.logits.add(job.name, indices, tensors["logits"], tensors["broken"])
            after[indices[tensors["broken"]]] = False
            messages += info["messages"]
            seconds += info["seconds"]
            rejected.update(info["rejected"])
            # Batches of older versions have none of these.
            refuted[info.get("refuted", [])] = True
            gradients.update(info.get("gradients", {}))
            passes.append(info.get("passes"))
            self.bar.update(len(indices))
        self.seconds += seconds
        flags = read_flags(messages, job.name) + self._rejected(job, rejected, refuted)
        if all(flag.kind != "zero_gradients" for flag in flags):  # pyautoattack warns of its own
            flags += first_step_flag(job.name, gradients["zero"], gradients["seen"])
        self.flags += flags
        share = gradients["zero"] / gradients["seen"] if gradients["seen"] else None
        self.rows[job.name] = Row.of(robust, after, seconds, share, add_passes(*passes))
        self.attempted[job.name] = robust
        return after

    def _rejected(self, job: Job, rejected: Mapping[str, int], refuted: Tensor) -> list[Flag]:
        """Keep which successes the re-check did not find, and warn of them."""
        if job.named or refuted.any():
            self.refuted[job.name] = refuted
        return rejected_flag(rejected, job.name, refuted.nonzero().flatten().tolist(), minimal=job.minimal)

    def _batches(self, job: Job, parts: list[Tensor]) -> Iterator[Stored | None]:
        """Results of the batches ``parts``, in order; each rank attacks some and receives the rest."""
        if self.ranks.alone:
            yield from (self.stored(job, number, indices) for number, indices in enumerate(parts))
            return
        own: dict[int, Stored | None] = {}
        for number in range(self.ranks.rank, len(parts), self.ranks.size):
            with friendly_errors("in the evaluation", self.subject.device):
                own[number] = self.stored(job, number, parts[number])
        found = {number: stored for theirs in self.ranks.gather(own) for number, stored in theirs.items()}
        yield from (found[number] for number in range(len(parts)))

    def stored(self, job: Job, number: int, indices: Tensor) -> Stored | None:
        """The saved result of batch ``number``; attacks and saves it if there is none, unless time is up."""
        name = f"{job.name}{job.version and f'~{job.version}'}-{number:05d}"
        stored = self.state.load(name, "messages", "rejected", "seconds")
        if stored and self._fits(stored[0], indices) and self._sound(job, name, indices, stored[0]):
            self._set_rng(stored[0])
            return stored
        if self.clock.is_up or self.judged < len(self.subject.x):
            return None
        stored = self._attack(job, indices)
        self.state.save(name, *stored)
        return stored

    def _fits(self, tensors: dict[str, Tensor], indices: Tensor) -> bool:
        """Whether a stored batch has these images and every adversarial example needed now."""
        shapes = {name: tuple(value.shape) for name, value in tensors.items()}
        n, image = len(indices), tuple(self.subject.x.shape[1:])
        wanted = {"indices": (n,), "broken": (n,), "kept": (n,), "predictions": (n,)}
        if {**shapes, **wanted} != shapes or not torch.equal(tensors["indices"], indices):
            return False
        if self.logits is not None and shapes.get("logits", ())[:1] != (n,):
            return False
        if shapes.get("inputs") != (int(tensors["kept"].sum()), *image):
            return False
        return not (tensors["broken"] & ~self._broken[indices] & ~tensors["kept"]).any()

    def _sound(self, job: Job, name: str, indices: Tensor, tensors: dict[str, Tensor]) -> bool:
        """Whether the stored successes pass the re-check once more; a batch where one fails is attacked again."""
        x, y = self.subject.batch(indices[tensors["kept"]])
        inputs, label = tensors["inputs"].to(x.device), job.recheck_label and not job.clean
        ok, rejected = recheck(self.subject.model, x, inputs, y, job.norm, job.eps, label=label)
        if rejected:
            log.warning("batch %s: stored successes fail the re-check %s, it is attacked again", name, rejected)
        return bool(ok.all())

    def _attack(self, job: Job, indices: Tensor) -> Stored:
        start = time.perf_counter()
        x, y = self.subject.batch(indices)
        if job.seed is not None:
            torch.manual_seed(job.seed)
        models = (self.subject.model, *filter(None, [self.subject.copied]))
        with torch.no_grad():
            with watching(job.norm, *models) as first:
                inputs = job.perturb(x, y)
            logits = self.subject.model(inputs)
        if job.clean and not logits.isfinite().all():
            raise UserError("model: gives NaN or infinite logits on clean images; it cannot be evaluated")
        predictions = logits.max(dim=1)[1]
        drawn = self._rng()
        broken = (predictions != y).cpu()
        label = job.recheck_label and not job.clean
        ok, rejected = recheck(self.subject.model, x[broken], inputs[broken], y[broken], job.norm, job.eps, label=label)
        refuted = indices[broken][~ok].tolist()
        broken[broken.clone()] = ok
        kept = broken & ~self._broken[indices]
        tensors = {"indices": indices, "broken": broken, "kept": kept, "inputs": inputs[kept].cpu()}
        if self.logits is not None:
            tensors["logits"] = logits.float().cpu()
        info = {"messages": self.collector.take(), "rejected": rejected, "seconds": time.perf_counter() - start}
        info |= {"gradients": {"seen": first.seen, "zero": first.zero}, "passes": first.passes, "refuted": refuted}
        return {**tensors, "predictions": predictions.cpu(), **drawn}, info

    def _keep(self, job: Job, indices: Tensor, tensors: dict[str, Tensor]) -> None:
        needed = tensors["broken"] & ~self._broken[indices]
        self._broken[indices[needed]] = True
        names, inputs = [job.name] * int(needed.sum()), tensors["inputs"][needed[tensors["kept"]]]
        self.found.append((names, indices[needed], inputs, tensors["predictions"][needed]))

    def forget(self, column: str) -> None:
        """Drop what ``column`` found."""
        del self.rows[column], self.attempted[column]
        self.refuted.pop(column, None)
        self.found = [entry for entry in self.found if column not in entry[0]]
        self.flags = [flag for flag in self.flags if flag.attack != column]

    def details(self, robust: Mapping[str, Tensor]) -> dict[str, Row]:
        """The rows, counted on the judged images alone; ``robust`` has the ``[N]`` bool result of each."""
        judged = slice(self.judged)
        return {
            name: replace(
                row,
                attempted=int(self.attempted[name][judged].sum()),
                broken=int((self.attempted[name] & ~robust[name])[judged].sum()),
                accuracy=fraction(robust[name][judged]),
                refuted=int(self.refuted[name][judged].sum()) if name in self.refuted else None,
            )
            for name, row in self.rows.items()
        }

    def examples(self, protocol: Protocol) -> Examples:
        """The adversarial examples, ordered by index."""
        names, *tensors = zip(*self.found, strict=True)
        attacks = list(chain.from_iterable(names))
        indices, inputs, predictions = map(torch.cat, tensors)
        order = indices.argsort()[: int((indices < self.judged).sum())]
        named = tuple(attacks[position] for position in order.tolist())
        balls = {name: protocol.radius(name) for name in self.rows} | {"clean": (protocol.norm, 0.0)}
        labels = self.subject.y[indices][order]
        return Examples(inputs[order], indices[order], labels, predictions[order], named, balls)

    def _rng(self) -> dict[str, Tensor]:
        return {f"rng.{kind}": state for kind, state in rng_state(self.subject.device).items()}

    def _set_rng(self, tensors: dict[str, Tensor]) -> None:
        state = {key.removeprefix("rng."): value for key, value in tensors.items() if key.startswith("rng.")}
        set_rng_state(state, self.subject.device)
