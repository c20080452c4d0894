"""The weights after a short epoch, for every way of making passes faster: hashes on known builds, summaries elsewhere.

    python tests/golden/golden_weights.py               # add cases, or this build, that weights.json does not have yet
    python tests/golden/golden_weights.py "lenet bf16"  # measure these anew, after a change that is meant to move them

A build is a version of torch and a processor; all is computed on one thread. Run the first command on a processor that
is new here and has instructions for bf16: hashes of several builds stand side by side, and a case that is measured
anew loses those of the others. weight_cases.py has the cases, mechanisms.py what a training has engaged.

A summary has two numbers a tensor, of how far training moved it: the norm of that, and its product with a fixed vector
of signs. What training leaves alone is in neither, so that little hides in them.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent
from typing import Any

import numpy as np
import torch
from mechanisms import has_bf16, watching  # type: ignore[import-not-found]
from torch import Tensor, nn
from weight_cases import CASES, Case, Network  # type: ignore[import-not-found]

from toolkit_ext import backbones
from toolkit_ext.io import atomic_write
from toolkit_ext.trainers import TRAINERS, as_classifier

FILE = Path(__file__).with_name("weights.json")
CLASSES, BATCHES = 3, 3
# Variables by which libraries are told to use fewer instructions.
LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA", "MKL_CBWR", "MKL_ENABLE_INSTRUCTIONS")
Weights = dict[str, Tensor]
Summary = list[list[float]]


@dataclass(frozen=True)
class Found:
    """What a training gave: hash and summary of its weights (and of their average), what it engaged, what it left."""

    hash: str
    summary: Summary
    engaged: frozenset[str]
    restored: bool


@contextmanager
def one_thread() -> Iterator[None]:
    """Everything on one thread, whose sums have one order."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def images(network: Network) -> tuple[Tensor, Tensor]:
    """Noise with a bright stripe for each class: no two pixels alike, so no ties in a max-pooling."""
    rng = np.random.default_rng(0)
    y = np.arange(BATCHES * network.batch) % CLASSES
    x = 0.5 * rng.random((len(y), *network.shape), dtype=np.float32) + np.float32(0.1)
    for label in range(CLASSES):
        x[y == label, :, 2 * label : 2 * label + 3] += np.float32(0.3)
    return torch.from_numpy(x), torch.from_numpy(y)


def model_of(network: Network) -> nn.Module:
    """The network of a case, always with the same weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        channels, size, _ = network.shape
        model = backbones.create(
            network.name, num_classes=CLASSES, in_chans=channels, image_size=size, **network.arguments
        )
        for name, layer in model.named_modules():
            if isinstance(layer, nn.BatchNorm2d):
                # timm begins with residual branches that add nothing, in which no mistake would show; large ones turn
                # roundings into other trainings.
                layer.weight.data.uniform_(*((0.1, 0.3) if name.endswith("bn2") else (0.5, 1.5)))
                assert layer.running_var is not None
                layer.running_var.uniform_(0.5, 1.5)
        return model


def train(name: str) -> Found:
    """Train the case ``name``."""
    case = Case.of(name)
    model = model_of(case.network)
    trainer = TRAINERS[case.method](as_classifier(model, case.network.shape, CLASSES), **case.options)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    state = _facts(model)
    with one_thread(), watching() as engaged:
        trainer.fit(*images(case.network), batch_size=case.network.batch, nb_epochs=1, progress=False)
    kept = {"trained": model.state_dict()}
    if case.options.get("ema_decay"):
        kept["average"] = trainer.best_state_dict
    summary = [
        _moved(value, before[key]) for w in kept.values() for key, value in w.items() if value.is_floating_point()
    ]
    return Found(_hash(kept), summary, frozenset(engaged), _facts(model) == state)


def _facts(model: nn.Module) -> list[Any]:
    """Classes of layers, types, layouts and so on: what a training leaves as it was, whatever it does meanwhile."""
    weights = [(w.dtype, w.stride(), w.requires_grad) for w in (*model.parameters(), *model.buffers())]
    return [*weights, *(type(layer) for layer in model.modules()), *("forward" in vars(m) for m in model.modules())]


def _hash(kept: dict[str, Weights]) -> str:
    sha = hashlib.sha256()
    for kind, weights in kept.items():
        for name, value in weights.items():
            sha.update(f"{kind} {name} {tuple(value.shape)} {value.dtype}".encode())
            sha.update(value.detach().contiguous().numpy().tobytes())
    return sha.hexdigest()


def _moved(now: Tensor, before: Tensor) -> list[float]:
    """The norm of ``now - before``, and its product with a fixed vector of signs."""
    moved = (now.detach().double() - before.double()).flatten()
    signs = 1 - 2 * torch.from_numpy(np.random.default_rng(0).integers(0, 2, len(moved))).double()
    return [float(f"{float(value):.5g}") for value in (moved.norm(), moved @ signs)]


def difference(found: Summary, expected: Summary) -> float:
    """How far two summaries are apart: the mean over tensors of the larger difference over the norm, at most 1."""
    errors = [_error(*both) for both in zip(found, expected, strict=True)]
    return sum(min(error, 1.0) for error in errors) / len(errors)


def _error(found: list[float], expected: list[float]) -> float:
    apart = max(abs(a - b) for a, b in zip(found, expected, strict=True))
    return apart / expected[0] if expected[0] else float(apart > 0)


def build() -> str:
    """What the bits depend on: torch, the processor, and what takes instructions from either."""
    facts: dict[str, str] = {}
    if platform.system() == "Linux":
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    known = ("vendor_id", "cpu family", "model", "CPU implementer", "CPU part")
    processor = " ".join(facts[key] for key in known if key in facts) or platform.processor()
    limits = [f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ]
    bf16 = "bf16" if has_bf16() else "no bf16"
    return ", ".join([f"torch {torch.__version__}", processor, torch.backends.cpu.get_cpu_capability(), bf16, *limits])


def regenerate(names: list[str]) -> None:
    """Train ``names``, or the cases that are missing here; drop what is no case any more."""
    if unknown := set(names) - set(CASES):
        sys.exit(f"no such case: {', '.join(sorted(unknown))}; weight_cases.py has them")
    known = json.loads(FILE.read_text()) if FILE.exists() else {"hashes": {}, "summaries": {}}
    hashes, summaries = known["hashes"], known["summaries"]
    ours = hashes.setdefault(build(), {})
    for name in CASES:
        is_new = name in names or name not in summaries
        if (is_new or (not names and name not in ours)) and (has_bf16() or not Case.of(name).is_half):
            found = train(name)
            if is_new:
                summaries[name] = found.summary
                for theirs in hashes.values():
                    theirs.pop(name, None)
            ours[name] = found.hash
    hashes = {of: {name: theirs[name] for name in CASES if name in theirs} for of, theirs in hashes.items()}
    lines = [f'    "{name}": {json.dumps(summaries[name])}' for name in CASES if name in summaries]
    builds = indent(json.dumps(hashes, indent=2), "  ").lstrip()
    text = f'{{\n  "hashes": {builds},\n  "summaries": {{\n' + ",\n".join(lines) + "\n  }\n}\n"
    atomic_write(FILE, text)


if __name__ == "__main__":
    regenerate(sys.argv[1:])
